//! The demo's registry: its configuration, its start, and its admin commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use super::coder::Target;
use super::folder::Folder;
use super::{part, shell};

/// How long an admin command may take.
const ADMIN_WITHIN: Duration = Duration::from_secs(10);

/// The registry's ready line, as far as the demo needs it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ready {
    pub https: String,
    pub wireguard: SocketAddr,
    /// The one-time link; absent when no dashboard listens.
    pub dashboard: Option<String>,
}

/// The configuration file, in the registry's words.
#[derive(Debug, Serialize)]
struct Config<'a> {
    docker_required: bool,
    coder: Coder<'a>,
    policy: Policy<'a>,
    session: Session,
}

/// How often devices are heard of.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Session {
    heartbeat: &'static str,
    hold_down: &'static str,
}

impl Session {
    /// Short times, so that a person who stops a device sees it on the dashboard soon.
    pub(crate) const LIVELY: Self = Self {
        heartbeat: "2s",
        hold_down: "10s",
    };
    /// The registry's own defaults, for measuring.
    pub(crate) const USUAL: Self = Self {
        heartbeat: "15s",
        hold_down: "45s",
    };
}

#[derive(Debug, Serialize)]
struct Coder<'a> {
    url: &'a str,
    psk_file: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Policy<'a> {
    allow: [Allow<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Allow<'a> {
    name: &'a str,
    ports: [u16; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
}

/// The text of `registry.toml`.
fn config(target: &Target, psk_file: &Path, ca_file: Option<PathBuf>, session: Session) -> Result<String> {
    let allow = Allow {
        name: &target.name,
        ports: [target.port],
        upstream: target.upstream.as_deref(),
    };
    let config = Config {
        docker_required: false,
        coder: Coder {
            url: target.url.as_str().trim_end_matches('/'),
            psk_file,
            ca_file,
        },
        policy: Policy { allow: [allow] },
        session,
    };
    toml::to_string(&config).context("cannot write the registry's configuration")
}

/// The demo's registry, started or not.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    program: PathBuf,
    data: PathBuf,
    config: PathBuf,
}

impl Registry {
    /// Writes the configuration for `target`.
    pub(crate) fn configure(
        program: &Path,
        folder: &Folder,
        target: &Target,
        psk_file: &Path,
        ca_file: Option<PathBuf>,
        session: Session,
    ) -> Result<Self> {
        let text = config(target, psk_file, ca_file, session)?;
        Ok(Self {
            program: program.to_path_buf(),
            data: folder.join("registry"),
            config: folder.write_private("registry.toml", text.as_bytes())?,
        })
    }

    /// The command that serves, on free ports of the loopback.
    pub(crate) fn serve(&self) -> Command {
        let mut command = self.command();
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .arg("--json");
        for listener in ["--listen", "--wireguard", "--dashboard"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command
    }

    /// The command that makes a new link to the dashboard, quoted for a shell.
    pub(crate) fn link_command(&self) -> Vec<String> {
        shell::words([
            self.program.as_os_str(),
            "--data".as_ref(),
            self.data.as_os_str(),
            "dashboard".as_ref(),
            "link".as_ref(),
        ])
    }

    /// Makes a join code for one device.
    pub(crate) async fn join_code(&self) -> Result<String> {
        let mut command = self.command();
        command.args(["join-code", "create"]);
        Ok(self.answer(command, "make a join code").await?.trim().to_owned())
    }

    /// What the registry shows as the state of each device, by name.
    pub(crate) async fn device_states(&self) -> Result<Vec<(String, String)>> {
        #[derive(Deserialize)]
        struct List {
            devices: Vec<Device>,
        }
        #[derive(Deserialize)]
        struct Device {
            name: String,
            state: String,
        }
        let mut command = self.command();
        command.args(["device", "list", "--json"]);
        let answer = self.answer(command, "list the devices").await?;
        let list: List =
            serde_json::from_str(&answer).context("the registry's device list cannot be read")?;
        Ok(list
            .devices
            .into_iter()
            .map(|device| (device.name, device.state))
            .collect())
    }

    fn command(&self) -> Command {
        let mut command = part::apart(&self.program);
        command.arg("--data").arg(&self.data);
        command
    }

    async fn answer(&self, mut command: Command, what: &str) -> Result<String> {
        let output = timeout(ADMIN_WITHIN, command.output())
            .await
            .with_context(|| {
                format!(
                    "`orfe-registry` took more than {} s to {what}",
                    ADMIN_WITHIN.as_secs()
                )
            })?
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            bail!(
                "cannot {what} ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`orfe-registry` answered no text to {what}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Session, config};
    use crate::demo::coder::Target;

    #[test]
    fn the_configuration_names_coder_once_and_maps_it() {
        let target = Target::of_stand_in("127.0.0.1:36123".parse().unwrap()).unwrap();

        let text = config(
            &target,
            Path::new("/d/psk"),
            Some("/d/ca.pem".into()),
            Session::LIVELY,
        )
        .unwrap();

        let expected = r#"docker_required = false

[coder]
url = "https://coder.demo.internal"
psk_file = "/d/psk"
ca_file = "/d/ca.pem"

[[policy.allow]]
name = "coder.demo.internal"
ports = [443]
upstream = "127.0.0.1:36123"

[session]
heartbeat = "2s"
hold_down = "10s"
"#;
        assert_eq!(text, expected);
    }
}
