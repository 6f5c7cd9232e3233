//! The way to a standing session, for everybody but its own task.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::session::Closing;

/// Commands that may wait for one session; each is small and carried out at once.
const COMMANDS_MAX: usize = 32;

/// What others ask of a session.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    Close(Closing),
    Tell,
}

/// The way to a standing session.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    pub(super) epoch: u64,
    commands: mpsc::Sender<Command>,
    pub(super) overflow: CancellationToken,
}

impl SessionHandle {
    /// A handle of a session that does not stand yet, and where its commands arrive.
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let handle = Self {
            epoch: 0,
            commands,
            overflow: CancellationToken::new(),
        };
        (handle, inbox)
    }

    /// Number of the session among those of its device.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Ends the session; when too many commands wait already, it ends for that reason.
    pub(crate) fn close(&self, closing: Closing) {
        self.command(Command::Close(closing));
    }

    /// Tells the device what is desired now, if that is something else than what it was told.
    pub(crate) fn tell(&self) {
        self.command(Command::Tell);
    }

    fn command(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(command) {
            self.overflow.cancel();
        }
    }

    /// A handle that nobody listens to.
    #[cfg(test)]
    pub(crate) fn detached(epoch: u64) -> Self {
        Self {
            epoch,
            commands: mpsc::channel(1).0,
            overflow: CancellationToken::new(),
        }
    }
}
