//! The live connections: what they are, what happens to them, and how to cut them.
//!
//! An entry is made when a request is understood, let in and routed, before it is dialled, so that a dial which is held
//! can be seen and cut too. It leaves with its task, however that ends: the entry is removed by a destructor.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::refusal::Refusal;
use super::routes::{Route, Transport};
use super::target::{Host, Target};

/// How many events a subscriber may fall behind. One connection makes three, so this is some 340 connections at once,
/// a third of what is let in at most, in about 100 KiB. A subscriber that falls further behind loses the oldest events and is
/// told so (`RecvError::Lagged`); it then reads [`ConnectionInfo`]s anew. The proxy itself never waits for a subscriber.
const EVENTS: usize = 1024;

/// One live connection, as it was when asked.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Unique within the life of the proxy; later connections have larger ids.
    pub id: u64,
    /// The client's end on the loopback interface.
    pub client: SocketAddr,
    /// Where the client wants to go.
    pub target: Target,
    /// The way that was chosen.
    pub route: Route,
    /// A connection, or the datagrams of one SOCKS association to one destination.
    pub transport: Transport,
    /// When the request was routed.
    pub opened_at: Instant,
    /// Bytes sent to the destination: the rewritten head of a forwarded request and what follows, or what passed
    /// after `CONNECT`.
    pub bytes_up: u64,
    /// Bytes sent to the client, likewise.
    pub bytes_down: u64,
    /// When bytes were last sent to the destination.
    pub sent_at: Option<Instant>,
    /// Whether the destination has been reached. An upgrade counts as established with the destination's own 101.
    pub established: bool,
}

/// What happened to a connection.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request was let in and routed; it is being dialled or held.
    Opened {
        /// See [`ConnectionInfo::id`].
        id: u64,
        /// The client's end on the loopback interface.
        client: SocketAddr,
        /// Where to.
        target: Target,
        /// Which way.
        route: Route,
    },
    /// The destination was reached.
    Established {
        /// See [`ConnectionInfo::id`].
        id: u64,
        /// Where to.
        target: Target,
        /// Which way.
        route: Route,
    },
    /// The connection ended; every `Opened` is followed by exactly one.
    Closed {
        /// See [`ConnectionInfo::id`].
        id: u64,
        /// Where to.
        target: Target,
        /// Which way.
        route: Route,
        /// See [`ConnectionInfo::bytes_up`].
        bytes_up: u64,
        /// See [`ConnectionInfo::bytes_down`].
        bytes_down: u64,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Both ends closed, or the answer to a forwarded request ended.
    Finished,
    /// The client reset the connection or went away while its request was held.
    ClientGone,
    /// The destination, or the tunnel to it, failed in the middle.
    DestinationFailed,
    /// The client sent a second request, or a broken body, on a connection that carries one request.
    ProtocolViolation,
    /// It was cut on purpose.
    Cut,
    /// It was never established; the client was told why.
    Refused(Refusal),
    /// The proxy was shut down.
    Shutdown,
}

/// Which connections to cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Every connection.
    All,
    /// The one with this id.
    Id(u64),
    /// Those to this host and port.
    Target(Target),
    /// Those to this host, whatever the port.
    Host(Host),
    /// Those that go this way.
    Route(Route),
    /// The one from this client address and port: with the port's owner known, the connections of one process.
    Client(SocketAddr),
}

/// What is entered into the table.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) client: SocketAddr,
    pub(super) target: Target,
    pub(super) route: Route,
    pub(super) transport: Transport,
}

/// All live connections. The lock is a std mutex because it is held for a few loads and never across an await.
#[derive(Debug)]
pub(super) struct Connections {
    live: Mutex<HashMap<u64, Arc<Entry>>>,
    next_id: AtomicU64,
    events: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    client: SocketAddr,
    target: Target,
    route: Route,
    transport: Transport,
    opened_at: Instant,
    counters: Counters,
    established: AtomicBool,
    cut: CancellationToken,
}

/// Bytes that passed, each way.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) up: Counter,
    pub(super) down: Counter,
}

/// Bytes that passed one way, and when the last of them did.
#[derive(Debug)]
pub(super) struct Counter {
    bytes: AtomicU64,
    made_at: Instant,
    /// Milliseconds from then to the last bytes.
    last: AtomicU64,
}

