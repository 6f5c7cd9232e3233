//! Both ends of a configuration, up and reachable, in a lab.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use orfe_test_support::lab::ends::{self, EndSpec, Keys, RunningEnd, Tcp};
use orfe_test_support::lab::program::Program;
use orfe_test_support::lab::{Lab, Side, User};
use orfe_test_support::load::ProxySpec;

use super::config::{Config, End, PoorPath};
use super::measure;
use super::tools::Tools;
use crate::bench::load;

/// Everything that a measurement is made with.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) lab: Lab,
    pub(super) tools: Tools,
    /// Our own programs, where an ordinary user may run them.
    pub(super) programs: PathBuf,
    /// Where programs write what they have to say.
    pub(super) logs: PathBuf,
}

impl Bench {
    /// The path of one of our own programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// A configuration that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) near: Option<RunningEnd>,
    pub(super) far: Option<RunningEnd>,
    relay: Option<Program>,
    /// From the start of the near end's program to the first answer through it.
    pub(super) first_answer_ms: Option<f64>,
}

/// How the near machine reaches the far one.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// By address: through a device, or over the wire.
    Address(std::net::IpAddr),
    /// Through the near end's proxy.
    Proxy(ProxySpec),
    /// By a port of the near machine.
    Port(std::net::SocketAddr),
}

impl Running {
    /// Starts both ends, and a relay before the far one when the path is to be poor. What was started is ended when something
    /// else does not start.
    pub(super) async fn start(bench: &Bench, config: Config, path: Option<PoorPath>) -> Result<Self> {
        let mut running = Self {
            near: None,
            far: None,
            relay: None,
            first_answer_ms: None,
        };
        match running.start_all(bench, config, path).await {
            Ok(()) => Ok(running),
            Err(error) => {
                running.stop().await;
                Err(error)
            }
        }
    }

    async fn start_all(&mut self, bench: &Bench, config: Config, path: Option<PoorPath>) -> Result<()> {
        let keys = Keys::generate();
        let (near, far) = config.ends();
        let (near_program, far_program) = (program(bench, near)?, program(bench, far)?);
        let spec = |side, program, endpoint| EndSpec {
            side,
            program,
            keys: &keys,
            endpoint,
            logs: &bench.logs,
        };
        if let Some(program) = &far_program {
            self.far = Some(start(bench, &spec(Side::Far, program, ends::far_endpoint()), far).await?);
        }
        let endpoint = match path {
            None => ends::far_endpoint(),
            Some(path) => {
                let (relay, endpoint) = start_relay(bench, path).await?;
                self.relay = Some(relay);
                endpoint
            }
        };
        let begun = Instant::now();
        if let Some(program) = &near_program {
            self.near = Some(start(bench, &spec(Side::Near, program, endpoint), near).await?);
        }
        measure::first_answer(bench, &self.way(config)?).await?;
        self.first_answer_ms = Some(begun.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    /// How the near machine reaches the far one.
    pub(super) fn way(&self, config: Config) -> Result<Way> {
        Ok(match config.ends().0 {
            End::Wire => Way::Address(Side::Far.wire()),
            End::Onetun => Way::Port(onetun_port()),
            near if near.is_userspace() => {
                let proxy = self.near.as_ref().and_then(|near| near.proxy.clone());
                Way::Proxy(proxy.context("the near end announced no proxy")?)
            }
            _ => Way::Address(ends::inner(Side::Far).into()),
        })
    }

    fn end(&self, side: Side) -> Option<&RunningEnd> {
        match side {
            Side::Near => self.near.as_ref(),
            Side::Far => self.far.as_ref(),
        }
    }

    /// The process of the side's end.
    pub(super) fn pid(&self, side: Side) -> Option<u32> {
        self.end(side)?.program.pid()
    }

    /// The TCP of the side's end, where it has one of its own and says so.
    pub(super) fn tcp(&self, side: Side) -> Option<&Tcp> {
        self.end(side)?.tcp.as_ref()
    }

    /// Ends all of it.
    pub(super) async fn stop(self) {
        for end in [self.near, self.far].into_iter().flatten() {
            if end.proxy.is_some() {
                end.program.stop().await;
            } else {
                end.program.kill().await;
            }
        }
        if let Some(relay) = self.relay {
            relay.stop().await;
        }
    }
}

/// onetun's port on the near machine.
fn onetun_port() -> std::net::SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, ends::SERVICE).into()
}

