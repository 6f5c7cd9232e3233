//! A connection between its application task and the thread: one bounded ring each way.
//!
//! ```text
//!   application ── write ──► outgoing ring ──pump──► sender
//!   application ◄── read ─── incoming ring ◄──pump── receiver
//! ```
//!
//! What moves are blocks (see `pool`), not bytes. The incoming ring is bounded by the window, which opens as it is read; a full
//! outgoing ring stops its writer. Each direction ends on its own. What the application sees of the end: EOF after the
//! other end's FIN, else a reset.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::pool::{BLOCK, Pool, Queue};
use super::transfer::Transfer;
use super::wake::{Slot, Touch, Wake};

/// Bytes that wait to be taken by the thread at most: enough for the time until the application is awake again.
const RING: usize = 512 << 10;
/// The same, when memory is short.
const NARROW_RING: usize = BLOCK;

/// How the incoming direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The other end sent everything.
    Eof,
    /// Reset by either end, or given up.
    Reset,
}

/// What the application does with its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// It holds it.
    Live,
    /// It closed it properly and let go; the rest is to be delivered.
    Leaving,
    /// It let go in the middle: the connection is to be reset.
    Gone,
}

/// The outgoing direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sending {
    /// The application may write.
    #[default]
    Open,
    /// It writes no more; the ring is being emptied.
    Shut,
    /// FIN was handed to the stack.
    Finished,
    /// The stack takes no more.
    Broken,
}

#[derive(Debug)]
pub(super) struct Rings {
    pub(super) incoming: Queue,
    pub(super) end: Option<End>,
    /// When so little is left to be read, the window may open far enough to tell the other end.
    pub(super) update_below: Option<usize>,
    pub(super) reader: Option<Waker>,
    pub(super) outgoing: Queue,
    pub(super) sending: Sending,
    pub(super) writer: Option<Waker>,
    /// The application let go of the stream.
    pub(super) dropped: bool,
}

/// What both sides share.
pub(super) struct Shared {
    rings: Mutex<Rings>,
    pool: Arc<Pool>,
    touch: Touch,
    wake: Arc<Wake>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pool.leave();
    }
}

impl Shared {
    /// The rings of the connection at `slot`.
    pub(super) fn new(pool: &Arc<Pool>, slot: Slot, wake: Arc<Wake>) -> Self {
        let rings = Rings {
            incoming: Queue::new(Arc::clone(pool)),
            end: None,
            update_below: None,
            reader: None,
            outgoing: Queue::new(Arc::clone(pool)),
            sending: Sending::default(),
            writer: None,
            dropped: false,
        };
        pool.enter();
        Self {
            rings: Mutex::new(rings),
            pool: Arc::clone(pool),
            touch: Touch::new(slot),
            wake,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Rings> {
        // No code panics while it holds the lock; and if some did, bytes and flags are still whole.
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that may wait in the outgoing ring.
    pub(super) fn ring(&self) -> usize {
        if self.pool.free() > self.pool.limit() / 4 {
            RING
        } else {
            NARROW_RING
        }
    }

    /// Makes the thread look at this connection.
    pub(super) fn wake(&self) {
        self.touch.touch(&self.wake);
    }

    /// Bytes in both rings.
    pub(super) fn buffered(&self) -> usize {
        let rings = self.lock();
        rings.incoming.len() + rings.outgoing.len()
    }

    /// Ends both directions, as far as they have not ended. To be called when the thread forgets the connection.
    pub(super) fn finish(&self) {
        let mut rings = self.lock();
        rings.end.get_or_insert(End::Reset);
        if rings.sending != Sending::Finished {
            rings.sending = Sending::Broken;
            rings.outgoing.clear();
        }
        rings.update_below = None;
        let wakers = [rings.reader.take(), rings.writer.take()];
        drop(rings);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Moves bytes and ends between rings and connection, and says whether the application still holds the stream.
    pub(super) fn pump(&self, transfer: &mut Transfer) -> Holder {
        self.touch.rearm();
        let mut guard = self.lock();
        let rings = &mut *guard;
        if rings.dropped && must_abort(rings, transfer) {
            return Holder::Gone;
        }
        let reader = rings
            .pump_incoming(transfer)
            .then(|| rings.reader.take())
            .flatten();
        let writer = rings
            .pump_outgoing(self.ring() / 2, transfer)
            .then(|| rings.writer.take())
            .flatten();
        let holder = if rings.dropped {
            Holder::Leaving
        } else {
            Holder::Live
        };
        drop(guard);
        [reader, writer].into_iter().flatten().for_each(Waker::wake);
        holder
    }

    /// Whether the application let go in the middle, while there is no connection yet.
    pub(super) fn is_abandoned(&self) -> bool {
        self.touch.rearm();
        let rings = self.lock();
        rings.dropped && rings.sending == Sending::Open
    }
}

/// A dropped stream is closed cleanly when it was shut down and nothing was left unread; what arrives afterwards is for
/// nobody.
fn must_abort(rings: &Rings, transfer: &Transfer) -> bool {
    !matches!(rings.sending, Sending::Shut | Sending::Finished)
        || !rings.incoming.is_empty()
        || transfer.has_unread()
}

impl Rings {
    /// True when the reader has something to see.
    fn pump_incoming(&mut self, transfer: &mut Transfer) -> bool {
        let has_more = transfer.hand_over(&mut self.incoming);
        if self.end.is_none() {
            self.end = if transfer.has_ended() {
                Some(End::Eof)
            } else {
                transfer.is_reset().then_some(End::Reset)
            };
        }
        self.update_below = transfer.update_below().filter(|_| self.end.is_none());
        has_more || self.end.is_some()
    }

    /// True when the writer has something to see: an end, or that no more than `low` bytes are left.
    fn pump_outgoing(&mut self, low: usize, transfer: &mut Transfer) -> bool {
        let before = self.outgoing.len();
        transfer.take(&mut self.outgoing);
        if transfer.is_reset() && self.sending != Sending::Finished {
            self.sending = Sending::Broken;
            self.outgoing.clear();
        }
        if self.sending == Sending::Shut && self.outgoing.is_empty() {
            transfer.close();
            self.sending = Sending::Finished;
        }
        (self.outgoing.len() < before && self.outgoing.len() <= low) || self.sending == Sending::Broken
    }
}
