//! The device's end: one peer, the gateway, and connections that are dialled through it.
//!
//! ```text
//!   Connecting ──handshake──► Up ──180 s without one, or one unanswered for 15 s──► Down ──handshake──► Up
//!                              │
//!                              └──180 s without one, nothing open──► Resting ──handshake──► Up
//!                                                                       └──one unanswered for 15 s──► Down
//! ```
//!
//! A gateway that is gone is noticed by what asks it for a handshake: data that nothing came back for (15 s after it), or
//! the renewal of the session (every 120 s). Something authentic on the old session counts as an answer, too.
//!
//! The node keeps the session by itself while a keepalive is configured and something is open: a connection, or a packet that
//! was sent within the last 180 s (`orfe_tunnel_core`'s `node::rest`). With nothing open the tunnel is silent and `Resting`. Dials
//! are let go on while `Connecting` and `Resting`: the SYN starts the handshake if nothing else did. While `Down` they fail at once, and each of them asks for a handshake.

mod choice;
mod config;
mod dialer;
mod hosted;
#[cfg(target_os = "linux")]
mod namespaced;
#[cfg(not(target_os = "linux"))]
#[path = "client/no_namespace.rs"]
mod namespaced;
mod smoltcp;
mod status;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use orfe_tunnel_core::path::Report;
use orfe_tunnel_core::{HandshakeLimits, Node, NodeConfig, PeerConfig, PrivateKey, PublicKey};
use tokio::sync::watch;

use self::choice::Choice;
pub use self::config::{HostOptions, ParseTcpStackError, SplitDns, TcpStack, TunnelConfig, TunnelPeer};
pub use self::dialer::TunnelDialer;
use self::dialer::{DialFailure, Way};
use self::hosted::HostEnd;
use self::namespaced::NamespaceEnd;
use self::smoltcp::SmoltcpEnd;
pub(crate) use self::status::StackChoice;
pub use self::status::{Phase, TunnelStatus};

/// Connections at once on a device. A thousand in parallel are meant to work.
const MAX_CONNECTIONS: usize = 1024;
/// At most one handshake in this time is started by dials while the tunnel is down (`WireGuard`'s `REKEY_TIMEOUT`).
const NUDGE_INTERVAL: Duration = Duration::from_secs(5);

/// Why a tunnel was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// Something in the configuration contradicts itself.
    #[error("the tunnel's configuration cannot work")]
    Config(#[source] io::Error),
    /// Threads or UDP.
    #[error("the tunnel cannot be opened at {address}")]
    Open {
        /// Where UDP was to be bound.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A namespace was asked for and none can be had.
    #[error(
        "the tunnel's TCP stack is fixed to `namespace`, and there is no private network namespace: {reason}"
    )]
    NoNamespace {
        /// Why not.
        reason: String,
        /// What a person can do about it.
        hint: Option<&'static str>,
    },
    /// TUN mode could not be set up; nothing of it is left on the host.
    #[error("TUN mode cannot be set up")]
    Host(#[source] hosted::HostError),
}

impl TunnelError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoNamespace { hint, .. } => *hint,
            Self::Host(error) => error.hint(),
            Self::Config(_) | Self::Open { .. } => None,
        }
    }
}

/// A running tunnel. Dropping it ends it; [`Tunnel::shutdown`] also waits for the end.
#[derive(Debug)]
pub struct Tunnel {
    end: End,
    status: watch::Receiver<TunnelStatus>,
    path: watch::Receiver<Option<Report>>,
}

/// What carries the connections.
#[derive(Debug)]
enum End {
    Smoltcp(SmoltcpEnd),
    Namespace(NamespaceEnd),
    Host(HostEnd),
}

