//! A whole system that is measured: a device (`orfe run` in userspace mode) in one namespace; registry, gateway and a stand-in
//! Coder in the other.

mod ground;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orfe_test_support::lab::program::Program;
use orfe_test_support::lab::{self, Side, User};
use orfe_test_support::load::{Direction, Job, ProxyProtocol, ProxySpec, Work};
use serde_json::{Map, Value};

use self::ground::Ground;
use super::Outcome;
use super::proc::{Process, Reading};
use crate::demo::artifacts::{self, Programs, Request};
use crate::interrupt::Interrupts;

const CODER: &str = "coder.demo.internal";
/// The load's server as devices know it, and its port on the far machine.
const LOAD: &str = "load.demo.internal";
const LOAD_PORT: u16 = 5201;
/// For everything that should take some seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// The way up from a lower rung: its pauses begin with 3 s and 5 s.
const CLIMB: Duration = Duration::from_secs(90);

/// Builds what such a system is made of and measures with it, until that is done or somebody interrupts.
pub(super) async fn with_programs(
    unoptimised: bool,
    measure: impl AsyncFnOnce(Programs) -> Result<Outcome>,
) -> Result<Outcome> {
    if let Some(reason) = lab::obstacle() {
        bail!("that cannot be measured here: {reason}");
    }
    let request = Request {
        packages: &["orfe", "orfe-registry", "orfe-test-support"],
        release: !unoptimised,
    };
    let programs = artifacts::build(&request).await?;
    let mut interrupts = Interrupts::listen()?;
    // Whatever ends this future takes programs and namespaces with it: both end when they are dropped.
    tokio::select! {
        outcome = measure(programs) => outcome,
        () = interrupts.next() => bail!("interrupted; nothing is left behind"),
    }
}

/// What stands between the device and the gateway's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// Nothing.
    Plain,
    /// The relay `impair`, as a NAT whose mapping can be moved.
    BehindNat,
}

/// See the module. The programs go before the namespaces that they are in.
pub(super) struct Site {
    agent: Program,
    registry: Option<Program>,
    nat: Option<Program>,
    _coder: Program,
    proxy: ProxySpec,
    /// The last part of the device's address.
    host: u8,
    ground: Ground,
}

impl Site {
    /// Starts everything, joins the device and waits until it is healthy. The programs' logs go into `logs`, or go away.
    pub(super) async fn start(programs: Programs, network: Network, logs: Option<&Path>) -> Result<Self> {
        let ground = Ground::prepare(programs, network, logs)?;
        let coder = ground.start_coder().await?;
        let nat = ground.start_nat().await?;
        let registry = ground.start_registry().await?;
        ground.join()?;
        let agent = ground.start_agent()?;
        wait(&ground, &agent, "a healthy device", PATIENCE, |status| {
            status["health"] == "healthy"
        })
        .await?;
        Ok(Self {
            proxy: proxy(&ground)?,
            agent,
            registry: Some(registry),
            nat,
            _coder: coder,
            host: 1,
            ground,
        })
    }

