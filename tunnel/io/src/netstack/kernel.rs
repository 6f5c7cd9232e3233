//! The kernel's own TCP for the connections that a gateway lets in (Linux).
//!
//! Behind a TUN device, in a network namespace of this process alone, one socket of each family accepts everything (see
//! `namespace::landing`). Nothing comes to that device but packets of connections that were let in one by one:
//!
//! ```text
//!   front: SYN of 100.64.0.7:40000 to 100.127.1.1:443, its upstream answered
//!     │ accept(): it gets a number, here 17
//!     ▼                                     translated                                      kernel
//!   100.64.0.7:40000 ─► 100.127.1.1:443  ═══════════════►  100.64.0.7:40000 ─► 240.0.0.17:5182 ─► accept(), number 17
//!   100.127.1.1:443  ─► 100.64.0.7:40000  ◄═══════════════  240.0.0.17:5182 ─► 100.64.0.7:40000 ◄─┘
//! ```
//!
//! So a listening socket, which accepts before anyone can be asked, never meets a connection whose upstream did not answer;
//! whatever policy names, the namespace stays as it was made; networks of the policy and addresses of peers may overlap; and no
//! peer reaches anything else in there. A number is not used again until all the others were.
//!
//! A connection's life, in `table`:
//!
//! ```text
//!   accepted ─ its stream is gone ─► left ─ both FINs are acknowledged, a reset, or 60 s of silence ─► over
//!      │ aborted: the kernel's socket is reset, and is left
//! ```
//!
//! Nobody holds the socket of a connection that was left, and the kernel would repeat what its peer does not acknowledge for
//! minutes. So one that is over before both ends had their say is reset in the namespace, as its peer would do it; and whatever
//! else the kernel says for a connection that is over is answered with a reset, as by any host that knows no such connection.
//!
//! Streams belong to tokio tasks and are sockets of the kernel (`arrivals`); bytes do not pass through this thread, packets do.
//! The kernel bounds the memory of each socket (`tcp_rmem`, `tcp_wmem`), places bound their number, and `memory` what they hold
//! together. When the thread ends, it resets every connection first, so that both ends hear of it.
//!
//! There is no process behind it that could die. Its device can be taken away by who goes into the namespace, as root: then
//! every connection is over at once, a peer hears that at its next packet, and new ones are smoltcp's (see [`Loss`]) until
//! another namespace takes the place of this one (`gateway::regain`).

mod arrivals;
mod memory;
mod packet;
mod table;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use orfe_tunnel_core::{Batch, Datagrams};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub(crate) use self::arrivals::Arrivals;
use self::memory::Memory;
pub(crate) use self::packet::fuzzing;
use self::packet::{Checksum, End, Segment, reset};
use self::table::{Carried, Table};
use super::Accepted;
use super::flow::Flow;
use super::nodes::Nodes;
use crate::namespace::{LANDING_PORT, LANDING_V4, LANDING_V6, Landing};
use crate::places::Places;
use crate::tun::TunDevice;
use crate::tun::offload::{Group, HEADER_LEN, SPARE, needs_checksum, split, write_joined};

/// Longest packet of the device.
const MAX_PACKET: usize = 65_535;
/// Bytes that are read from the device in one round; then what comes from the network has its turn.
const ROUND_BYTES: usize = 65_536;

/// A connection's number: the lower bits of its address in the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Number(u32);

/// Bits of a number: what the prefix of [`LANDING_V4`] leaves. IPv6 has room for more.
const NUMBER_BITS: u32 = 24;

impl Number {
    /// The one behind it. Zero is none.
    fn next(self) -> Self {
        Self((self.0 + 1) % (1 << NUMBER_BITS)).or_first()
    }

    fn or_first(self) -> Self {
        Self(self.0.max(1))
    }

    /// Its end in the namespace, of the family of `like`.
    fn address(self, like: IpAddr) -> SocketAddr {
        let ip = match like {
            IpAddr::V4(_) => IpAddr::V4((LANDING_V4.0.to_bits() | self.0).into()),
            IpAddr::V6(_) => IpAddr::V6((LANDING_V6.0.to_bits() | u128::from(self.0)).into()),
        };
        SocketAddr::new(ip, LANDING_PORT)
    }

    /// The number of a connection by its end in the namespace.
    fn of(local: SocketAddr) -> Option<Self> {
        let bits = match local.ip() {
            IpAddr::V4(v4) => v4.to_bits() ^ LANDING_V4.0.to_bits(),
            IpAddr::V6(v6) => u32::try_from(v6.to_bits() ^ LANDING_V6.0.to_bits()).ok()?,
        };
        (bits != 0 && bits >> NUMBER_BITS == 0 && local.port() == LANDING_PORT).then_some(Self(bits))
    }
}