impl Counter {
    pub(super) fn add(&self, bytes: usize) {
        self.last
            .store(self.made_at.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn last(&self) -> Option<Instant> {
        (self.bytes() > 0).then(|| self.made_at + Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            made_at: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Connections {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            live: Mutex::default(),
            next_id: AtomicU64::new(1),
            events: broadcast::Sender::new(EVENTS),
        })
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// All of them, the oldest first.
    pub(super) fn list(&self) -> Vec<ConnectionInfo> {
        let mut list: Vec<_> = self.lock().values().map(|entry| entry.info()).collect();
        list.sort_unstable_by_key(|info| info.id);
        list
    }

    pub(super) fn cut(&self, filter: &Filter) -> usize {
        let live = self.lock();
        let matching = live
            .values()
            .filter(|entry| filter.matches(entry) && !entry.cut.is_cancelled());
        matching.map(|entry| entry.cut.cancel()).count()
    }

    /// Enters a connection.
    pub(super) fn open(self: &Arc<Self>, client: SocketAddr, target: Target, route: Route) -> Tracked {
        let opening = Opening {
            client,
            target,
            route,
            transport: Transport::Tcp,
        };
        self.open_with(opening, CancellationToken::new())
    }

    /// Enters what is cut by a token that others may share.
    pub(super) fn open_with(self: &Arc<Self>, opening: Opening, cut: CancellationToken) -> Tracked {
        let Opening {
            client,
            target,
            route,
            transport,
        } = opening;
        let entry = Arc::new(Entry {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            client,
            target: target.clone(),
            route,
            transport,
            opened_at: Instant::now(),
            counters: Counters::default(),
            established: AtomicBool::new(false),
            cut,
        });
        self.lock().insert(entry.id, Arc::clone(&entry));
        self.tell(Event::Opened {
            id: entry.id,
            client,
            target,
            route,
        });
        Tracked {
            connections: Arc::clone(self),
            entry,
            reason: None,
        }
    }

    fn tell(&self, event: Event) {
        // An error means that nobody subscribes, which is allowed.
        let _ = self.events.send(event);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        // No code panics while it holds the lock, and the map is whole between any two calls.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            client: self.client,
            target: self.target.clone(),
            route: self.route,
            transport: self.transport,
            opened_at: self.opened_at,
            bytes_up: self.counters.up.bytes(),
            bytes_down: self.counters.down.bytes(),
            sent_at: self.counters.up.last(),
            established: self.established.load(Ordering::Relaxed),
        }
    }
}

impl Filter {
    fn matches(&self, entry: &Entry) -> bool {
        match self {
            Self::All => true,
            Self::Id(id) => entry.id == *id,
            Self::Target(target) => entry.target == *target,
            Self::Host(host) => entry.target.host == *host,
            Self::Route(route) => entry.route == *route,
            Self::Client(client) => entry.client == *client,
        }
    }
}

/// A connection's place in the table, held by its task.
#[derive(Debug)]
pub(super) struct Tracked {
    connections: Arc<Connections>,
    entry: Arc<Entry>,
    reason: Option<CloseReason>,
}

impl Tracked {
    /// Resolves when the connection is to be cut.
    pub(super) fn cut(&self) -> CancellationToken {
        self.entry.cut.clone()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.entry.counters
    }

    pub(super) fn establish(&self) {
        if !self.entry.established.swap(true, Ordering::Relaxed) {
            let Entry {
                id, target, route, ..
            } = &*self.entry;
            self.connections.tell(Event::Established {
                id: *id,
                target: target.clone(),
                route: *route,
            });
        }
    }

    /// Takes the entry out of the table and tells why.
    pub(super) fn close(mut self, reason: CloseReason) {
        self.reason = Some(reason);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.entry.id);
        let ConnectionInfo {
            id,
            target,
            route,
            bytes_up,
            bytes_down,
            ..
        } = self.entry.info();
        // A task that is dropped before it could say why was dropped by the proxy's shutdown.
        let reason = self.reason.unwrap_or(CloseReason::Shutdown);
        self.connections.tell(Event::Closed {
            id,
            target,
            route,
            bytes_up,
            bytes_down,
            reason,
        });
    }
}

#[cfg(test)]
mod tests;
