//! The local proxy: the one way by which a provisioner reaches anything.
//!
//! It listens on a loopback address, asks every request for a credential, and routes by destination: names and networks
//! of the policy through the tunnel, everything else directly or through the machine owner's own proxy. One port speaks
//! HTTP/1.1 (`CONNECT`, and absolute-form with and without `Upgrade`, because Go's HTTP client uses all three) and SOCKS5
//! (CONNECT and UDP ASSOCIATE); the first byte of a connection tells which.
//!
//! ```text
//! accept ─► lobby ─► head ─► credential ─► a place ─► route ─► dial (held while the tunnel rises) ─► splice
//!          pushed out  400…     407          503        502        502, 503, 504                    cut, closed
//! ```
//!
//! * `listen` accepts; `lobby` bounds who has shown no credential; `admit` lets in; `serve` carries who was let in.
//! * `head` and `target` read an HTTP request strictly and write it for the next hop; `body` knows where it ends.
//! * `socks` reads SOCKS; its `associate` carries datagrams.
//! * `routes` decides; `reach` dials; `lookup` asks the gateway for names of the cluster; `upstream` is the owner's proxy.
//! * `connections` is what the daemon sees: a table, events, and the means to cut.
//! * [`Forward`] is a port that leads to one destination; [`Outlet`] opens connections for who has no port at all.
//!
//! # Who else can reach a loopback port
//!
//! Every user and program of the machine, and every web page that its browser shows: a page may send requests to
//! `http://127.0.0.1:PORT` from its own origin (CSRF), and one whose name is made to resolve to 127.0.0.1 after it has loaded
//! (DNS rebinding) may even read the answers. Against all of them stands the credential, compared in constant time: 100
//! random bits and more that no page can add, because `Proxy-Authorization` is a header that pages may not set, and
//! `CONNECT` a method that they may not use. What a page can send is a request in origin-form (`GET /path`), so
//! that form is never a request for this proxy, whatever it carries. One with a foreign `Host`, an `Origin`, a `Referer`, a
//! cookie or a `Sec-Fetch-*` header is closed without one byte of an answer, so that a page does not even learn what is
//! here; so is one whose `Host` names another host than its target. There is no `Access-Control-*` header anywhere, nothing
//! follows a refused request on its connection, and a body that looks like a request is thrown away unread. A page cannot
//! speak SOCKS at all: its first byte is no HTTP. A browser that is *told* to use the proxy shows the credential by itself, and its
//! pages then reach what its user could reach by any other way through it, as with every proxy.
//!
//! What others can do is connect and say nothing. They wait in a lobby of [`Limits::lobby`] places, and when it is full a
//! newcomer pushes out the one that came first, which is closed without a word; it could as well be a program that never speaks. The
//! [`Limits::connections`] places are taken by the credential alone, so that nobody without it locks out the provisioner. Of
//! those who have it the one too many is told so (503, in SOCKS reply 1). A client that sends its credential as soon as it is connected has
//! to be beaten by as many newcomers as the lobby has places within that moment; on loopback that is a flood of
//! thousands of connections in some milliseconds, which costs whoever makes it a processor, and a client that loses
//! tries again. A [`Forward`] has no lobby: there is no credential by which it could tell anybody from anybody, and a client that
//! says nothing may wait for a server that speaks first. Each forward has places of its own, so that it takes none from the proxy. The
//! port of the [`Door`] for containers has a lobby like the proxy's. Its socket has none, since nobody but the forwarder can open it: what
//! waits there waits in the listener's backlog.
//!
//! A resolver is not believed either: an address is checked after resolution, and loopback, link-local and whatever lies
//! behind the tunnel are never dialled directly. No answer has the status 403, which would stop `coder provisionerd` for good.
//!
//! What can fail: the port may be taken ([`ProxyError::Bind`]); everything later concerns one connection, is answered
//! with a [`Refusal`] and never ends the proxy. When the machine is out of file descriptors, accepting pauses and goes on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{broadcast, watch};

use self::connections::Connections;
use self::listen::{Entry, Listening, Shared};

pub(crate) mod address_kind;
mod admit;
mod body;
pub(crate) mod connect;
mod connections;
mod door;
mod forward;
pub(crate) mod fuzzing;
mod head;
mod listen;
mod lobby;
mod lookup;
mod outlet;
mod reach;
mod receive;
mod refusal;
mod routes;
mod serve;
mod socks;
pub(crate) mod splice;
mod target;
mod upstream;

pub use self::connections::{CloseReason, ConnectionInfo, Event, Filter};
pub use self::door::{Door, DoorError, Place};
pub(crate) use self::door::{Refused, ask};
pub use self::forward::{Forward, ForwardConfig};
pub use self::outlet::{OpenStream, Outlet};
pub use self::refusal::Refusal;
pub use self::routes::{NetworkPorts, Route, Routes, Transport, TunnelWanted};
pub use self::target::{Host, Target, TargetError};
pub use self::upstream::{UpstreamProxy, UpstreamProxyError};
use crate::dial::Dialer;

/// The user name that goes with the credential.
pub const USER: &str = "orfe";

/// What a proxy needs to start.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Where to listen: a loopback address; port 0 takes any free port.
    pub listen: SocketAddr,
    /// The password that goes with [`USER`]: 16 to 256 characters out of `A–Z a–z 0–9 - . _ ~`, which stand in a URL as
    /// they are.
    pub credential: SecretString,
    /// The bounds.
    pub limits: Limits,
}

impl ProxyConfig {
    /// With the default limits.
    pub fn new(listen: SocketAddr, credential: SecretString) -> Self {
        Self {
            listen,
            credential,
            limits: Limits::default(),
        }
    }
}

