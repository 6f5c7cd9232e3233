//! The local proxy: the one way by which a provisioner reaches anything.
//!
//! It listens on a loopback address, asks every request for a credential, and routes by destination: names of the policy
//! through the tunnel, everything else directly or through the machine owner's own proxy. It speaks HTTP/1.1: `CONNECT`,
//! and absolute-form with and without `Upgrade`, because Go's HTTP client uses all three. The first byte of a connection
//! tells the protocol, so that another one can be added on the same port.
//!
//! ```text
//! accept ─► head ─► credential ─► route ─► dial (held while the tunnel rises) ─► splice
//!   503     400…       407         502        502, 503, 504                    cut, closed
//! ```
//!
//! * `head` and `target` read a request strictly and write it for the next hop; `body` knows where it ends.
//! * `routes` decides; `reach` dials; `upstream` is the owner's proxy.
//! * `connections` is what the daemon sees: a table, events, and the means to cut.
//!
//! What can fail: the port may be taken ([`ProxyError::Bind`]); everything later concerns one connection, is answered
//! with a [`Refusal`] and never ends the proxy. When the machine is out of file descriptors, accepting pauses and goes on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connections::Connections;
use self::reach::WatchedDialer;

mod body;
mod connections;
#[cfg(unix)]
mod door;
mod head;
mod reach;
mod receive;
mod refusal;
mod routes;
mod serve;
mod splice;
mod target;
mod upstream;

pub use self::connections::{CloseReason, ConnectionInfo, Event, Filter};
#[cfg(unix)]
pub use self::door::{Door, DoorError};
#[cfg(unix)]
pub(crate) use self::door::{accepted, read_answer};
pub use self::refusal::Refusal;
pub use self::routes::{Route, Routes, TunnelWanted};
pub use self::target::{Host, Target, TargetError};
pub use self::upstream::{UpstreamProxy, UpstreamProxyError};
use crate::dial::Dialer;

/// The user name that goes with the credential.
pub const USER: &str = "orfe";

/// How many clients beyond the limit are told so at a time. Those beyond that are closed without a word.
const OVERFLOW_ANSWERS: usize = 32;
/// How long accepting pauses after a failure, which mostly means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// Within this time the head of a request has to arrive. Default 10 s.
    pub head: Duration,
    /// As long as this one direct dial may take, with resolving the name and, through the owner's proxy, its answer. Default
    /// 10 s. A dial through the tunnel is bounded by its dialer, and by this on top of `hold`.
    pub dial: Duration,
    /// As long as this a request for the tunnel is held while the tunnel is down. Default 20 s.
    pub hold: Duration,
    /// As many clients are served at once. Default 1024.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            dial: Duration::from_secs(10),
            hold: Duration::from_secs(20),
            connections: 1024,
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
    shared: Arc<Shared>,
    credential: SecretString,
    /// Owns the accepting task and each connection's task.
    tasks: TaskTracker,
    stop: DropGuard,
}

/// What every connection's task needs.
struct Shared {
    local_addr: SocketAddr,
    /// `orfe:credential` in base64.
    token: SecretString,
    limits: Limits,
    routes: watch::Receiver<Arc<Routes>>,
    dialer: WatchedDialer,
    connections: Arc<Connections>,
    stop: CancellationToken,
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
        if !stands_in_url(credential.expose_secret()) {
            return Err(ProxyError::Credential);
        }
        let bind_error = |source| ProxyError::Bind {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(bind_error)?;
        let local_addr = listener.local_addr().map_err(bind_error)?;
        let plain = SecretString::from(format!("{USER}:{}", credential.expose_secret()));
        let token = SecretString::from(BASE64.encode(plain.expose_secret().as_bytes()));
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            local_addr,
            token,
            limits,
            routes,
            dialer,
            connections: Connections::new(),
            stop: stop.clone(),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone()));
        Ok(Self {
            shared,
            credential,
            tasks,
            stop: stop.drop_guard(),
        })
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// The value for a child's `HTTP_PROXY` and `HTTPS_PROXY`, credential included.
    pub fn url(&self) -> SecretString {
        SecretString::from(format!(
            "http://{USER}:{}@{}",
            self.credential.expose_secret(),
            self.local_addr()
        ))
    }

    /// Every live connection, the oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.connections.list()
    }

    /// The live connections, for a task that outlives its borrow of the proxy.
    pub fn table(&self) -> ConnectionTable {
        ConnectionTable(Arc::clone(&self.shared.connections))
    }

    /// What happens from now on. A subscriber that falls behind by 1024 events loses the oldest, is told so by
    /// `RecvError::Lagged`, and reads [`Proxy::connections`] anew.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.connections.subscribe()
    }

    /// Cuts the matching connections, held ones too: both sides are closed at once, sockets with a reset, so that the
    /// client notices and dials again. Returns how many were cut; they leave the table as their tasks end.
    pub fn cut(&self, filter: &Filter) -> usize {
        self.shared.connections.cut(filter)
    }

    /// Stops listening, closes every connection and waits until the last task has ended. No task does anything after the
    /// stop but end, so this needs no further limit in time.
    pub async fn shutdown(self) {
        self.stop.disarm().cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A proxy's live connections; see [`Proxy::table`].
#[derive(Debug, Clone)]
pub struct ConnectionTable(Arc<Connections>);

impl ConnectionTable {
    /// How many bytes were sent to `target` by the connections that are established now.
    pub fn sent(&self, target: &Target) -> u64 {
        let live = self.0.list();
        let to_target = live
            .iter()
            .filter(|connection| connection.established && connection.target == *target);
        to_target.map(|connection| connection.bytes_up).sum()
    }

    /// How many connections to `target` are established now.
    pub fn established(&self, target: &Target) -> usize {
        let live = self.0.list();
        live.iter()
            .filter(|connection| connection.established && connection.target == *target)
            .count()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("local_addr", &self.shared.local_addr)
            .finish_non_exhaustive()
    }
}

/// Accepts until it is stopped. One task for each client, at most `limits.connections` at once and
/// [`OVERFLOW_ANSWERS`] more that are told that there is no room.
async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    let slots = Arc::new(Semaphore::new(shared.limits.connections));
    let answers = Arc::new(Semaphore::new(OVERFLOW_ANSWERS));
    while let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                shared
                    .stop
                    .run_until_cancelled(serve::serve(&shared, stream, peer))
                    .await;
                drop(slot);
            });
        } else if let Ok(slot) = Arc::clone(&answers).try_acquire_owned() {
            let stop = shared.stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(overflow(stream)).await;
                drop(slot);
            });
        }
    }
}

async fn overflow(stream: TcpStream) {
    serve::refuse(BufReader::new(stream), Refusal::TooManyConnections).await;
}

fn stands_in_url(credential: &str) -> bool {
    (16..=256).contains(&credential.len())
        && credential
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

#[cfg(test)]
mod tests;
