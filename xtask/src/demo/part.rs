//! One process of the demo: started, waited for, stopped.
//!
//! A part says on its stdout, in one line of JSON, that it is ready and where; its stderr is its log.
//! A part that ends before it was asked to is a failure, reported with the end of its log.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a part may take from its start to its ready line.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Lines of a failed part's log that are shown.
const TAIL_LINES: usize = 12;
/// How much of the log's end is read for them.
const TAIL_BYTES: usize = 16 * 1024;

/// The command of `program`: apart from the terminal's process group, so that Ctrl-C there is for us alone, killed when
/// nobody waits for it any more, and without the caller's own settings of Orfe.
pub(crate) fn apart(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.process_group(0).kill_on_drop(true);
    forget_settings(&mut command, std::env::vars_os().map(|(name, _)| name));
    command
}

/// Keeps those of the variables `names` from `command` that are settings of Orfe.
fn forget_settings(command: &mut Command, names: impl Iterator<Item = OsString>) {
    for name in names.filter(|name| name.as_encoded_bytes().starts_with(b"ORFE_")) {
        command.env_remove(name);
    }
}

/// A running process of the demo. Dropped without [`Part::stop`], it is killed.
#[derive(Debug)]
pub(crate) struct Part {
    name: String,
    child: Child,
    pid: u32,
    log: PathBuf,
    /// Reads what comes on stdout after the ready line, so that the part never blocks on it.
    drain: Option<JoinHandle<()>>,
}

impl Part {
    /// Starts `command` under `name`, with its stderr in the new file `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(log)
            .with_context(|| format!("cannot make the log {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            // Ctrl-C in the terminal is for us alone: we end the parts in their order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {name} ({})",
                    command.as_std().get_program().display()
                )
            })?;
        let pid = child
            .id()
            .with_context(|| format!("{name} ended as it started"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_path_buf(),
            drain: None,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the part's ready line and reads it.
    pub(crate) async fn ready<T: DeserializeOwned>(&mut self) -> Result<T> {
        let stdout = self
            .child
            .stdout
            .take()
            .context("the ready line was read already")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = match timeout(READY_WITHIN, lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            // Its stdout is closed: it has ended, or is about to.
            Ok(Ok(None)) => return Err(self.ended_early().await),
            Ok(Err(error)) => {
                return Err(error).with_context(|| format!("cannot read what {} says", self.name));
            }
            Err(_elapsed) => bail!(self.failure(format!("was not ready after {} s", READY_WITHIN.as_secs()))),
        };
        self.drain = Some(tokio::spawn(drain(lines)));
        serde_json::from_str(&line)
            .with_context(|| format!("{} said something else than where it listens", self.name))
    }

    /// Fails when the part has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.name))?
        {
            None => Ok(()),
            Some(status) => bail!(self.failure(format!("ended by itself ({status})"))),
        }
    }

    /// SIGTERM, then SIGKILL after `grace`; returns when the process is gone.
    pub(crate) async fn stop(&mut self, grace: Duration) -> Result<Stopped> {
        self.signal(Signal::SIGTERM);
        let stopped = match timeout(grace, self.child.wait()).await {
            Ok(status) => Stopped::Itself(status.with_context(|| format!("cannot wait for {}", self.name))?),
            Err(_elapsed) => {
                self.child
                    .kill()
                    .await
                    .with_context(|| format!("cannot kill {}", self.name))?;
                Stopped::Killed
            }
        };
        if let Some(drain) = self.drain.take() {
            drain.abort();
        }
        Ok(stopped)
    }

    fn signal(&self, signal: Signal) {
        // A process that has been waited for has no pid any more, and its number may be another's.
        if self.child.id().is_some() {
            let _ = kill(Pid::from_raw(self.pid.cast_signed()), signal);
        }
    }

    async fn ended_early(&mut self) -> anyhow::Error {
        let what = match timeout(Duration::from_secs(2), self.child.wait()).await {
            Ok(Ok(status)) => format!("ended before it was ready ({status})"),
            _ => "closed its stdout before it was ready".to_owned(),
        };
        self.failure(what).into()
    }

    fn failure(&self, what: String) -> PartFailed {
        PartFailed {
            name: self.name.clone(),
            what,
            log: self.log.clone(),
            tail: tail(&self.log),
        }
    }
}

