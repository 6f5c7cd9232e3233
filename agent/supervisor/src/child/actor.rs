//! The task that owns a running child: it reads lines until the child ends, then what is left in the pipes, then
//! tells the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ExitStatus;
use super::lines::{Lines, Sink};
use super::queue::Queue;
use crate::imp;
use crate::tree::{self, Tree};

/// How long the pipes are read after the child's end. All that the child wrote is in them by then, so this matters only
/// when a descendant holds them open; what that one writes later is not read.
const LAST_LINES: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Actor {
    pub(super) slot: u32,
    pub(super) process: tokio::process::Child,
    pub(super) lines: Lines,
    pub(super) sink: Sink,
    pub(super) queue: Arc<Queue>,
    pub(super) tree: Arc<Mutex<Tree>>,
}

impl Actor {
    pub(super) async fn run(mut self, token: CancellationToken) {
        let status = tokio::select! {
            () = token.cancelled() => None,
            status = self.until_exit() => Some(status),
        };
        let Some(status) = status else {
            return self.queue.close(None);
        };
        if let Err(error) = tree::lock(&self.tree).leader_exited() {
            tracing::warn!(slot = self.slot, error = %error, "what the child left behind is not known");
        }
        // Timing out is fine: then somebody else holds the pipes.
        let _ = tokio::time::timeout(LAST_LINES, self.rest()).await;
        tracing::debug!(slot = self.slot, status = %status, "child ended");
        self.queue.close(Some(status));
    }

    async fn until_exit(&mut self) -> ExitStatus {
        let mut open = true;
        loop {
            tokio::select! {
                line = self.lines.next(), if open => match line {
                    Some((stream, line)) => self.queue.push(self.sink.take(stream, line)),
                    None => open = false,
                },
                status = self.process.wait() => return match status {
                    Ok(status) => imp::exit_status(status),
                    Err(error) => {
                        tracing::error!(slot = self.slot, error = %error, "a child's exit status is lost");
                        ExitStatus { code: None, signal: None }
                    }
                },
            }
        }
    }

    async fn rest(&mut self) {
        while let Some((stream, line)) = self.lines.next().await {
            self.queue.push(self.sink.take(stream, line));
        }
    }
}
