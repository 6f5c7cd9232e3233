//! The demo's devices: joining, running, and asking how they are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::folder::Folder;
use super::{part, shell};

/// How long joining may take.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// How long the daemon may take to answer.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// One device of the demo.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    name: String,
    program: PathBuf,
    state: PathBuf,
    control: PathBuf,
    config: PathBuf,
    coder_bin: PathBuf,
    path: Option<OsString>,
}

impl Agent {
    /// The `number`th device, whose children run `coder_bin` and search `path`. Its configuration is
    /// an empty file: what this machine's owner has configured for a device of their own is not meant.
    pub(crate) fn new(
        number: u8,
        program: &Path,
        folder: &Folder,
        coder_bin: &Path,
        path: Option<OsString>,
    ) -> Result<Self> {
        Ok(Self {
            name: format!("demo-{number}"),
            program: program.to_path_buf(),
            state: folder.join(format!("device-{number}")),
            control: folder.join(format!("d{number}.sock")),
            config: folder.write_private(&format!("device-{number}.toml"), b"")?,
            coder_bin: coder_bin.to_path_buf(),
            path,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The command that shows this device's state, quoted for a shell.
    pub(crate) fn status_command(&self) -> Vec<String> {
        shell::words([
            self.program.as_os_str(),
            "--control".as_ref(),
            self.control.as_os_str(),
            "status".as_ref(),
        ])
    }

    /// Enrols with the registry that `code` names. The code goes in by stdin: it is a secret until used.
    pub(crate) async fn join(&self, code: &str) -> Result<()> {
        let mut command = self.command();
        command.args(["join", "-", "--name", &self.name]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("`orfe join` has no stdin")?;
        // When it refuses to read, its own message tells more than the broken pipe.
        let _ = stdin.write_all(format!("{code}\n").as_bytes()).await;
        drop(stdin);
        let output = timeout(JOIN_WITHIN, child.wait_with_output())
            .await
            .with_context(|| format!("{} had not joined after {} s", self.name, JOIN_WITHIN.as_secs()))?
            .context("cannot wait for `orfe join`")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{} could not join ({}): {}",
                self.name,
                output.status,
                said.trim()
            );
        }
        Ok(())
    }

    /// The command of the daemon.
    pub(crate) fn run(&self) -> Command {
        let mut command = self.command();
        command.arg("run");
        command
    }

    /// Asks the daemon how the device is; `None` when it does not answer (yet).
    pub(crate) async fn status(&self) -> Option<Status> {
        let mut command = self.command();
        let asked = command.args(["status", "--json"]).stdin(Stdio::null()).output();
        let output = timeout(STATUS_WITHIN, asked).await.ok()?.ok()?;
        Status::parse(&output.stdout)
    }

    /// The daemon's status, whenever it changes; runs until it is stopped, by being dropped.
    pub(crate) fn watch(&self) -> Result<Watching> {
        let mut command = self.command();
        command.args(["status", "--watch", "--json"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let stdout = child.stdout.take().context("`orfe status` has no stdout")?;
        Ok(Watching {
            _child: child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    fn command(&self) -> Command {
        let mut command = part::apart(&self.program);
        command.arg("--config").arg(&self.config);
        command.arg("--state").arg(&self.state);
        command.arg("--control").arg(&self.control);
        command.env("ORFE_CODER_BIN", &self.coder_bin);
        // The demo leaves nothing behind, in a Docker engine neither.
        command.env("ORFE_CONTAINERS", "off");
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }
}

/// An `orfe status --watch` that runs.
#[derive(Debug)]
pub(crate) struct Watching {
    /// Killed when it is dropped.
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    /// The next status; `None` when the daemon does not answer (yet, or any more).
    pub(crate) async fn next(&mut self) -> Option<Status> {
        let line = self.lines.next_line().await.ok()??;
        Status::parse(line.as_bytes())
    }
}

/// What `orfe status --json` says, as far as the demo needs it, and whole.
#[derive(Debug)]
pub(crate) struct Status {
    health: String,
    checks: Vec<Check>,
    provisioners: Vec<Provisioner>,
    /// The document itself.
    pub whole: Value,
}

#[derive(Debug, Deserialize)]
struct Check {
    code: String,
    outcome: String,
    required: bool,
    #[serde(default)]
    message: String,
    #[serde(default)]
    hint: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Provisioner {
    state: String,
}

impl Status {
    fn parse(answer: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            health: String,
            checks: Vec<Check>,
            provisioners: Vec<Provisioner>,
        }
        let whole: Value = serde_json::from_slice(answer).ok()?;
        let Document {
            health,
            checks,
            provisioners,
        } = Document::deserialize(&whole).ok()?;
        Some(Self {
            health,
            checks,
            provisioners,
            whole,
        })
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.health == "healthy"
    }

    /// The one word for the device's state.
    pub(crate) fn health(&self) -> String {
        self.health.clone()
    }

    /// The state in a few words: health, what it still waits for, what the provisioners do. While it starts, what it waits for
    /// tells enough.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.health();
        let mut before = None;
        for check in self.unmet() {
            let outcome = Some(check.outcome.as_str());
            match before.replace(check.outcome.as_str()) {
                None => text.push_str(": "),
                same if same == outcome => text.push_str(", "),
                Some(other) => text = format!("{text} {other}, "),
            }
            text.push_str(&check.code);
        }
        if let Some(outcome) = before {
            text = format!("{text} {outcome}");
        }
        let provisioners: Vec<&str> = self.provisioners.iter().map(|slot| slot.state.as_str()).collect();
        if !provisioners.is_empty() && self.health != "starting" {
            text = format!("{text} (provisioner {})", provisioners.join(", "));
        }
        text
    }

    /// Each required check that does not pass, with what was found and what to do.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.unmet()
            .map(|check| {
                let hint = check
                    .hint
                    .as_deref()
                    .map(|hint| format!(" (hint: {hint})"))
                    .unwrap_or_default();
                format!("{} is {}: {}{hint}", check.code, check.outcome, check.message)
            })
            .collect()
    }

    fn unmet(&self) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(|check| check.required && check.outcome != "ok")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Status;

    #[test]
    fn a_status_tells_what_is_still_missing() {
        let document = json!({
            "version": 1,
            "health": "starting",
            "device": {"name": "demo-1"},
            "checks": [
                {"code": "tunnel", "outcome": "ok", "required": true, "message": "up"},
                {"code": "connected", "outcome": "pending", "required": true, "message": "waits for its line", "hint": "wait"},
                {"code": "docker", "outcome": "warning", "required": false, "message": "no engine"},
            ],
            "provisioners": [{"slot": 0, "state": "starting"}],
        });

        let status = Status::parse(document.to_string().as_bytes()).unwrap();

        assert!(!status.is_healthy());
        assert_eq!(status.summary(), "starting: connected pending");
        assert_eq!(
            status.missing(),
            ["connected is pending: waits for its line (hint: wait)"]
        );
        assert_eq!(status.whole["device"]["name"], "demo-1");
    }

    #[test]
    fn what_is_no_status_is_no_answer() {
        for answer in [&b""[..], b"not json", b"{}", br#"{"health":1}"#] {
            assert!(Status::parse(answer).is_none(), "{answer:?}");
        }
    }
}
