//! The life of one connection in the stack.
//!
//! ```text
//!   opening ─ settled ─► carried ─ both ends closed, or reset ─► over
//!   (smoltcp)               │ the application lets go
//!                           └─► leaving ─ delivered, or no progress ─► over
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use tokio::sync::oneshot;

use super::super::connection::{Holder, Shared};
use super::super::flow::{Flow, Header};
use super::super::pool::Pool;
use super::super::stream::TunnelStream;
use super::super::transfer::{Opening, Transfer};

/// A connection whose other end does not acknowledge data, or does not answer probes where they are configured, is given
/// up after this long: a lid may be closed for a while, and retransmissions may come to lie a minute apart.
pub(super) const DEAD_AFTER: Duration = Duration::from_mins(5);
/// A stream that was closed and dropped has delivered everything; the other end may take this long to close as well.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(30);
/// A dial whose receiver is gone is noticed after this long.
const ABANDONED_CHECK: Duration = Duration::from_millis(500);
/// smoltcp wants buffers, and never sees a byte to put into them.
const UNUSED_BUFFER: usize = 1;

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
    pub(super) flow: Flow,
    pub(super) shared: Arc<Shared>,
    /// How far its window may open; counted in the stack's budget.
    window: usize,
    pub(super) stage: Stage,
    holder: Holder,
    /// What a stream that was dropped last got done, and when.
    leaving: Option<(Left, Instant)>,
}

pub(super) enum Stage {
    Opening(Box<Dawn>),
    Carried(Box<Transfer>),
    /// For the moment in which one becomes the other.
    Over,
}

/// A connection that smoltcp is opening. Its socket has a set of its own, because smoltcp looks at all sockets of a set for
/// each packet, and a thousand connections are not to slow each other down.
pub(super) struct Dawn {
    pub(super) set: SocketSet<'static>,
    handle: SocketHandle,
    pub(super) seen: Opening,
    /// Who waits for the connection to open.
    reply: Option<ConnectReply>,
}

/// What a stream that was dropped still has to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    is_delivered: bool,
    bytes: usize,
}

/// A socket for [`Connection::new`].
pub(super) fn new_socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; UNUSED_BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_ack_delay(None);
    socket
}

impl Connection {
    pub(super) fn new(
        flow: Flow,
        socket: Socket<'static>,
        window: usize,
        shared: Arc<Shared>,
        reply: Option<ConnectReply>,
    ) -> Self {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        let dawn = Dawn {
            set,
            handle,
            seen: Opening::default(),
            reply,
        };
        Self {
            flow,
            shared,
            window,
            stage: Stage::Opening(Box::new(dawn)),
            holder: Holder::Live,
            leaving: None,
        }
    }

    pub(super) fn window(&self) -> usize {
        match &self.stage {
            Stage::Carried(transfer) => transfer.window(),
            _ => self.window,
        }
    }

    /// Bytes that were sent and not acknowledged, and those in both rings.
    pub(super) fn buffered(&self) -> usize {
        let unacknowledged = match &self.stage {
            Stage::Carried(transfer) => transfer.unacknowledged(),
            _ => 0,
        };
        self.shared.buffered() + unacknowledged
    }

    /// Resets the connection with the next packet.
    pub(super) fn abort(&mut self) {
        match &mut self.stage {
            Stage::Opening(dawn) => dawn.set.get_mut::<Socket<'_>>(dawn.handle).abort(),
            Stage::Carried(transfer) => transfer.abort(),
            Stage::Over => {}
        }
    }

    /// The other end has answered, if it has: what follows is no more smoltcp's business. `packet` is one of this connection that
    /// smoltcp has not seen.
    pub(super) fn open(
        &mut self,
        packet: Option<(&[u8], &Header)>,
        pool: &Arc<Pool>,
        largest: usize,
        now: Instant,
    ) {
        let Stage::Opening(dawn) = &self.stage else { return };
        let is_open = match (dawn.socket().state(), packet) {
            (State::Established, _) => true,
            (State::SynReceived, Some((packet, header))) => dawn.seen.is_opened_by(packet, header),
            _ => false,
        };
        if !is_open {
            return;
        }
        if let Stage::Opening(dawn) = std::mem::replace(&mut self.stage, Stage::Over)
            && let Some(mut transfer) = dawn.seen.finish(pool, self.window, largest, now)
        {
            if packet.is_none() {
                // smoltcp has not sent it yet.
                transfer.want_acknowledgement();
            }
            self.stage = Stage::Carried(Box::new(transfer));
            if let Some(reply) = dawn.reply {
                // A receiver that is gone drops the stream, which resets the connection.
                drop(reply.send(Ok(TunnelStream::new(Arc::clone(&self.shared)))));
            }
        }
    }

    /// Moves bytes and ends between rings and connection. Until when it is to be called again at the latest, packets, timers and
    /// the application apart.
    pub(super) fn step(&mut self, now: Instant) -> Option<Instant> {
        match &mut self.stage {
            Stage::Opening(dawn) => {
                if dawn.reply.is_none() && self.shared.is_abandoned() {
                    dawn.set.get_mut::<Socket<'_>>(dawn.handle).abort();
                    self.holder = Holder::Gone;
                }
                let is_waited_for = dawn.settle();
                if !is_waited_for {
                    // Nobody will come for the rings.
                    self.holder = Holder::Gone;
                }
                dawn.reply.is_some().then(|| now + ABANDONED_CHECK)
            }
            Stage::Carried(transfer) => {
                self.holder = self.shared.pump(transfer);
                match self.holder {
                    Holder::Live => None,
                    Holder::Gone => {
                        transfer.abort();
                        None
                    }
                    Holder::Leaving => {
                        let end = self.leaves_by(now);
                        if end <= now {
                            self.abort();
                        }
                        Some(end)
                    }
                }
            }
            Stage::Over => None,
        }
    }

    /// Whether nothing is left to be done. What it had to send must have been let out before this is asked.
    pub(super) fn is_over(&self) -> bool {
        match &self.stage {
            // An endpoint is still known while a reset waits to be sent.
            Stage::Opening(dawn) => {
                dawn.socket().state() == State::Closed && dawn.socket().remote_endpoint().is_none()
            }
            Stage::Carried(transfer) => transfer.is_over() && !transfer.has_unread(),
            Stage::Over => true,
        }
    }

    /// When a stream that was dropped is given up, if it gets nowhere until then.
    fn leaves_by(&mut self, now: Instant) -> Instant {
        let left = Left {
            is_delivered: matches!(&self.stage, Stage::Carried(transfer) if transfer.is_delivered()),
            bytes: self.buffered(),
        };
        let since = match self.leaving {
            Some((before, since)) if before == left => since,
            _ => now,
        };
        self.leaving = Some((left, since));
        since
            + if left.is_delivered {
                LEAVE_WITHIN
            } else {
                DEAD_AFTER
            }
    }
}

impl Dawn {
    pub(super) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    /// Answers who waits for the connection, if it will not come to be. False when that was so.
    fn settle(&mut self) -> bool {
        let socket = self.set.get_mut::<Socket<'_>>(self.handle);
        let patience = (socket.state() == State::SynReceived).then_some(DEAD_AFTER);
        socket.set_timeout(patience.map(Into::into));
        let is_abandoned = self.reply.as_ref().is_some_and(oneshot::Sender::is_closed);
        if !is_abandoned && socket.state() != State::Closed {
            return true;
        }
        socket.abort();
        if let Some(reply) = self.reply.take() {
            // It may be gone already.
            drop(reply.send(Err(ConnectError::Refused)));
        }
        false
    }
}
