//! The life of one connection in the stack.
//!
//! ```text
//!   opening ─ settled ─► carried ─ both ends closed, or reset ─► over
//!                           │ the application lets go
//!                           └─► leaving ─ delivered, or no progress ─► over
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use tokio::sync::oneshot;

use super::super::connection::{Holder, Shared};
use super::super::sequence::SentEnd;
use super::super::stream::TunnelStream;

/// A connection whose other end does not acknowledge data, or does not answer probes where they are configured, is given
/// up after this long: a lid may be closed for a while, and smoltcp's retransmissions may come to lie a minute apart.
pub(super) const DEAD_AFTER: Duration = Duration::from_mins(5);
/// A stream that was closed and dropped has delivered everything; the other end may take this long to close as well.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(30);
/// Why no connection came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// The other end answered with a reset, or the connection was reset here.
    Refused,
    /// All connections are in use.
    TooMany,
    /// We have no address of that family, or the destination cannot be dialled.
    Unaddressable,
}

pub(crate) type ConnectReply = oneshot::Sender<Result<TunnelStream, ConnectError>>;

/// A connection as the stack keeps it.
pub(super) struct Connection {
    pub(super) handle: SocketHandle,
    pub(super) shared: Arc<Shared>,
    pub(super) sent: SentEnd,
    /// Who waits for the connection to open.
    opening: Option<ConnectReply>,
    /// Set in the round in which the connection was first seen over; it goes in the next, when its last ACK is sent.
    time_wait: bool,
    /// What a stream that was dropped last got done, and when.
    leaving: Option<(Left, Instant)>,
}

/// What a stream that was dropped still has to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    state: State,
    bytes: usize,
}

impl Connection {
    pub(super) fn new(handle: SocketHandle, shared: Arc<Shared>, opening: Option<ConnectReply>) -> Self {
        Self {
            handle,
            shared,
            sent: SentEnd::default(),
            opening,
            time_wait: false,
            leaving: None,
        }
    }

    /// One round of a connection. True when it is over.
    pub(super) fn step(&mut self, socket: &mut Socket<'_>, now: Instant) -> bool {
        if let Some(reply) = self.opening.take() {
            self.opening = self.settle(reply, socket);
            if self.opening.is_some() {
                return false;
            }
        }
        let holder = self.shared.pump(socket);
        match holder {
            Holder::Leaving if self.lingers(socket, now) => socket.abort(),
            Holder::Live | Holder::Leaving => {}
            Holder::Gone => socket.abort(),
        }
        socket.set_timeout(patience(socket).map(Into::into));
        let delivered = holder != Holder::Live || !socket.can_recv();
        match socket.state() {
            // An endpoint is still known while a reset waits to be sent.
            State::Closed => delivered && socket.remote_endpoint().is_none(),
            State::TimeWait => delivered && std::mem::replace(&mut self.time_wait, true),
            _ => false,
        }
    }

    /// Whether a stream that was dropped gets nowhere any more.
    fn lingers(&mut self, socket: &Socket<'_>, now: Instant) -> bool {
        let left = Left {
            state: socket.state(),
            bytes: socket.send_queue() + self.shared.buffered(),
        };
        let since = match self.leaving {
            Some((before, since)) if before == left => since,
            _ => now,
        };
        self.leaving = Some((left, since));
        let limit = if left.state == State::FinWait2 {
            LEAVE_WITHIN
        } else {
            DEAD_AFTER
        };
        now.saturating_duration_since(since) >= limit
    }

    /// Answers who waits for the connection, if its fate is known; gives back `reply` if not.
    fn settle(&self, reply: ConnectReply, socket: &mut Socket<'_>) -> Option<ConnectReply> {
        let outcome = match socket.state() {
            State::SynSent | State::SynReceived if !reply.is_closed() => return Some(reply),
            State::Closed | State::SynSent | State::SynReceived => {
                socket.abort();
                // Nobody will come for the rings.
                self.shared.lock().dropped = true;
                Err(ConnectError::Refused)
            }
            _ => Ok(TunnelStream::new(Arc::clone(&self.shared))),
        };
        // A receiver that is gone drops the stream, which resets the connection.
        drop(reply.send(outcome));
        None
    }
}

/// How long the other end of a connection may be silent. smoltcp counts from the last packet it received, or from the
/// first byte that is queued on an idle connection; without probes, silence on an idle connection means nothing.
fn patience(socket: &Socket<'_>) -> Option<Duration> {
    let expects =
        socket.send_queue() > 0 || socket.state() == State::SynReceived || socket.keep_alive().is_some();
    expects.then_some(DEAD_AFTER)
}
