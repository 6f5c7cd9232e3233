//! A program that is spoken to in lines: commands on its stdin, answers of one JSON value a line on its stdout.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

/// How long a program may take to end after its stdin has.
const GRACE: Duration = Duration::from_secs(3);

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Program {
    /// Starts `command`; what it says on stderr goes to `<folder>/<name>.log`.
    pub fn start(command: Command, name: &str, folder: &Path) -> io::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            name: name.to_owned(),
            stdin: child.stdin.take(),
            child,
            lines: BufReader::new(stdout).lines(),
            log,
        })
    }

    /// Its pid.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends one line.
    pub async fn say(&mut self, line: &str) -> io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let said = async {
            stdin.write_all(line.as_bytes()).await?;
            stdin.write_all(b"\n").await?;
            stdin.flush().await
        };
        said.await.map_err(|error| self.failed(&error.to_string()))
    }

    /// The next line, within `timeout`.
    pub async fn hear(&mut self, timeout: Duration) -> io::Result<Value> {
        match tokio::time::timeout(timeout, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => {
                serde_json::from_str(&line).map_err(|error| self.failed(&format!("{error} in {line:?}")))
            }
            Ok(Ok(None)) => Err(self.failed("it ended")),
            Ok(Err(error)) => Err(self.failed(&error.to_string())),
            Err(_) => Err(self.failed(&format!("no answer within {} s", timeout.as_secs_f32()))),
        }
    }

    /// Sends one line, and gives the next one that comes back.
    pub async fn ask(&mut self, line: &str, timeout: Duration) -> io::Result<Value> {
        self.say(line).await?;
        self.hear(timeout).await
    }

    /// Ends its stdin and waits for its end; kills it when that takes too long.
    pub async fn stop(mut self) {
        drop(self.stdin.take());
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills it and waits for its end, for programs that do not heed their stdin.
    pub async fn kill(mut self) {
        // It fails only for a child that is gone already, which is what is wanted.
        let _ = self.child.kill().await;
    }

    /// What it said on stderr so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn failed(&self, reason: &str) -> io::Error {
        let log = self.log();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        io::Error::other(format!(
            "{}: {reason}; it last said: {}",
            self.name,
            last.join(" | ")
        ))
    }
}
