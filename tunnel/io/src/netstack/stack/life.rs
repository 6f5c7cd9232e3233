//! The life of one connection in the stack.
//!
//! ```text
//!   opening ─ settled ─► carried ─ both ends closed, or reset ─► over
//!                           │ the application lets go
//!                           └─► leaving ─ delivered, or no progress ─► over
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, State};
use tokio::sync::oneshot;

use super::super::buffers::Size;
use super::super::connection::{Holder, Shared};
use super::super::flow::Flow;
use super::super::sender::Sender;
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

/// An acknowledgement goes out for every second packet (RFC 9293, section 3.8.6.3), so that the other end's window opens
/// as fast as it may; once that is over, fewer do.
const ACKNOWLEDGE_EVERY: usize = 2;
const ACKNOWLEDGE_EVERY_LATER: usize = 8;
/// Packets after which it is over.
const LATER: u64 = 4096;
/// A dial whose receiver is gone is noticed after this long.
const ABANDONED_CHECK: Duration = Duration::from_millis(500);

/// A connection as the stack keeps it. Its socket has a set of its own, because smoltcp looks at all sockets of a set for
/// each packet, and a thousand connections are not to slow each other down.
pub(super) struct Connection {
    pub(super) flow: Flow,
    pub(super) set: SocketSet<'static>,
    pub(super) handle: SocketHandle,
    pub(super) shared: Arc<Shared>,
    pub(super) sender: Sender,
    pub(super) size: Size,
    /// Packets that came since the last acknowledgement was let out.
    pub(super) unacknowledged: usize,
    /// Packets that came.
    received: u64,
    /// Congestion is the sender's business, no more smoltcp's.
    is_relieved: bool,
    /// Who waits for the connection to open.
    opening: Option<ConnectReply>,
    holder: Holder,
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
    pub(super) fn new(
        flow: Flow,
        socket: Socket<'static>,
        size: Size,
        shared: Arc<Shared>,
        opening: Option<ConnectReply>,
    ) -> Self {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Self {
            flow,
            set,
            handle,
            shared,
            sender: Sender::default(),
            size,
            unacknowledged: 0,
            received: 0,
            is_relieved: false,
            opening,
            holder: Holder::Live,
            leaving: None,
        }
    }

    pub(super) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// A packet came: whether what was received is to be acknowledged before the round is over.
    pub(super) fn must_acknowledge(&mut self) -> bool {
        self.received += 1;
        self.unacknowledged += 1;
        if self.sender.is_active() && !self.is_relieved {
            self.is_relieved = true;
            self.socket_mut().set_congestion_control(CongestionControl::None);
        }
        let every = if self.received < LATER {
            ACKNOWLEDGE_EVERY
        } else {
            ACKNOWLEDGE_EVERY_LATER
        };
        let is_due = self.unacknowledged >= every;
        if is_due {
            self.unacknowledged = 0;
        }
        is_due
    }

    /// Moves bytes and ends between rings and socket. Until when it is to be called again at the latest, packets, timers of
    /// the socket and the application apart.
    pub(super) fn step(&mut self, now: Instant) -> Option<Instant> {
        if let Some(reply) = self.opening.take() {
            self.opening = self.settle(reply);
            if self.opening.is_some() {
                return Some(now + ABANDONED_CHECK);
            }
        }
        let socket = self.set.get_mut::<Socket<'_>>(self.handle);
        self.holder = self.shared.pump(socket);
        let mut deadline = None;
        match self.holder {
            Holder::Live => {}
            Holder::Leaving => {
                let end = self.leaves_by(now);
                if end <= now {
                    self.socket_mut().abort();
                } else {
                    deadline = Some(end);
                }
            }
            Holder::Gone => socket.abort(),
        }
        let socket = self.socket_mut();
        let patience = patience(socket);
        socket.set_timeout(patience.map(Into::into));
        deadline
    }

    /// Whether nothing is left to be done. What it had to send must have been let out before this is asked.
    pub(super) fn is_over(&self) -> bool {
        let socket = self.socket();
        let is_delivered = self.holder != Holder::Live || !socket.can_recv();
        match socket.state() {
            // An endpoint is still known while a reset waits to be sent.
            State::Closed => is_delivered && socket.remote_endpoint().is_none(),
            State::TimeWait => is_delivered,
            _ => false,
        }
    }

    /// When a stream that was dropped is given up, if it gets nowhere until then.
    fn leaves_by(&mut self, now: Instant) -> Instant {
        let socket = self.socket();
        let left = Left {
            state: socket.state(),
            bytes: socket.send_queue() + self.shared.buffered(),
        };
        let since = match self.leaving {
            Some((before, since)) if before == left => since,
            _ => now,
        };
        self.leaving = Some((left, since));
        since
            + if left.state == State::FinWait2 {
                LEAVE_WITHIN
            } else {
                DEAD_AFTER
            }
    }

    /// Answers who waits for the connection, if its fate is known; gives back `reply` if not.
    fn settle(&mut self, reply: ConnectReply) -> Option<ConnectReply> {
        let socket = self.set.get_mut::<Socket<'_>>(self.handle);
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
