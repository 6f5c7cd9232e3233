//! A child process that cannot outlive its test: ended by its pid when the guard drops, its output in two files.
//!
//! Output goes straight to files, so a child is never held up by a reader, and what it said is there after it died.
//! The guard must not be kept past its folder.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::logs::{self, LogLine};
use crate::wait::{TimedOut, wait_for};

/// What can go wrong with a guarded process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Its output file could not be made.
    #[error("cannot make output file {}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It could not be signalled or waited for.
    #[error("cannot {action} process {pid}")]
    Control {
        /// What was tried.
        action: &'static str,
        /// Its pid.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

/// A running child; see the module.
#[derive(Debug)]
pub struct ProcessGuard {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl ProcessGuard {
    /// Starts `command` with no stdin and its output in `<folder>/<name>.stdout` and `.stderr`.
    pub fn spawn(command: &mut Command, folder: &Path, name: &str) -> Result<Self, ProcessError> {
        let stdout = folder.join(format!("{name}.stdout"));
        let stderr = folder.join(format!("{name}.stderr"));
        let open = |path: &PathBuf| {
            File::create(path).map_err(|source| ProcessError::Output {
                path: path.clone(),
                source,
            })
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open(&stdout)?)
            .stderr(open(&stderr)?)
            .spawn()
            .map_err(|source| ProcessError::Start {
                program: command.get_program().to_string_lossy().into_owned(),
                source,
            })?;
        Ok(Self {
            child,
            stdout,
            stderr,
        })
    }

    /// The child's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Complete lines on stdout so far.
    pub fn stdout_lines(&self) -> Vec<String> {
        logs::complete_lines(&std::fs::read(&self.stdout).unwrap_or_default())
    }

    /// Complete lines on stderr so far.
    pub fn stderr_lines(&self) -> Vec<String> {
        logs::complete_lines(&std::fs::read(&self.stderr).unwrap_or_default())
    }

    /// Complete lines on stderr so far, JSON told from plain text.
    pub fn stderr_log(&self) -> Vec<LogLine> {
        self.stderr_lines()
            .iter()
            .map(|line| LogLine::parse(line))
            .collect()
    }

    /// Waits until a line on stdout or stderr contains `text`, and returns it.
    pub async fn wait_for_line(&self, text: &str, timeout: Duration) -> Result<String, TimedOut> {
        wait_for(&format!("a line with {text:?}"), timeout, || {
            let lines: Vec<String> = self
                .stdout_lines()
                .into_iter()
                .chain(self.stderr_lines())
                .collect();
            match lines.iter().find(|line| line.contains(text)) {
                Some(line) => Ok(line.clone()),
                None => Err(format!("the process said:\n{}", lines.join("\n"))),
            }
        })
        .await
    }

    /// Sends `signal` to the child alone.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let sent = pid.map_or(Err(rustix::io::Errno::SRCH), |pid| kill_process(pid, signal));
        sent.map_err(|errno| ProcessError::Control {
            action: "signal",
            pid: self.pid(),
            source: errno.into(),
        })
    }

    /// The exit status if the child has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        let pid = self.pid();
        self.child.try_wait().map_err(|source| ProcessError::Control {
            action: "wait for",
            pid,
            source,
        })
    }

    /// Waits for the child to end by itself.
    pub async fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, TimedOut> {
        let what = format!("the end of process {}", self.pid());
        wait_for(&what, timeout, || match self.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it is running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    #[tokio::test]
    async fn captures_both_streams_and_the_exit_code() {
        let folder = tempfile::tempdir().unwrap();
        let mut process =
            ProcessGuard::spawn(&mut shell("echo out; echo err >&2; exit 3"), folder.path(), "p").unwrap();
        assert_eq!(process.wait(PATIENCE).await.unwrap().code(), Some(3));
        assert_eq!(process.stdout_lines(), ["out"]);
        assert_eq!(process.stderr_log(), [LogLine::Plain("err".to_owned())]);
    }

    #[tokio::test]
    async fn is_ended_when_dropped_even_if_it_ignores_signals() {
        let folder = tempfile::tempdir().unwrap();
        let process = ProcessGuard::spawn(
            &mut shell("trap '' TERM; echo ready; while :; do sleep 60; done"),
            folder.path(),
            "p",
        )
        .unwrap();
        process.wait_for_line("ready", PATIENCE).await.unwrap();
        let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap()).unwrap();
        process.signal(Signal::TERM).unwrap();
        drop(process);
        assert!(
            rustix::process::test_kill_process(pid).is_err(),
            "process {pid:?} must be gone"
        );
    }

    #[test]
    fn says_which_program_could_not_be_started() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            ProcessGuard::spawn(&mut Command::new("/no/such/program"), folder.path(), "p").unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }
}
