//! Waking the thread from elsewhere, and telling it what for.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use mio::{Registry, Token, Waker};

/// Where the stack keeps a connection. A number is used again when its connection is gone, so one that comes late names
/// another connection; all that follows is a visit to it that finds nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) usize);

/// Ends the thread's sleep. Many calls between two rounds cost one system call.
pub(crate) struct Wake {
    waker: Waker,
    pending: AtomicBool,
    /// Connections whose application did something since the last round. Each is named once (see [`Touch`]), so there are at
    /// most as many as were open since then.
    touched: Mutex<Vec<Slot>>,
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
            touched: Mutex::new(Vec::new()),
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

    /// Exchanges `seen`, which is emptied, for what was touched since the last call.
    pub(super) fn take_touched(&self, seen: &mut Vec<Slot>) {
        seen.clear();
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *touched, seen);
    }

    fn touch(&self, slot: Slot) {
        self.touched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(slot);
    }
}

/// Names one connection to the thread, at most once until the thread has looked at it.
#[derive(Debug)]
pub(super) struct Touch {
    slot: Slot,
    is_named: AtomicBool,
}

impl Touch {
    pub(super) fn new(slot: Slot) -> Self {
        Self {
            slot,
            is_named: AtomicBool::new(false),
        }
    }

    /// Asks for a look at the connection. What the caller changed before is seen by it.
    pub(super) fn touch(&self, wake: &Wake) {
        if !self.is_named.swap(true, Ordering::AcqRel) {
            wake.touch(self.slot);
        }
        wake.wake();
    }

    /// To be called by the thread before it looks at the connection.
    pub(super) fn rearm(&self) {
        self.is_named.swap(false, Ordering::AcqRel);
    }
}