/// How a part came to its end.
#[derive(Debug)]
pub(crate) enum Stopped {
    Itself(ExitStatus),
    /// It did not end within its grace.
    Killed,
}

/// A part that failed, with the end of its log.
#[derive(Debug)]
struct PartFailed {
    name: String,
    what: String,
    log: PathBuf,
    tail: Vec<String>,
}

impl std::error::Error for PartFailed {}

impl fmt::Display for PartFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.name, self.what)?;
        if self.tail.is_empty() {
            writeln!(f, "  its log {} is empty", self.log.display())?;
        } else {
            writeln!(f, "  the end of its log {}:", self.log.display())?;
        }
        for line in &self.tail {
            writeln!(f, "  | {line}")?;
        }
        write!(
            f,
            "hint: with `--keep` the folder stays, and the whole log can be read there"
        )
    }
}

/// Reads on until the part closes its stdout.
async fn drain(mut lines: tokio::io::Lines<BufReader<ChildStdout>>) {
    while let Ok(Some(_line)) = lines.next_line().await {}
}

/// The last lines of the file at `log`.
pub(crate) fn tail(log: &Path) -> Vec<String> {
    let Ok(bytes) = File::open(log).and_then(|mut file| {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES as u64)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|&line| line.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio::process::Command;

    use super::{Part, Stopped, apart, forget_settings};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_helper_is_out_of_the_reach_of_the_terminals_interrupt() {
        let mut command = apart("sh".as_ref());
        let output = command.args(["-c", "echo $$; ps -o pgid= -p $$"]).output().await;
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        let numbers: Vec<i32> = said.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert!(
            matches!(numbers[..], [pid, group] if pid == group),
            "it leads a group of its own: {said}"
        );
    }

    #[tokio::test]
    async fn the_callers_settings_are_forgotten_and_ours_hold() {
        let mut command = shell("env");
        command.env_clear();
        command.env("PATH", "/usr/bin:/bin").env("ORFE_CONFIG", "/mine");
        let names = ["ORFE_CONFIG", "ORFE_REGISTRY_DATA", "PATH", "XORFE_"];
        forget_settings(&mut command, names.iter().map(Into::into));
        command.env("ORFE_CODER_BIN", "/ours");

        let said = command.output().await.unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        let mut settings: Vec<&str> = said.lines().filter(|line| !line.starts_with("PWD=")).collect();
        settings.retain(|line| !line.starts_with("_=") && !line.starts_with("SHLVL="));
        settings.sort_unstable();
        assert_eq!(settings, ["ORFE_CODER_BIN=/ours", "PATH=/usr/bin:/bin"]);
    }

    #[tokio::test]
    async fn a_part_says_that_it_is_ready_and_ends_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"echo '{"listening":"127.0.0.1:1"}'; exec sleep 60"#;
        let mut part = Part::start("thing", shell(script), &folder.path().join("log")).unwrap();

        assert_eq!(
            part.ready::<Value>().await.unwrap(),
            json!({"listening": "127.0.0.1:1"})
        );
        part.still_runs().unwrap();
        let stopped = part.stop(Duration::from_secs(20)).await.unwrap();

        assert!(matches!(stopped, Stopped::Itself(_)), "{stopped:?}");
    }

    #[tokio::test]
    async fn a_part_that_ends_is_reported_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let script = "seq 1 1000 >&2; echo 'port 7443 is taken' >&2; exit 3";
        let mut part = Part::start("registry", shell(script), &folder.path().join("log")).unwrap();

        let text = part.ready::<Value>().await.unwrap_err().to_string();

        assert!(
            text.starts_with("registry ended before it was ready (exit status: 3)"),
            "{text}"
        );
        assert!(text.contains("| port 7443 is taken"), "{text}");
        assert!(text.contains("hint: "), "{text}");
        assert!(text.lines().count() < 20, "{text}");
    }

    #[tokio::test]
    async fn a_part_that_ignores_the_request_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        // What the shell ignores, the program that takes its place ignores, too.
        let script = "trap '' TERM; echo '{}'; exec sleep 60";
        let mut part = Part::start("thing", shell(script), &folder.path().join("log")).unwrap();
        part.ready::<Value>().await.unwrap();

        let stopped = part.stop(Duration::from_millis(100)).await.unwrap();

        assert!(matches!(stopped, Stopped::Killed), "{stopped:?}");
    }
}