    /// A fetch of Coder's page through the device's proxy.
    pub(super) fn fetch(&self) -> tokio::process::Command {
        let lab = &self.ground.lab;
        let mut command = lab.command(Side::Near, User::Root, Path::new("curl"));
        command
            .args(["--silent", "--insecure", "--fail", "--max-time", "20"])
            .arg("--proxy")
            .arg(format!(
                "http://{}:{}@{}",
                self.proxy.user, self.proxy.password, self.proxy.address
            ))
            .arg(format!("https://{CODER}/healthz"))
            .stdout(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        command
    }

    /// The load's server, which devices may reach.
    pub(super) async fn serve_load(&self) -> Result<Program> {
        let mut command = self.ground.command(Side::Far, "tunnel-load")?;
        command.args(["serve", &format!("127.0.0.1:{LOAD_PORT}")]);
        let mut server = self.ground.start(command, "load-server")?;
        server.hear(PATIENCE).await?;
        Ok(server)
    }

    /// The load's client beside the device, told to send or receive as much as goes on one stream through the device's proxy.
    pub(super) async fn drive_load(&self, direction: Direction) -> Result<Program> {
        let mut command = self.ground.command(Side::Near, "tunnel-load")?;
        command.arg("drive");
        let mut driver = self.ground.start(command, "load-client")?;
        let job = Job {
            to: format!("{LOAD}:{LOAD_PORT}"),
            proxy: Some(self.proxy.clone()),
            work: Work::Flow {
                streams: 1,
                direction,
            },
        };
        driver.say(&serde_json::to_string(&job)?).await?;
        Ok(driver)
    }

    /// What the agent with its helper, and the registry with its gateway, have used so far.
    pub(super) fn readings(&self) -> Result<[Reading; 2]> {
        let registry = self.registry.as_ref().and_then(Program::pid);
        Ok([
            Process(self.agent.pid().context("the agent ended")?).read_with_helper()?,
            Process(registry.context("the registry ended")?).read()?,
        ])
    }

    /// Which TCP device and gateway have, as rows say it.
    pub(super) fn tcp_stacks(&self) -> Result<Map<String, Value>> {
        let (device, gateway) = (self.status(), self.ground.gateway()?);
        let (device, gateway) = (&device["tunnel"], &gateway["tcp"]);
        Ok(Map::from_iter([
            ("tcp_stack".to_owned(), device["tcp_stack"].clone()),
            (
                "congestion_control".to_owned(),
                device["congestion_control"].clone(),
            ),
            ("far_tcp_stack".to_owned(), gateway["stack"].clone()),
            (
                "far_congestion_control".to_owned(),
                gateway["congestion_control"].clone(),
            ),
        ]))
    }

    /// Gives the device another address; the old one goes first.
    pub(super) fn move_device(&mut self) -> Result<()> {
        self.host = if self.host == 77 { 78 } else { 77 };
        let lab = &self.ground.lab;
        lab.ip(Side::Near, "-4 address flush dev wire")?;
        let address = format!("address replace 198.18.0.{}/24 dev wire", self.host);
        Ok(lab.ip(Side::Near, &address)?)
    }

    /// Lets the NAT forget the device: its datagrams have another source from now on, and the old one leads nowhere.
    pub(super) async fn move_nat(&mut self) -> Result<()> {
        let nat = self.nat.as_mut().context("there is no NAT here")?;
        nat.ask("move client", PATIENCE).await?;
        Ok(())
    }

    pub(super) fn link(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        let lab = &self.ground.lab;
        Ok(lab.ip(Side::Near, &format!("link set wire {state}"))?)
    }

    /// Stops the agent as it is, or lets it go on.
    pub(super) fn freeze(&self, stop: bool) -> Result<()> {
        let pid = self.agent.pid().context("the agent ended")?;
        let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Lets nothing out of the device that fits one of these expressions of nftables.
    pub(super) fn block(&self, expressions: &[&str]) -> Result<()> {
        Ok(self.ground.lab.at(Side::Near).block(expressions)?)
    }

    /// Lets nothing into the device that fits one of these expressions of nftables.
    pub(super) fn block_incoming(&self, expressions: &[&str]) -> Result<()> {
        Ok(self.ground.lab.at(Side::Near).block_incoming(expressions)?)
    }

    /// Lets everything out and in again, and waits until the first rung is in use.
    pub(super) async fn unblock_and_wait(&self) -> Result<()> {
        self.ground.lab.at(Side::Near).unblock()?;
        self.wait_for_carrier("udp", CLIMB).await
    }

    /// Waits until the tunnel is over this carrier because those above it are blocked.
    pub(super) async fn wait_for_lower_carrier(&self, expected: &str) -> Result<()> {
        self.wait_for_carrier(expected, PATIENCE).await
    }

    async fn wait_for_carrier(&self, expected: &str, limit: Duration) -> Result<()> {
        let what = format!("the tunnel over {expected}");
        wait(&self.ground, &self.agent, &what, limit, |status| {
            carrier(status) == Some(expected)
        })
        .await
    }

    /// Fails when the tunnel is over another carrier now.
    pub(super) fn expect_carrier(&self, expected: &str) -> Result<()> {
        let status = self.status();
        match carrier(&status) {
            Some(found) if found == expected => Ok(()),
            _ => bail!("the tunnel has left {expected}: {status}"),
        }
    }

    /// Kills registry and gateway and starts others on the same folder and ports.
    pub(super) async fn replace_registry(&mut self) -> Result<()> {
        if let Some(registry) = self.registry.take() {
            registry.kill().await;
        }
        self.registry = Some(self.ground.start_registry().await?);
        Ok(())
    }

    /// How the kernel's TCP in the device's namespaces controls congestion.
    pub(super) fn congestion_control(&self) -> Result<String> {
        let near = self.ground.lab.at(Side::Near);
        Ok(near.read_sysctl("ipv4/tcp_congestion_control")?)
    }

    /// What the device says of itself.
    pub(super) fn status(&self) -> Value {
        self.ground.status()
    }
}

async fn wait(
    ground: &Ground,
    agent: &Program,
    what: &str,
    limit: Duration,
    condition: impl Fn(&Value) -> bool,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = ground.status();
        if condition(&status) {
            return Ok(());
        }
        if begun.elapsed() > limit {
            bail!("still waiting for {what}: {status}\n{}", agent.log());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn carrier(status: &Value) -> Option<&str> {
    status["tunnel"]["carrier"]["carrier"].as_str()
}

/// The proxy of the device's first slot.
fn proxy(ground: &Ground) -> Result<ProxySpec> {
    let seat: Value = serde_json::from_slice(&std::fs::read(ground.path("state/proxy-0.json"))?)?;
    let port = seat["port"].as_u64().context("no port of the proxy")?;
    Ok(ProxySpec {
        protocol: ProxyProtocol::Connect,
        address: (std::net::Ipv4Addr::LOCALHOST, u16::try_from(port)?).into(),
        user: "orfe".to_owned(),
        password: seat["credential"].as_str().context("no credential")?.to_owned(),
    })
}
