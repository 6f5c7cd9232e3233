//! Waking the thread from elsewhere.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::{Registry, Token, Waker};

/// Ends the thread's sleep. Many calls between two rounds cost one system call.
pub(crate) struct Wake {
    waker: Waker,
    pending: AtomicBool,
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wake").finish_non_exhaustive()
    }
}

impl Wake {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self {
            waker: Waker::new(registry, token)?,
            pending: AtomicBool::new(false),
        })
    }

    /// Asks for another round. What the caller changed before is seen by that round.
    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "could not wake the tunnel's thread");
        }
    }

    /// To be called by the thread when it woke, before it looks at anything.
    pub(crate) fn rearm(&self) {
        self.pending.swap(false, Ordering::AcqRel);
    }
}