/// The bounds of a proxy in time and number. The size of a head (64 KiB) and of the buffers (32 KiB each way) are fixed.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Within this time the head of a request has to arrive. Default 10 s; less for who is pushed out of the lobby.
    pub head: Duration,
    /// As long as this one direct dial may take, with resolving the name and, through the owner's proxy, its answer. Default
    /// 10 s. A dial through the tunnel is bounded by its dialer, and by this on top of `hold`.
    pub dial: Duration,
    /// As long as this a request for the tunnel is held while the tunnel is down. Default 20 s.
    pub hold: Duration,
    /// As many clients at once may be there without having shown the credential; one more pushes out the oldest of them.
    /// Default 1024, as many as are served: what could be served of a burst is never pushed out by the rest of it, however slowly
    /// its clients come to show their credential. With a head of 64 KiB each they hold 64 MiB at the very most; a silent one holds
    /// less than 1 KiB and its task.
    pub lobby: usize,
    /// As many clients are served at once: of a proxy, of those with the credential. Default 1024.
    pub connections: usize,
    /// As many SOCKS clients at once may exchange datagrams. Default 32: each has up to five sockets, and at the very most
    /// 2 MiB of datagrams under way.
    pub associations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            dial: Duration::from_secs(10),
            hold: Duration::from_secs(20),
            lobby: 1024,
            connections: 1024,
            associations: 32,
        }
    }
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Listening elsewhere would offer the machine's network to others.
    #[error("the proxy listens on loopback addresses only, not on {0}")]
    NotLoopback(SocketAddr),
    /// The credential is too short or could not stand in a URL.
    #[error("the proxy's credential has to be 16 to 256 characters out of A-Z a-z 0-9 - . _ ~")]
    Credential,
    /// The address is taken or not there.
    #[error("the proxy could not listen on {address}")]
    Bind {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A running proxy. Dropping it stops it without waiting; [`Proxy::shutdown`] waits.
pub struct Proxy {
    listening: Listening,
    credential: SecretString,
}

impl Proxy {
    /// Starts listening. A request is routed by the value that `routes` has when its head is complete; one for the tunnel
    /// is dialled by the value of `dialer`, and held while that is `None` or says that the tunnel is down.
    ///
    /// # Errors
    /// See [`ProxyError`].
    pub async fn start(
        config: ProxyConfig,
        routes: watch::Receiver<Arc<Routes>>,
        dialer: watch::Receiver<Option<Arc<dyn Dialer>>>,
    ) -> Result<Self, ProxyError> {
        let ProxyConfig {
            listen,
            credential,
            limits,
        } = config;
        if !listen.ip().is_loopback() {
            return Err(ProxyError::NotLoopback(listen));
        }
        let entry = Entry::with(&credential).ok_or(ProxyError::Credential)?;
        let listening = Listening::start(listen, entry, limits, routes, dialer).await?;
        Ok(Self {
            listening,
            credential,
        })
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.listening.shared.local_addr
    }

    /// The value for a child's `HTTP_PROXY` and `HTTPS_PROXY`, credential included.
    pub fn url(&self) -> SecretString {
        SecretString::from(format!(
            "http://{USER}:{}@{}",
            self.credential.expose_secret(),
            self.local_addr()
        ))
    }

    /// The same port as a SOCKS proxy that resolves names itself, credential included: for `ALL_PROXY`.
    pub fn socks_url(&self) -> SecretString {
        SecretString::from(format!(
            "socks5h://{USER}:{}@{}",
            self.credential.expose_secret(),
            self.local_addr()
        ))
    }

    /// Every live connection, the oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.listening.shared.connections.list()
    }

    /// The live connections, for a task that outlives its borrow of the proxy.
    pub fn table(&self) -> ConnectionTable {
        ConnectionTable(Arc::clone(&self.listening.shared.connections))
    }

    /// What happens from now on. A subscriber that falls behind by 1024 events loses the oldest, is told so by
    /// `RecvError::Lagged`, and reads [`Proxy::connections`] anew.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.listening.shared.connections.subscribe()
    }

    /// Cuts the matching connections, held ones too: both sides are closed at once, sockets with a reset, so that the
    /// client notices and dials again. Returns how many were cut; they leave the table as their tasks end.
    pub fn cut(&self, filter: &Filter) -> usize {
        self.listening.shared.connections.cut(filter)
    }

    /// Stops listening, closes every connection and waits until the last task has ended. No task does anything after the
    /// stop but end, so this needs no further limit in time.
    pub async fn shutdown(self) {
        self.listening.shutdown().await;
    }
}

/// A proxy's live connections; see [`Proxy::table`].
#[derive(Debug, Clone)]
pub struct ConnectionTable(Arc<Connections>);

impl ConnectionTable {
    /// When a connection to `target` that is established now last sent anything there.
    pub fn sent_at(&self, target: &Target) -> Option<Instant> {
        let live = self.0.list();
        let to_target = live
            .iter()
            .filter(|connection| connection.established && is_to(connection, target));
        to_target.filter_map(|connection| connection.sent_at).max()
    }

    /// How many connections to `target` are established now.
    pub fn established(&self, target: &Target) -> usize {
        let live = self.0.list();
        live.iter()
            .filter(|connection| connection.established && is_to(connection, target))
            .count()
    }
}

/// Datagrams are no connection, even where they go to the same port.
fn is_to(connection: &ConnectionInfo, target: &Target) -> bool {
    connection.transport == Transport::Tcp && connection.target == *target
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("local_addr", &self.listening.shared.local_addr)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
