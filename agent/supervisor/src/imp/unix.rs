//! Unix: sessions, SIGCHLD and pipes.
#![expect(
    unsafe_code,
    reason = "sessions and signal dispositions can only be set between fork and exec"
)]

use std::io;
use std::os::unix::process::ExitStatusExt as _;

use orfe_platform::process::{self, ProcessId};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::child::{ExitStatus, Lines, Source};

/// Signals that the child must be able to receive. An agent that was started by `nohup`, or in the background of a
/// script, ignores some of them, and what is ignored stays so over an exec.
const MUST_REACH: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Puts the child into a session and process group of its own: it has no terminal, and signals that are meant for the
/// agent's group do not reach it. Those that are meant for the child do.
pub(crate) fn prepare(command: &mut Command) {
    let set_up = || {
        rustix::process::setsid()?;
        for number in MUST_REACH {
            // SAFETY: sets a disposition of this process only, which has one thread, and installs no handler.
            if unsafe { libc::signal(number, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called; setsid and signal are, and
    // making an error out of its number allocates nothing.
    unsafe { command.pre_exec(set_up) };
}

pub(crate) fn exit_status(status: std::process::ExitStatus) -> ExitStatus {
    ExitStatus {
        code: status.code(),
        signal: status.signal(),
    }
}

/// Children that end.
#[derive(Debug)]
pub(crate) struct Deaths(Signal);

impl Deaths {
    pub(crate) fn new() -> io::Result<Self> {
        signal(SignalKind::child()).map(Self)
    }

    /// Returns after one or more have ended.
    pub(crate) async fn recv(&mut self) {
        self.0.recv().await;
    }
}

/// Becomes the reader of a process's stdout and stderr where they are pipes; nothing where that cannot be done.
pub(crate) fn reopen_output(id: &ProcessId) -> Lines {
    let open = |descriptor: u32| -> Option<Source> {
        // Only Linux has this folder. `open_receiver` refuses what is no pipe.
        let path = format!("/proc/{}/fd/{descriptor}", id.pid);
        let receiver = pipe::OpenOptions::new().open_receiver(path).ok()?;
        // Checked after opening: if it is still this process, it was then.
        process::is_alive(id).then(|| Box::new(receiver) as Source)
    };
    Lines::new(open(1), open(2))
}
