//! Windows: no sessions, no SIGCHLD, no drain. Type-checked only.

use std::io;

use orfe_platform::process::ProcessId;
use tokio::process::Command;

use crate::child::{ExitStatus, Lines};

/// `CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW` of winbase.h: ctrl-c in the agent's console does not reach the child.
const CREATION_FLAGS: u32 = 0x0000_0200 | 0x0800_0000;

pub(crate) fn prepare(command: &mut Command) {
    command.creation_flags(CREATION_FLAGS);
}

pub(crate) fn exit_status(status: std::process::ExitStatus) -> ExitStatus {
    ExitStatus {
        code: status.code(),
        signal: None,
    }
}

/// Orphans get no new parent here, so there is nothing to watch for.
#[derive(Debug)]
pub(crate) struct Deaths;

impl Deaths {
    #[expect(clippy::unnecessary_wraps, reason = "the same signature on each system")]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn recv(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// Pipes of another process cannot be opened.
pub(crate) fn reopen_output(_id: &ProcessId) -> Lines {
    Lines::new(None, None)
}