/// Word that the device of a namespace is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    /// What the system says when it is read.
    pub(crate) reason: Arc<str>,
}

/// The kernel's TCP, as one thread has it.
#[derive(Debug)]
pub(crate) struct KernelStack {
    device: TunDevice,
    has_v6: bool,
    table: Table,
    arrivals: Arc<Arrivals>,
    places: Places,
    memory: Memory,
    /// Packets for the namespace, until the end of the round.
    inward: Batch<()>,
    joined: Vec<Group>,
    buffer: Vec<u8>,
    /// Readiness is reported on edges only: it holds until the device says that it has no more.
    pub(super) readable: bool,
}

impl KernelStack {
    /// Takes a namespace for at most so many connections, which may hold so many bytes together, within a tokio runtime. The
    /// listeners are to be served by [`Arrivals::serve`].
    pub(crate) fn new(
        landing: Landing,
        max_connections: usize,
        memory: usize,
    ) -> io::Result<(Self, Vec<TcpListener>)> {
        let listeners = landing.listeners.into_iter().map(arrivals::listener);
        let listeners: Vec<TcpListener> = listeners.collect::<io::Result<_>>()?;
        let stack = Self {
            device: TunDevice::from_fd(landing.tun, true)?,
            has_v6: listeners.len() > 1,
            table: Table::default(),
            arrivals: Arc::default(),
            places: Places::new(max_connections, |_| ()),
            memory: Memory::new(memory),
            inward: Batch::new(),
            joined: Vec::new(),
            buffer: vec![0; HEADER_LEN + MAX_PACKET + SPARE],
            readable: true,
        };
        Ok((stack, listeners))
    }

    /// Where its connections arrive.
    pub(crate) fn arrivals(&self) -> Arc<Arrivals> {
        Arc::clone(&self.arrivals)
    }

    /// Whether it can carry this connection: not where the system has no IPv6 and it is one of IPv6, and none any more when the
    /// device is gone. smoltcp has those.
    pub(crate) fn can_carry(&self, flow: &Flow) -> bool {
        self.arrivals.loss().is_none() && (flow.local.is_ipv4() || self.has_v6)
    }

    /// Lets in `syn`, the first packet of `flow`; `reply` gets the stream once the handshake is complete. `None` when there is
    /// no place.
    pub(crate) fn accept(
        &mut self,
        flow: Flow,
        syn: &[u8],
        reply: oneshot::Sender<Accepted>,
        now: Instant,
    ) -> Option<Number> {
        let place = self.places.take().ok()?;
        let number = self.table.insert(flow, now);
        self.arrivals.expect(number, reply, place);
        self.push(number, syn, now);
        Some(number)
    }

    /// Queues a packet of a connection that was let in.
    pub(crate) fn push(&mut self, number: Number, packet: &[u8], now: Instant) {
        let Some(segment) = Segment::parse(packet) else {
            return;
        };
        let Some(carried) = self.table.get_mut(number) else {
            return;
        };
        carried.note_incoming(&segment, now);
        let is_left = carried.is_left();
        let to = number.address(carried.flow.local.ip());
        self.inward.push(packet, ());
        if let Some((packet, ())) = self.inward.get_mut(self.inward.len() - 1) {
            segment.redirect(packet, End::Destination, to, Checksum::Whole);
        }
        if is_left {
            self.table.settle(number);
        }
    }

    /// Whether the stream of a connection is gone, so that a new one may begin in its place.
    pub(crate) fn is_left(&self, number: Number) -> bool {
        self.table.get(number).is_none_or(Carried::is_left)
    }

    /// The stream of a connection is gone. What it wrote is still delivered.
    pub(crate) fn leave(&mut self, number: Number, now: Instant) {
        self.arrivals.forget(number);
        self.table.leave(number, now);
    }

    /// Resets a connection. What the kernel says to its peer still passes, and then it is over. One whose stream is gone has nothing
    /// to be reset, and is over at once: its peer does without what it had yet to hear.
    pub(crate) fn abort(&mut self, number: Number, now: Instant) {
        let is_left = self.is_left(number);
        self.arrivals.reset(number);
        self.table.leave(number, now);
        self.table.disown(number);
        if is_left {
            self.table.finish(number);
        }
        self.readable = true;
    }

