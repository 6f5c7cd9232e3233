//! The system that is measured: a device in one namespace, all else in the other.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orfe_test_support::lab::program::Program;
use orfe_test_support::lab::{Lab, Side, User};
use serde_json::Value;
use tempfile::TempDir;

use crate::demo::artifacts::Programs;

const CODER: &str = "coder.demo.internal";
/// For everything that should take some seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// The way up from a lower rung: its pauses begin with 3 s and 5 s.
const CLIMB: Duration = Duration::from_secs(90);

/// See the module. The programs go before the namespaces that they are in.
pub(super) struct Site {
    agent: Program,
    registry: Option<Program>,
    nat: Program,
    _coder: Program,
    coder: SocketAddr,
    proxy: String,
    /// The last part of the device's address.
    host: u8,
    programs: Programs,
    logs: PathBuf,
    folder: TempDir,
    lab: Lab,
}

impl Site {
    /// Starts everything, joins the device and waits until it is healthy. The programs' logs go into `logs`, or go away.
    pub(super) async fn start(programs: Programs, logs: Option<&Path>) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("orfe-roam-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in("/tmp")?;
        for name in ["coder", "bin"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let logs = logs.map_or_else(|| folder.path().join("log"), Path::to_owned);
        std::fs::create_dir(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        write_private(&folder.path().join("psk"), "psk-5f0c2d8e1b7a4936")?;
        std::os::unix::fs::symlink(
            programs.path("terraform-stand-in")?,
            folder.path().join("bin/terraform"),
        )?;
        let lab = Lab::new("oroam")?;
        let mut coder = lab.command(Side::Far, User::Root, programs.path("coder-stand-in")?);
        coder
            .args([
                "serve",
                "--listen",
                "127.0.0.1:8443",
                "--name",
                CODER,
                "--tls-self",
            ])
            .arg(folder.path().join("coder"))
            .arg("--psk-file")
            .arg(folder.path().join("psk"));
        let mut coder = Program::start(coder, "coder", &logs)?;
        let ready = coder.hear(PATIENCE).await?;
        let address = ready["listening"]
            .as_str()
            .context("an odd line of the stand-in")?;
        let mut nat = lab.command(Side::Far, User::Root, programs.path("impair")?);
        let front = SocketAddr::new(Side::Far.wire(), 4500);
        let gateway = SocketAddr::new(Side::Far.wire(), 51820);
        nat.args(["--listen", &front.to_string(), "--target", &gateway.to_string()]);
        let mut nat = Program::start(nat, "nat", &logs)?;
        nat.hear(PATIENCE).await?;
        let coder_address = address.parse()?;
        let registry = start_registry(&lab, &programs, folder.path(), coder_address, &logs).await?;
        join(&lab, &programs, folder.path())?;
        let agent = start_agent(&lab, &programs, folder.path(), &logs)?;
        let mut site = Self {
            agent,
            registry: Some(registry),
            nat,
            _coder: coder,
            coder: coder_address,
            proxy: String::new(),
            host: 1,
            programs,
            logs,
            folder,
            lab,
        };
        site.wait("a healthy device", PATIENCE, |status| {
            status["health"] == "healthy"
        })
        .await?;
        let seat = std::fs::read(site.folder.path().join("state/proxy-0.json"))?;
        let seat: Value = serde_json::from_slice(&seat)?;
        let credential = seat["credential"].as_str().context("no credential")?;
        site.proxy = format!("http://orfe:{credential}@127.0.0.1:{}", seat["port"]);
        Ok(site)
    }

    /// A fetch of Coder's page through the device's proxy.
    pub(super) fn fetch(&self) -> tokio::process::Command {
        let mut command = self.lab.command(Side::Near, User::Root, Path::new("curl"));
        command
            .args([
                "--silent",
                "--insecure",
                "--fail",
                "--max-time",
                "20",
                "--proxy",
                &self.proxy,
            ])
            .arg(format!("https://{CODER}/healthz"))
            .stdout(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        command
    }

    /// Gives the device another address; the old one goes first.
    pub(super) fn move_device(&mut self) -> Result<()> {
        self.host = if self.host == 77 { 78 } else { 77 };
        self.lab.ip(Side::Near, "-4 address flush dev wire")?;
        self.address()
    }

    fn address(&self) -> Result<()> {
        let address = format!("address replace 198.18.0.{}/24 dev wire", self.host);
        Ok(self.lab.ip(Side::Near, &address)?)
    }

    /// Lets the NAT forget the device: its datagrams have another source from now on, and the old one leads nowhere.
    pub(super) async fn move_nat(&mut self) -> Result<()> {
        self.nat.ask("move client", PATIENCE).await?;
        Ok(())
    }

    pub(super) fn link(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        Ok(self.lab.ip(Side::Near, &format!("link set wire {state}"))?)
    }

    /// Stops the agent as it is, or lets it go on.
    pub(super) fn freeze(&self, stop: bool) -> Result<()> {
        let pid = self.agent.pid().context("the agent ended")?;
        let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Lets nothing out of the device that fits one of these expressions of nftables.
    pub(super) fn block(&self, expressions: &[&str]) -> Result<()> {
        Ok(self.lab.at(Side::Near).block(expressions)?)
    }

    /// Lets everything out again, once the carrier is what the change left, and waits until the first rung is in use.
    pub(super) async fn unblock_and_wait(&self, expected: &str) -> Result<()> {
        let carrier = |status: &Value| status["tunnel"]["carrier"]["carrier"].as_str().map(str::to_owned);
        self.wait(expected, PATIENCE, |status| {
            carrier(status).as_deref() == Some(expected)
        })
        .await?;
        self.lab.at(Side::Near).unblock()?;
        self.wait("the tunnel over UDP again", CLIMB, |status| {
            carrier(status).as_deref() == Some("udp")
        })
        .await
    }

    /// Kills registry and gateway and starts others on the same folder and ports.
    pub(super) async fn replace_registry(&mut self) -> Result<()> {
        if let Some(registry) = self.registry.take() {
            registry.kill().await;
        }
        let folder = self.folder.path();
        let registry = start_registry(&self.lab, &self.programs, folder, self.coder, &self.logs).await?;
        self.registry = Some(registry);
        Ok(())
    }

    /// How the kernel's TCP in the device's namespaces controls congestion.
    pub(super) fn congestion_control(&self) -> Result<String> {
        Ok(self
            .lab
            .at(Side::Near)
            .read_sysctl("ipv4/tcp_congestion_control")?)
    }

    /// What the device says of itself.
    pub(super) fn status(&self) -> Value {
        let output = agent(&self.lab, &self.programs, self.folder.path())
            .and_then(|mut command| Ok(command.args(["status", "--json"]).output()?));
        let parsed = output.map(|output| serde_json::from_slice(&output.stdout).unwrap_or_default());
        parsed.unwrap_or_default()
    }

    async fn wait(&self, what: &str, limit: Duration, condition: impl Fn(&Value) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if condition(&status) {
                return Ok(());
            }
            if begun.elapsed() > limit {
                bail!("still waiting for {what}: {status}\n{}", self.agent.log());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn start_registry(
    lab: &Lab,
    programs: &Programs,
    folder: &Path,
    coder: SocketAddr,
    logs: &Path,
) -> Result<Program> {
    let shown = folder.display();
    let wire = Side::Far.wire();
    let config = format!(
        "listen = \"{wire}:7443\"\npublic_url = \"https://{wire}:7443\"\nwireguard = \"{wire}:51820\"\n\
         wireguard_endpoint = \"{wire}:4500\"\ndashboard = \"127.0.0.1:7480\"\n\
         [coder]\nurl = \"https://{CODER}\"\npsk_file = \"{shown}/psk\"\nca_file = \"{shown}/coder/ca.pem\"\n\
         [tunnel]\nalso_listen = [\"{wire}:443\"]\n\
         [[policy.allow]]\nname = \"{CODER}\"\nports = [443]\nupstream = \"{coder}\"\n"
    );
    let file = folder.join("registry.toml");
    std::fs::write(&file, config)?;
    let mut command = registry(lab, programs, folder)?;
    command.args(["serve", "--json", "--config"]).arg(file);
    let mut registry = Program::start(command, "registry", logs)?;
    registry.hear(PATIENCE).await?;
    Ok(registry)
}

fn join(lab: &Lab, programs: &Programs, folder: &Path) -> Result<()> {
    let made = registry(lab, programs, folder)?
        .args(["join-code", "create"])
        .output()?;
    let code = String::from_utf8(made.stdout)?;
    let mut command = agent(lab, programs, folder)?;
    // Used up at once, and of no use to anybody then.
    succeed(command.args(["join", code.trim(), "--name", "roamer"]))
}

fn start_agent(lab: &Lab, programs: &Programs, folder: &Path, logs: &Path) -> Result<Program> {
    let mut command = agent(lab, programs, folder)?;
    command.arg("run");
    Ok(Program::start(command, "agent", logs)?)
}

fn registry(lab: &Lab, programs: &Programs, folder: &Path) -> Result<Command> {
    let mut command = lab.command(Side::Far, User::Root, programs.path("orfe-registry")?);
    command.arg("--data").arg(folder.join("registry"));
    Ok(command)
}

fn agent(lab: &Lab, programs: &Programs, folder: &Path) -> Result<Command> {
    let mut command = lab.command(Side::Near, User::Root, programs.path("orfe")?);
    let config = folder.join("agent.toml");
    if !config.exists() {
        write_private(&config, "")?;
    }
    command
        .arg("--config")
        .arg(config)
        .arg("--state")
        .arg(folder.join("state"))
        .arg("--control")
        .arg(folder.join("agent.sock"))
        .env("ORFE_CODER_BIN", programs.path("coder-stand-in-child")?)
        .env("ORFE_CONTAINERS", "off")
        .env("PATH", path_with(folder.join("bin"))?);
    Ok(command)
}

fn path_with(folder: PathBuf) -> Result<std::ffi::OsString> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(std::env::split_paths(&own).chain([folder]))?)
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
