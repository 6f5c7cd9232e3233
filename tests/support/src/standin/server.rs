//! A stand-in for Coder's server at v2.26.0, for tests and the demo.
//!
//! It answers what a device, its supervisor and a registry ask of Coder, as the real server was recorded to answer:
//! `/healthz`, `/api/v2/`, `/api/v2/buildinfo`, `/api/v2/entitlements`, provisioner keys (details, create, list, delete),
//! the daemon listing, and the provisioner WebSocket with every recorded refusal. It runs no jobs: an accepted session is
//! kept open and kept alive, that is all. Every response bears `Orfe-Stand-In: coder`.
//!
//! One task accepts, one task serves each connection; all belong to the [`StandIn`], which counts what it saw and can
//! be told at run time to misbehave, to forget keys and to cut connections.

mod answer;
mod daemons;
mod entitlements;
mod fault;
mod keys;
mod listener;
mod record;
mod routes;
mod serve;
mod state;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use daemons::Daemon;
pub use fault::{Canned, Fault, UnknownFault};
pub use record::{ConnectionSeen, RequestSeen};
pub use tls::{TlsError, TlsIdentity};

use crate::scale::TimeScale;
use state::State;

/// The version that the stand-in claims, and every response's `X-Coder-Build-Version`.
pub const VERSION: &str = "v2.26.0";
/// The provisioner API version that it speaks.
pub const API_VERSION: &str = "1.9";
/// How long [`StandIn::shutdown`] waits for its tasks.
const GRACE: Duration = Duration::from_secs(5);

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// How to start a stand-in. No Debug of secrets.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// TLS, or plain HTTP.
    pub tls: Option<TlsIdentity>,
    /// The pre-shared key; without one every PSK is refused.
    pub psk: Option<String>,
    /// Provisioner keys that exist from the start.
    pub keys: Vec<KeySpec>,
    /// The owner's session token, for the calls that need one.
    pub session_token: Option<String>,
    /// A plain member's session token, who may do nothing here.
    pub member_token: Option<String>,
    /// Whether the licence allows external provisioners.
    pub licensed: bool,
    /// Misbehaviour from the start.
    pub fault: Option<Fault>,
    /// What `buildinfo` gives as the dashboard's address; the listening address if none.
    pub access_url: Option<String>,
    /// A file to which each connection and request is appended as a line of JSON.
    pub record: Option<PathBuf>,
    /// Factor for keepalive and for the times after which a daemon counts as offline.
    pub time_scale: TimeScale,
}

/// A provisioner key that exists from the start.
#[derive(Clone)]
pub struct KeySpec {
    /// The secret, 43 characters.
    pub secret: String,
    /// Its name.
    pub name: String,
    /// The tags bound to it.
    pub tags: Tags,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            tls: None,
            psk: None,
            keys: Vec::new(),
            session_token: None,
            member_token: None,
            licensed: true,
            fault: None,
            access_url: None,
            record: None,
            time_scale: TimeScale::REAL,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("tls", &self.tls)
            .field("keys", &self.keys)
            .field("licensed", &self.licensed)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySpec")
            .field("name", &self.name)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

/// Why a stand-in did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The record file cannot be opened.
    #[error("cannot open record file {}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the TLS certificate")]
    Tls(#[source] TlsError),
}

/// A running stand-in; dropping it ends it without waiting. See the module.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl StandIn {
    /// Starts one. Needs a tokio runtime.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let acceptor = config
            .tls
            .as_ref()
            .map(TlsIdentity::acceptor)
            .transpose()
            .map_err(StartError::Tls)?;
        let record = match &config.record {
            Some(path) => Some(record::open(path).map_err(|source| StartError::Record {
                path: path.clone(),
                source,
            })?),
            None => None,
        };
        let listen = config.listen;
        let failed = |source| StartError::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State::new(config, address, record));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let accepting = listener::accept_loop(
            listener,
            acceptor,
            Arc::clone(&state),
            stop.clone(),
            tasks.clone(),
        );
        tasks.spawn(accepting);
        Ok(Self {
            address,
            state,
            stop,
            tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a URL, by IP address.
    pub fn url(&self) -> String {
        self.state.local_url()
    }

    /// Connections seen so far with their requests, oldest first; at most the latest 10 000.
    pub fn connections_seen(&self) -> Vec<ConnectionSeen> {
        self.state.recorder.connections()
    }

    /// Daemons that ever dialled in, newest first, the offline ones too.
    pub fn daemons(&self) -> Vec<Daemon> {
        self.state.daemons.all(self.state.time_scale)
    }

    /// Misbehave from now on, or stop doing so. Connections that are open stay as they are.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state.set_fault(fault);
    }

    /// Turns the licence on or off.
    pub fn set_licensed(&self, licensed: bool) {
        self.state.set_licensed(licensed);
    }

    /// Makes a provisioner key and returns its secret; none if the name is taken.
    pub fn create_key(&self, name: &str, tags: &Tags) -> Option<String> {
        self.state.keys.create(name, tags)
    }

    /// Deletes a key by name; says whether there was one. Its daemons vanish from the listing, their sessions stay.
    pub fn delete_key(&self, name: &str) -> bool {
        self.state.delete_key(name)
    }

    /// Cuts every open connection.
    pub fn cut_all(&self) {
        self.state.cut_all();
    }

    /// Ends it and waits for its tasks, at most 5 s.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.state.cut_all();
        self.tasks.close();
        // A task that is later than that ends with the runtime; there is nothing in it to lose.
        let _ = tokio::time::timeout(GRACE, self.tasks.wait()).await;
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.cancel();
        self.state.cut_all();
        self.tasks.close();
    }
}