    /// The next connection that is over. `None` when the namespace has been told of all of them.
    pub(super) fn poll_over(&mut self, now: Instant) -> Option<(Flow, Number)> {
        let over = self.table.poll_over(now);
        if over.is_none() {
            self.flush();
        }
        over
    }

    /// Number of connections, those being opened or closed included.
    pub(crate) fn connections(&self) -> usize {
        self.table.owned()
    }

    /// Bytes of the kernel's memory that the connections held a moment ago.
    pub(crate) fn buffered(&self) -> usize {
        self.memory.held()
    }

    /// Looks at the memory that the connections hold when it is time for that, and keeps it within its bound.
    pub(super) fn bound_memory(&mut self, now: Instant) {
        if self.memory.is_due(now) {
            self.memory.look(&self.arrivals.sockets(), now);
        }
    }

    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let fd = self.device.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// Gives the queued packets to the namespace, joined where that is possible. One that it does not take is lost, as it would
    /// be on a link.
    pub(super) fn flush(&mut self) {
        self.cut();
        if self.inward.is_empty() {
            return;
        }
        write_joined(&self.device, &mut self.inward, &mut self.joined);
        // What was written may have been answered at once.
        self.readable = true;
    }

    /// Resets the connections in the namespace that are over for everybody else.
    fn cut(&mut self) {
        while let Some(cut) = self.table.poll_cut() {
            let to = cut.number.address(cut.flow.local.ip());
            self.inward.push(&reset(cut.flow.remote, to, cut.expected), ());
        }
    }

    /// Takes what the namespace sends and encrypts it, as much as one round may have.
    pub(super) fn transmit(&mut self, node: &mut Nodes, now: Instant, out: &mut Datagrams) {
        let mut taken = 0;
        while self.readable && taken < ROUND_BYTES {
            let room = self.buffer.len() - SPARE;
            match self.device.read(&mut self.buffer[..room]) {
                Ok(len) => {
                    self.pass_on(len, node, now, out);
                    taken += len;
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.lose(&error);
                    }
                    self.readable = false;
                }
            }
        }
        self.flush();
    }

    /// The device is gone, and with it everything that the kernel could say to peers: whose connection is over is answered with
    /// a reset when it sends something.
    pub(super) fn lose(&mut self, error: &io::Error) {
        let loss = Loss {
            reason: error.to_string().into(),
        };
        if !self.arrivals.lose(loss) {
            return;
        }
        tracing::error!(
            %error,
            connections = self.connections(),
            "the device of the private network namespace is gone: its connections are over, new ones have smoltcp until there is a new one"
        );
        self.reset_all();
        self.table.end_all();
    }

    /// Encrypts the packet of `len` bytes in the buffer. What belongs to no connection (the kernel asks for routers, say) goes
    /// nowhere.
    fn pass_on(&mut self, len: usize, node: &mut Nodes, now: Instant, out: &mut Datagrams) {
        let Some((header, packet)) = self.buffer[..len].split_at_mut_checked(HEADER_LEN) else {
            return;
        };
        let Some(segment) = Segment::parse(packet) else {
            return;
        };
        let Some(number) = Number::of(segment.source) else {
            return;
        };
        let carried = self.table.get_mut(number);
        let Some(carried) = carried.filter(|carried| carried.flow.remote == segment.destination) else {
            self.answer_stranger(&segment);
            return;
        };
        carried.note_outgoing(&segment, now);
        let checksum = if needs_checksum(header) {
            Checksum::PseudoHeader
        } else {
            Checksum::Whole
        };
        segment.redirect(packet, End::Source, carried.flow.local, checksum);
        if carried.is_left() {
            self.table.settle(number);
        }
        let buffer = &mut self.buffer;
        node.outbound(now, out, |push| {
            if split(buffer, len, true, push).is_err() {
                tracing::debug!(len, "the namespace gave a packet that contradicts its header");
            }
        });
    }

    /// Ends a connection of the kernel's that nobody else knows any more.
    fn answer_stranger(&mut self, segment: &Segment) {
        if let Some(expected) = segment.acknowledged.filter(|_| !segment.is_reset) {
            let packet = reset(segment.destination, segment.source, expected);
            self.inward.push(&packet, ());
        }
    }

    /// Resets every connection. What the kernel says to their peers is to be taken once more.
    pub(super) fn reset_all(&mut self) {
        self.places.close();
        self.arrivals.reset_all();
        self.readable = true;
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        // Without the device, sockets would wait for their peers for minutes.
        self.reset_all();
        self.arrivals.end();
    }
}