/// The program of an end; none for the wire. Fails when it could not be had.
fn program(bench: &Bench, end: End) -> Result<Option<PathBuf>> {
    let tool = match end {
        End::Wire => return Ok(None),
        End::Orfe(_) => return Ok(Some(bench.program("tunnel-end"))),
        End::WireguardGoDebian => &bench.tools.wireguard_go_debian,
        End::WireguardGo => &bench.tools.wireguard_go,
        End::Boringtun => &bench.tools.boringtun,
        End::Onetun => &bench.tools.onetun,
    };
    tool.clone().map(Some).map_err(|reason| anyhow!(reason))
}

async fn start(bench: &Bench, spec: &EndSpec<'_>, end: End) -> Result<RunningEnd> {
    let running = match end {
        End::Orfe(mode) if end.is_ordinary() => spec.start_orfe(&bench.lab, mode, User::Ordinary).await,
        End::Orfe(mode) => spec.start_orfe(&bench.lab, mode, User::Root).await,
        End::Boringtun => spec.start_wireguard(&bench.lab, &["-f", "--disable-drop-privileges"]),
        End::Onetun => return start_onetun(bench, spec),
        End::Wire | End::WireguardGo | End::WireguardGoDebian => spec.start_wireguard(&bench.lab, &["-f"]),
    };
    running.map_err(|error| match std::error::Error::source(&error) {
        // The program's own words say which end it is.
        Some(source) => anyhow!("{source}"),
        None => anyhow!(error),
    })
}

/// onetun takes all by its environment, and forwards a port.
fn start_onetun(bench: &Bench, spec: &EndSpec<'_>) -> Result<RunningEnd> {
    // Its folder is the builder's own, perhaps; the copy is everybody's.
    let copy = bench.program("onetun");
    if !copy.is_file() {
        std::fs::copy(spec.program, &copy).context("cannot copy onetun")?;
    }
    let mut command = bench.lab.command(spec.side, User::Ordinary, &copy);
    let far = ends::inner(Side::Far);
    command
        .arg(format!("{}:{far}:{}", onetun_port(), ends::SERVICE))
        .env("ONETUN_ENDPOINT_ADDR", spec.endpoint.to_string())
        .env(
            "ONETUN_ENDPOINT_PUBLIC_KEY",
            spec.keys.peer_of(spec.side).public_key().to_string(),
        )
        .env("ONETUN_PRIVATE_KEY", spec.keys.of(spec.side).to_base64().as_str())
        .env("ONETUN_SOURCE_PEER_IP", ends::inner(spec.side).to_string())
        .env("ONETUN_MTU", ends::MTU.to_string())
        .env("ONETUN_LOG", "error");
    let program = Program::start(command, "onetun", &bench.logs).context("cannot start onetun")?;
    Ok(RunningEnd {
        program,
        proxy: None,
        tcp: Some(Tcp {
            stack: "smoltcp".to_owned(),
            congestion_control: None,
        }),
    })
}

/// A relay on the far machine, before its end.
async fn start_relay(bench: &Bench, path: PoorPath) -> Result<(Program, std::net::SocketAddr)> {
    let impair: &Path = &bench.program("impair");
    let mut command = bench.lab.command(Side::Far, User::Root, impair);
    command
        .args(["--listen", &format!("{}:0", Side::Far.wire())])
        .args(["--target", &ends::far_endpoint().to_string()])
        .args(["--delay-ms", &path.delay_ms.to_string()])
        .args(["--loss-percent", &path.loss_percent.to_string()]);
    if let Some(rate) = path.bottleneck_mbit_s {
        command.args(["--rate-mbit-s", &rate.to_string()]);
    }
    let mut relay = Program::start(command, "relay", &bench.logs).context("cannot start the relay")?;
    let ready = relay.hear(load::PATIENCE).await?;
    let address = ready["listening"]
        .as_str()
        .context("the relay names no address")?;
    let address = address.parse().context("the relay's address is odd")?;
    Ok((relay, address))
}
