//! A connection between its application task and the thread: one bounded ring each way.
//!
//! ```text
//!   application ── write ──► outgoing ring ──pump──► smoltcp send buffer
//!   application ◄── read ─── incoming ring ◄──pump── smoltcp receive buffer
//! ```
//!
//! A full ring stops its writer: the application waits, or smoltcp's window closes and the other end stops. Each
//! direction ends on its own. What the application sees of the end: EOF after the other end's FIN, else a reset.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use smoltcp::socket::tcp::{RecvError, Socket, State};

use super::wake::{Slot, Touch, Wake};

/// Bytes a ring holds at most, where there is memory enough; it is taken as it is first used. Enough for a wake-up's worth of
/// data; the window proper is smoltcp's buffer.
pub(super) const RING: usize = 128 << 10;

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

#[derive(Debug, Default)]
pub(super) struct Rings {
    pub(super) incoming: VecDeque<u8>,
    pub(super) end: Option<End>,
    /// The pump left bytes behind for want of room.
    pub(super) incoming_blocked: bool,
    pub(super) reader: Option<Waker>,
    pub(super) outgoing: VecDeque<u8>,
    pub(super) sending: Sending,
    pub(super) writer: Option<Waker>,
    /// The application let go of the stream.
    pub(super) dropped: bool,
}

/// What both sides share.
pub(super) struct Shared {
    rings: Mutex<Rings>,
    ring: usize,
    touch: Touch,
    wake: Arc<Wake>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// Two rings of `ring` bytes, for the connection at `slot`.
    pub(super) fn new(ring: usize, slot: Slot, wake: Arc<Wake>) -> Self {
        Self {
            rings: Mutex::new(Rings::default()),
            ring,
            touch: Touch::new(slot),
            wake,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Rings> {
        // No code panics while it holds the lock; and if some did, bytes and flags are still whole.
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes each ring holds at most.
    pub(super) fn ring(&self) -> usize {
        self.ring
    }

    /// Room in a ring that is worth a wake-up of who waits for it: less would make one for each small read or write.
    pub(super) fn worthwhile(&self) -> usize {
        self.ring / 2
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
        }
        let wakers = [rings.reader.take(), rings.writer.take()];
        drop(rings);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Moves bytes and ends between rings and socket, and says whether the application still holds the stream.
    pub(super) fn pump(&self, socket: &mut Socket<'_>) -> Holder {
        self.touch.rearm();
        let mut guard = self.lock();
        let rings = &mut *guard;
        if rings.dropped && must_abort(rings, socket) {
            return Holder::Gone;
        }
        let reader = rings
            .pump_incoming(self.ring, socket)
            .then(|| rings.reader.take())
            .flatten();
        let writer = rings
            .pump_outgoing(self.ring - self.worthwhile(), socket)
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
}

/// A dropped stream is closed cleanly when it was shut down and nothing was left unread; what arrives afterwards is for
/// nobody.
fn must_abort(rings: &Rings, socket: &Socket<'_>) -> bool {
    !matches!(rings.sending, Sending::Shut | Sending::Finished)
        || !rings.incoming.is_empty()
        || socket.can_recv()
}

impl Rings {
    /// True when the reader has something to see.
    fn pump_incoming(&mut self, ring: usize, socket: &mut Socket<'_>) -> bool {
        if matches!(
            socket.state(),
            State::Listen | State::SynSent | State::SynReceived
        ) {
            return false;
        }
        let before = self.incoming.len();
        while self.incoming.len() < ring && socket.can_recv() {
            let room = ring - self.incoming.len();
            let moved = socket.recv(|bytes| {
                let len = bytes.len().min(room);
                self.incoming.extend(&bytes[..len]);
                (len, ())
            });
            if moved.is_err() {
                break;
            }
        }
        self.incoming_blocked = socket.can_recv();
        if self.end.is_none() && !self.incoming_blocked {
            self.end = match socket.recv(|_| (0, ())) {
                Ok(()) => None,
                Err(RecvError::Finished) => Some(End::Eof),
                Err(RecvError::InvalidState) => Some(End::Reset),
            };
        }
        self.incoming.len() > before || self.end.is_some()
    }

    /// True when the writer has something to see: an end, or that no more than `low` bytes are left.
    fn pump_outgoing(&mut self, low: usize, socket: &mut Socket<'_>) -> bool {
        if matches!(
            socket.state(),
            State::Listen | State::SynSent | State::SynReceived
        ) {
            return false;
        }
        let before = self.outgoing.len();
        while !self.outgoing.is_empty() && socket.can_send() {
            let Ok(len) = socket.send_slice(self.outgoing.as_slices().0) else {
                break;
            };
            self.outgoing.drain(..len);
        }
        if self.sending != Sending::Finished && !socket.may_send() {
            self.sending = Sending::Broken;
            self.outgoing.clear();
        }
        if self.sending == Sending::Shut && self.outgoing.is_empty() {
            socket.close();
            self.sending = Sending::Finished;
        }
        (self.outgoing.len() < before && self.outgoing.len() <= low) || self.sending == Sending::Broken
    }
}