impl Tunnel {
    /// Binds UDP and starts the tunnel's threads. The first handshake is under way when this returns.
    ///
    /// Making a namespace blocks for some 10 ms, and for 5 s at most where something is wrong with the system; then smoltcp
    /// is taken unless the configuration rules that out. A runtime of tokio has to be entered.
    pub fn start(config: TunnelConfig) -> Result<Self, TunnelError> {
        let choice = Choice::make(&config)?;
        let inner = EndConfig {
            addresses: config.addresses,
            mtu: config.mtu,
            bind: config.bind,
            gateway: config.peer.public_key,
        };
        let (publisher, status) = watch::channel(TunnelStatus::new(
            config.peer.endpoint,
            StackChoice {
                name: choice.stack(),
                reason: choice.reason(),
                congestion_control: choice.congestion_control(),
            },
            Instant::now(),
        ));
        let node = node(config.private_key, config.mtu, config.peer).map_err(TunnelError::Config)?;
        let end = match choice {
            Choice::Namespace { made, .. } => NamespaceEnd::start(inner, made, node, publisher).map(|end| {
                let measured = end.measured();
                (End::Namespace(end), measured)
            }),
            Choice::Smoltcp { .. } => {
                let (path, measured) = watch::channel(None);
                SmoltcpEnd::start(inner, node, publisher, path).map(|end| (End::Smoltcp(end), measured))
            }
        };
        let (end, path) = end.map_err(|source| TunnelError::Open {
            address: config.bind,
            source,
        })?;
        Ok(Self { end, status, path })
    }

    /// Starts the tunnel as a device of this host: TUN mode. [`TunnelConfig::tcp_stack`] and [`TunnelConfig::helper`] are not
    /// looked at: connections are the host's own, bound to the device.
    ///
    /// Blocks for some milliseconds. A runtime of tokio has to be entered.
    pub fn start_on_host(config: TunnelConfig, host: HostOptions) -> Result<Self, TunnelError> {
        let (publisher, status) = watch::channel(TunnelStatus::new(
            config.peer.endpoint,
            StackChoice {
                name: "host",
                reason: "TUN mode uses the host's own".into(),
                congestion_control: hosted::congestion_control(),
            },
            Instant::now(),
        ));
        let inner = EndConfig {
            addresses: config.addresses,
            mtu: config.mtu,
            bind: config.bind,
            gateway: config.peer.public_key,
        };
        let node = node(config.private_key, config.mtu, config.peer).map_err(TunnelError::Config)?;
        let end = HostEnd::start(inner, host, node, publisher)?;
        let path = end.measured();
        Ok(Self {
            end: End::Host(end),
            status,
            path,
        })
    }

    /// Opens connections through this tunnel.
    pub fn dialer(&self) -> TunnelDialer {
        let way = match &self.end {
            End::Smoltcp(end) => Way::Smoltcp(end.dialer()),
            End::Namespace(end) => Way::Namespace(end.dialer()),
            End::Host(end) => Way::Host(end.dialer()),
        };
        TunnelDialer::new(way, self.status.clone())
    }

    /// The tunnel's state, now and as it changes. The sender goes when the tunnel has ended, be it by itself.
    pub fn status(&self) -> watch::Receiver<TunnelStatus> {
        self.status.clone()
    }

