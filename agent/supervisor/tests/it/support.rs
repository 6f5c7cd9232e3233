//! Children made of shell scripts, and waiting for what they do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orfe_platform::process::{self, ProcessId};
use orfe_supervisor::{Child, EnvValue, Event, ExitStatus, Line, Spec};
use tempfile::TempDir;

/// Far above what anything here takes, for machines under load.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A folder for one child, which is also its TMPDIR and marker.
pub(crate) struct Slot {
    pub(crate) folder: TempDir,
}

impl Slot {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A child that runs `script`, with the folder as working folder and as the marker `TMPDIR`.
    pub(crate) fn spec(&self, script: &str) -> Spec {
        Spec {
            slot: 1,
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![
                ("PATH".into(), EnvValue::from(path_variable())),
                ("TMPDIR".into(), EnvValue::from(self.folder.path())),
            ],
            cwd: self.folder.path().to_path_buf(),
            log_file: None,
            marker: Some("TMPDIR".into()),
            secrets: Vec::new(),
        }
    }

    pub(crate) fn spawn(&self, script: &str) -> Child {
        Child::spawn(&self.spec(script)).unwrap()
    }

    /// Makes `fifo`, at which a script can wait.
    pub(crate) fn make_fifo(&self) {
        let status = std::process::Command::new("mkfifo")
            .arg(self.path("fifo"))
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Writes lines into `fifo` until the task is aborted.
    pub(crate) fn feed_fifo(&self) -> tokio::task::JoinHandle<()> {
        let path = self.path("fifo");
        tokio::spawn(async move {
            loop {
                // Fails while nobody reads.
                if let Ok(sender) = tokio::net::unix::pipe::OpenOptions::new().open_sender(&path) {
                    let _ = sender.try_write(b"\n");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    /// Waits until a script has written its process number into this file, and says who it is.
    pub(crate) async fn process_of(&self, name: &str) -> ProcessId {
        let path = self.path(name);
        let mut pid = None;
        wait_until(&format!("{} is written", path.display()), || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            // Whole only with its line end.
            pid = text.strip_suffix('\n').and_then(|text| text.parse().ok());
            pid.is_some()
        })
        .await;
        process::identify(pid.unwrap())
            .unwrap()
            .unwrap_or_else(|| panic!("{name} has ended already"))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // What a failed test left running.
        for entry in process::table().unwrap_or_default() {
            if process::carries(&entry.id, "TMPDIR".as_ref(), self.folder.path().as_os_str()) == Some(true) {
                let _ = process::send(&entry.id, process::Signal::Kill);
            }
        }
    }
}

pub(crate) fn path_variable() -> OsString {
    std::env::var_os("PATH").unwrap()
}

/// All lines, and the end.
pub(crate) async fn run_to_end(child: &mut Child) -> (Vec<Line>, ExitStatus) {
    let mut lines = Vec::new();
    loop {
        match next(child).await {
            Some(Event::Line(line)) => lines.push(line),
            Some(Event::Exited(status)) => {
                assert_eq!(next(child).await, None, "nothing follows the end");
                return (lines, status);
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn next(child: &mut Child) -> Option<Event> {
    tokio::time::timeout(LIMIT, child.next_event())
        .await
        .expect("no event in time")
}

pub(crate) fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

/// Polls a condition on the outside world; fails the test when it does not come true.
pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn wait_until_gone(id: &ProcessId) {
    wait_until(&format!("process {} is gone", id.pid), || !process::is_alive(id)).await;
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
