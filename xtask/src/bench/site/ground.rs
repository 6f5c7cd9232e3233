//! Where a site stands, and how its programs are started there.

use std::fs::Permissions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use orfe_test_support::lab::program::Program;
use orfe_test_support::lab::{Lab, Side, User};
use serde_json::Value;
use tempfile::TempDir;

use super::{CODER, LOAD, LOAD_PORT, Network, PATIENCE};
use crate::demo::artifacts::Programs;

/// Where the stand-in for Coder listens, on the far machine.
const CODER_LISTENS: &str = "127.0.0.1:8443";
/// Ports of the far machine: the gateway's, the NAT's before it, and the registry's.
const GATEWAY: u16 = 51820;
const NAT: u16 = 4500;
const REGISTRY: u16 = 7443;

/// See the module.
#[derive(Debug)]
pub(super) struct Ground {
    programs: Programs,
    logs: PathBuf,
    network: Network,
    folder: TempDir,
    pub(super) lab: Lab,
}

impl Ground {
    /// Makes folders and namespaces. The programs' logs go into `logs`, or go away.
    pub(super) fn prepare(programs: Programs, network: Network, logs: Option<&Path>) -> Result<Self> {
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
        write_private(&folder.path().join("agent.toml"), "")?;
        std::os::unix::fs::symlink(
            programs.path("terraform-stand-in")?,
            folder.path().join("bin/terraform"),
        )?;
        Ok(Self {
            programs,
            logs,
            network,
            folder,
            lab: Lab::new("oroam")?,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn start(&self, command: Command, name: &str) -> Result<Program> {
        Ok(Program::start(command, name, &self.logs)?)
    }

    /// A program on that machine.
    pub(super) fn command(&self, side: Side, program: &str) -> Result<Command> {
        Ok(self.lab.command(side, User::Root, self.programs.path(program)?))
    }

    pub(super) async fn start_coder(&self) -> Result<Program> {
        let mut command = self.command(Side::Far, "coder-stand-in")?;
        command
            .args(["serve", "--listen", CODER_LISTENS, "--name", CODER, "--tls-self"])
            .arg(self.path("coder"))
            .arg("--psk-file")
            .arg(self.path("psk"));
        let mut coder = self.start(command, "coder")?;
        coder.hear(PATIENCE).await?;
        Ok(coder)
    }

    pub(super) async fn start_nat(&self) -> Result<Option<Program>> {
        if self.network == Network::Plain {
            return Ok(None);
        }
        let at = |port| SocketAddr::new(Side::Far.wire(), port).to_string();
        let mut command = self.command(Side::Far, "impair")?;
        command.args(["--listen", &at(NAT), "--target", &at(GATEWAY)]);
        let mut nat = self.start(command, "nat")?;
        nat.hear(PATIENCE).await?;
        Ok(Some(nat))
    }

    pub(super) async fn start_registry(&self) -> Result<Program> {
        let (wire, shown) = (Side::Far.wire(), self.folder.path().display());
        let endpoint = match self.network {
            Network::Plain => GATEWAY,
            Network::BehindNat => NAT,
        };
        let config = format!(
            "listen = \"{wire}:{REGISTRY}\"\npublic_url = \"https://{wire}:{REGISTRY}\"\n\
             wireguard = \"{wire}:{GATEWAY}\"\nwireguard_endpoint = \"{wire}:{endpoint}\"\ndashboard = \"127.0.0.1:7480\"\n\
             [coder]\nurl = \"https://{CODER}\"\npsk_file = \"{shown}/psk\"\nca_file = \"{shown}/coder/ca.pem\"\n\
             [tunnel]\nalso_listen = [\"{wire}:443\"]\n\
             [[policy.allow]]\nname = \"{CODER}\"\nports = [443]\nupstream = \"{CODER_LISTENS}\"\n\
             [[policy.allow]]\nname = \"{LOAD}\"\nports = [{LOAD_PORT}]\nupstream = \"127.0.0.1:{LOAD_PORT}\"\n"
        );
        let file = self.path("registry.toml");
        std::fs::write(&file, config)?;
        let mut command = self.registry()?;
        command.args(["serve", "--json", "--config"]).arg(file);
        let mut registry = self.start(command, "registry")?;
        registry.hear(PATIENCE).await?;
        Ok(registry)
    }

    pub(super) fn join(&self) -> Result<()> {
        let code = succeed(self.registry()?.args(["join-code", "create"]))?;
        // Used up at once, and of no use to anybody then.
        succeed(self.agent()?.args(["join", code.trim(), "--name", "roamer"])).map(drop)
    }

    pub(super) fn start_agent(&self) -> Result<Program> {
        let mut command = self.agent()?;
        command.arg("run");
        self.start(command, "agent")
    }

    /// What the device says of itself; nothing while it does not answer.
    pub(super) fn status(&self) -> Value {
        let output = self
            .agent()
            .and_then(|mut command| Ok(command.args(["status", "--json"]).output()?));
        let parsed = output.map(|output| serde_json::from_slice(&output.stdout).unwrap_or_default());
        parsed.unwrap_or_default()
    }

    /// What the registry says of its gateway.
    pub(super) fn gateway(&self) -> Result<Value> {
        let shown = succeed(self.registry()?.args(["gateway", "show", "--json"]))?;
        Ok(serde_json::from_str(&shown)?)
    }

    fn registry(&self) -> Result<Command> {
        let mut command = self.command(Side::Far, "orfe-registry")?;
        command.arg("--data").arg(self.path("registry"));
        Ok(command)
    }

    fn agent(&self) -> Result<Command> {
        let mut command = self.command(Side::Near, "orfe")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&path).chain([self.path("bin")]);
        command
            .arg("--config")
            .arg(self.path("agent.toml"))
            .arg("--state")
            .arg(self.path("state"))
            .arg("--control")
            .arg(self.path("agent.sock"))
            .env("ORFE_CODER_BIN", self.programs.path("coder-stand-in-child")?)
            .env("ORFE_CONTAINERS", "off")
            .env("PATH", std::env::join_paths(path)?);
        Ok(command)
    }
}

/// Runs a command to its end; what it printed.
fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
