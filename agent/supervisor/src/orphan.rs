//! What an earlier life of the agent left running.
//!
//! The orphan is not our child: it cannot be waited for, and its output pipes have lost their reader. It is drained or
//! killed, never kept. Its identity is checked first, by number, start time and boot, so a process that has the number by
//! now is left alone. If the child itself is gone, its terraform may still be there; that is found by the marker.
//!
//! **Broken pipes.** A Go program that writes to its stdout or stderr after the reader is gone is ended by SIGPIPE, and
//! `coder provisionerd` writes a line to stdout when it is told to drain: the drain would kill it in the middle of its job. So
//! on Linux both pipes are opened anew for reading, through `/proc/<pid>/fd`, before the signal is sent. That takes the same user
//! as the child's; elsewhere the drain may end early, and what is left of the tree is killed.

use std::sync::Mutex;
use std::time::Duration;

use orfe_platform::private::PrivateFileError;
use orfe_platform::process::{self, ProcessError, ProcessId, Signal};
use secrecy::SecretString;

use crate::child::{KILL_LIMIT, Sink};
use crate::imp;
use crate::log_file::{LogFile, LogSpec};
use crate::redact::Redactor;
use crate::spec::Marker;
use crate::tree::{self, KillError, Tree};

/// How often an orphan is looked at while it drains: it is not our child, so nobody tells us.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A child of an earlier life, as kept on disk.
#[derive(Debug)]
pub struct Orphan {
    /// [`Child::identity`](crate::Child::identity) of then.
    pub id: ProcessId,
    /// [`process::boot_id`] of then.
    pub boot_id: String,
    /// The name and value of the marker of then.
    pub marker: Option<Marker>,
    /// How long it may drain; zero kills at once.
    pub drain_limit: Duration,
    /// Where its last lines go.
    pub log_file: Option<LogSpec>,
    /// Secrets to take out of them.
    pub secrets: Vec<SecretString>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanEnd {
    /// Nothing of it was there any more.
    Absent,
    /// It finished by itself when asked.
    Drained,
    /// It, or something that it left behind, was killed.
    Killed,
}

/// Why it is not gone.
#[derive(Debug, thiserror::Error)]
pub enum OrphanError {
    /// Something of it does not die.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// Processes cannot be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The log file cannot be used.
    #[error(transparent)]
    Log(#[from] PrivateFileError),
}

/// Ends an orphan: asks it to drain, waits for it, and kills what is left of its tree.
pub async fn adopt_or_end(orphan: Orphan) -> Result<OrphanEnd, OrphanError> {
    // Start times begin anew with each boot; and nothing outlives one.
    if process::boot_id()? != orphan.boot_id {
        return Ok(OrphanEnd::Absent);
    }
    let tree = Mutex::new(Tree::new(orphan.id, orphan.marker.clone(), None));
    let drained = if process::is_alive(&orphan.id) && !orphan.drain_limit.is_zero() {
        // Whoever loses their parent by the drain is known from now on.
        tree::lock(&tree).look()?;
        drain(&orphan).await?
    } else {
        false
    };
    let killed = tree::kill(&tree, KILL_LIMIT).await?;
    Ok(match (drained, killed) {
        (_, true) => OrphanEnd::Killed,
        (true, false) => OrphanEnd::Drained,
        (false, false) => OrphanEnd::Absent,
    })
}

/// Whether it ended by itself in time.
async fn drain(orphan: &Orphan) -> Result<bool, OrphanError> {
    let log = orphan.log_file.clone().map(LogFile::open).transpose()?;
    let mut sink = Sink::new(Redactor::new(&orphan.secrets), log);
    let mut lines = imp::reopen_output(&orphan.id);
    match process::send(&orphan.id, Signal::Terminate) {
        Ok(_) => {}
        // Windows has no such signal.
        Err(error) if error.source.kind() == std::io::ErrorKind::Unsupported => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    tracing::info!(
        pid = orphan.id.pid,
        limit_s = orphan.drain_limit.as_secs(),
        "draining a child of an earlier life"
    );
    let capture = async {
        while let Some((stream, line)) = lines.next().await {
            sink.take(stream, line);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = capture => Ok(false),
        gone = tokio::time::timeout(orphan.drain_limit, gone(&orphan.id)) => Ok(gone.is_ok()),
    }
}

async fn gone(id: &ProcessId) {
    while process::is_alive(id) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