    /// Where UDP is bound.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.end {
            End::Smoltcp(end) => end.local_addr(),
            End::Namespace(end) => end.local_addr(),
            End::Host(end) => end.local_addr(),
        }
    }

    /// Sends to the gateway at `endpoint` from now on, and shakes hands there at once.
    pub fn set_endpoint(&self, endpoint: SocketAddr) {
        match &self.end {
            End::Smoltcp(end) => end.set_endpoint(endpoint),
            End::Namespace(end) => end.set_endpoint(endpoint),
            End::Host(end) => end.set_endpoint(endpoint),
        }
    }

    /// Shakes hands at once: after a resume, a change of network, or when the gateway is known to have restarted.
    pub fn rehandshake(&self) {
        match &self.end {
            End::Smoltcp(end) => end.rehandshake(),
            End::Namespace(end) => end.rehandshake(),
            End::Host(end) => end.rehandshake(),
        }
    }

    /// Asks by a handshake whether the gateway answers at `endpoint`, beside the traffic: that goes there only when it does.
    pub fn probe(&self, endpoint: SocketAddr) {
        match &self.end {
            End::Smoltcp(end) => end.probe(endpoint),
            End::Namespace(end) => end.probe(endpoint),
            End::Host(end) => end.probe(endpoint),
        }
    }

    /// Sends from a fresh UDP port from now on: a middlebox may hold a dead mapping for the old one. False when it is known
    /// already that no other can be had, and the port stays.
    pub fn rebind(&self) -> bool {
        match &self.end {
            End::Smoltcp(end) => {
                end.rebind();
                true
            }
            End::Namespace(end) => end.rebind(),
            End::Host(end) => end.rebind(),
        }
    }

    /// Measures the path to the first of the `gateway`'s inner addresses that is of a family of ours, from now on and
    /// anew: to be called also when the network changed. New connections begin with what passes everywhere (1280 bytes),
    /// follow what is measured up to [`TunnelConfig::mtu`], and stay at 1280 bytes where there is nobody to ask.
    pub fn measure_path(&self, gateway: Vec<IpAddr>) {
        match &self.end {
            End::Smoltcp(end) => end.measure_path(gateway),
            End::Namespace(end) => end.measure_path(&gateway),
            End::Host(end) => end.measure_path(&gateway),
        }
    }

    /// Lets containers of these bridges, and of no others, into the tunnel: in TUN mode; elsewhere it does nothing. Gives
    /// what [`Tunnel::unguarded`] does, as it is then. What was begun is done though nobody waits for it. A runtime of tokio has to be entered.
    pub fn set_bridges(
        &self,
        bridges: Vec<String>,
    ) -> impl Future<Output = Result<Option<String>, TunnelError>> + Send + use<> {
        let setting = match &self.end {
            End::Host(end) => Some(end.set_bridges(bridges)),
            End::Smoltcp(_) | End::Namespace(_) => None,
        };
        async move {
            match setting {
                Some(setting) => setting.await.map_err(TunnelError::Host),
                None => Ok(None),
            }
        }
    }

    /// What TUN mode left open at its start because this host has no packet filter, in words for people.
    pub fn unguarded(&self) -> Option<&str> {
        match &self.end {
            End::Host(end) => end.unguarded(),
            End::Smoltcp(_) | End::Namespace(_) => None,
        }
    }

    /// What was measured of the path, now and as it changes; `None` while nothing was.
    pub fn path(&self) -> watch::Receiver<Option<Report>> {
        self.path.clone()
    }

    /// Resets all connections and waits for the tunnel's threads to end.
    pub async fn shutdown(self) {
        match self.end {
            End::Smoltcp(end) => end.shutdown().await,
            End::Namespace(end) => end.shutdown().await,
            End::Host(end) => end.shutdown().await,
        }
    }
}

/// What an end needs of the configuration besides its node.
#[derive(Debug)]
struct EndConfig {
    addresses: Vec<IpAddr>,
    mtu: usize,
    bind: SocketAddr,
    gateway: PublicKey,
}

fn node(private_key: PrivateKey, mtu: usize, peer: TunnelPeer) -> io::Result<Node> {
    let now = Instant::now();
    let config = NodeConfig {
        private_key,
        mtu,
        limits: HandshakeLimits::default(),
    };
    let mut node = Node::new(config, now);
    let gateway = peer.public_key;
    let peer = PeerConfig {
        public_key: peer.public_key,
        preshared_key: peer.preshared_key,
        endpoint: peer.endpoint,
        allowed_ips: peer.allowed_ips,
        keepalive: peer.keepalive,
    };
    node.set_peer(peer, now)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    node.set_in_use(&gateway, false, now);
    Ok(node)
}

/// What tells a prober's echo requests from those of others; nothing depends on its being hard to guess.
pub(crate) fn cookie() -> u64 {
    getrandom::u64().unwrap_or(1)
}
