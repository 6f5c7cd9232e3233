//! The device's end: one peer, the gateway, and connections that are dialled through it.
//!
//! ```text
//!   Connecting ──handshake──► Up ──180 s without one, or one unanswered for 15 s──► Down ──handshake──► Up
//! ```
//!
//! A gateway that is gone is noticed by what asks it for a handshake: data that nothing came back for (15 s after it), or
//! the renewal of the session (every 120 s). Something authentic on the old session counts as an answer, too.
//!
//! The node keeps the session by itself while a keepalive is configured. Dials are let go on while `Connecting`: the SYN
//! starts the handshake if nothing else did. While `Down` they fail at once, and each of them asks for a handshake.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orfe_tunnel_core::{
    AllowedIp, Batch, Event, HandshakeLimits, Node, NodeConfig, PeerConfig, PeerId, PeerStats, PresharedKey,
    PrivateKey, PublicKey, REJECT_AFTER_TIME, SILENT_AFTER_TIME,
};
use tokio::sync::{oneshot, watch};

use crate::dial::{BoxFuture, BoxedStream, DialError, Dialer};
use crate::netstack::{ConnectError, Ends, Flow, Front, Handle, Netstack, Stack, StackConfig, TunnelStream};
use crate::udp::UdpOptions;

/// Connections at once on a device.
const MAX_CONNECTIONS: usize = 512;
/// Bytes that their buffers may take together.
const MEMORY: usize = 96 << 20;
/// How long a dial waits for an answer unless [`TunnelDialer::with_timeout`] says otherwise.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// At most one handshake in this time is started by dials while the tunnel is down (`WireGuard`'s `REKEY_TIMEOUT`).
const NUDGE_INTERVAL: Duration = Duration::from_secs(5);
/// A handshake that was not answered is begun again after this long (`WireGuard`'s `REKEY_TIMEOUT`).
const RETRY_TIME: Duration = Duration::from_secs(5);

/// What a tunnel is made from.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// The device's static key.
    pub private_key: PrivateKey,
    /// The device's addresses inside the tunnel, at most one for each family is used.
    pub addresses: Vec<IpAddr>,
    /// The gateway.
    pub peer: TunnelPeer,
    /// Largest inner packet, 1280 to 9216 bytes. 1280 passes everywhere.
    pub mtu: usize,
    /// Where UDP is bound; port 0 lets the system choose.
    pub bind: SocketAddr,
}

impl TunnelConfig {
    /// The MTU that passes everywhere, IPv6 outside and nested tunnels included.
    pub const DEFAULT_MTU: usize = 1280;
}

/// The gateway as a device knows it.
#[derive(Debug, Clone)]
pub struct TunnelPeer {
    /// The gateway's key.
    pub public_key: PublicKey,
    /// The symmetric key that both mix in, if any.
    pub preshared_key: Option<PresharedKey>,
    /// Where the gateway is.
    pub endpoint: SocketAddr,
    /// What lies behind the gateway.
    pub allowed_ips: Vec<AllowedIp>,
    /// Interval of keepalives; it also keeps the session. Without it the tunnel is made when it is used.
    pub keepalive: Option<Duration>,
}

/// Whether packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There was no handshake yet.
    Connecting,
    /// A handshake was completed within the last 180 s, and none has gone unanswered since.
    Up,
    /// The last handshake is older than that, or the gateway has not answered for 15 s to a later one.
    Down,
}

/// What is known of a tunnel. Counters lag by 0.1 s at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Whether packets pass.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// When the latest handshake was completed.
    pub last_handshake: Option<Instant>,
    /// Where the gateway is.
    pub endpoint: SocketAddr,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// The TCP stack in use.
    pub stack: &'static str,
    /// Packets and datagrams dropped, for whatever reason.
    pub dropped: u64,
    /// Connections, those being opened or closed included.
    pub connections: usize,
    /// Bytes that wait in buffers of connections.
    pub buffered_bytes: usize,
}

/// A running tunnel. Dropping it ends it; [`Tunnel::shutdown`] also waits for the end.
#[derive(Debug)]
pub struct Tunnel {
    netstack: Netstack<Dial>,
    wishes: Arc<Mutex<Wishes>>,
    status: watch::Receiver<TunnelStatus>,
}

impl Tunnel {
    /// Binds UDP and starts the tunnel's thread. The first handshake is under way when this returns.
    ///
    /// Fails with the system's error for the bind, or `InvalidInput` for a configuration that cannot work.
    pub fn start(config: TunnelConfig) -> io::Result<Self> {
        let now = Instant::now();
        let node_config = NodeConfig {
            private_key: config.private_key,
            mtu: config.mtu,
            limits: HandshakeLimits::default(),
        };
        let mut node = Node::new(node_config, now);
        let gateway = config.peer.public_key;
        let peer = PeerConfig {
            public_key: gateway,
            preshared_key: config.peer.preshared_key,
            endpoint: Some(config.peer.endpoint),
            allowed_ips: config.peer.allowed_ips,
            keepalive: config.peer.keepalive,
        };
        node.set_peer(peer, now)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stack = StackConfig {
            addresses: config.addresses,
            mtu: config.mtu,
            any_address: false,
            max_connections: MAX_CONNECTIONS,
            memory: MEMORY,
            keep_alive: None,
        };
        let (publisher, status) = watch::channel(TunnelStatus {
            phase: Phase::Connecting,
            since: now,
            last_handshake: None,
            endpoint: config.peer.endpoint,
            rx_bytes: 0,
            tx_bytes: 0,
            stack: "smoltcp",
            dropped: 0,
            connections: 0,
            buffered_bytes: 0,
        });
        let wishes = Arc::new(Mutex::new(Wishes::default()));
        let front = ClientFront {
            gateway,
            wishes: Arc::clone(&wishes),
            status: publisher,
            nudged: None,
            asked: None,
        };
        let netstack = Netstack::start("orfe-tunnel", &UdpOptions::new(config.bind), node, &stack, |_| {
            front
        })?;
        Ok(Self {
            netstack,
            wishes,
            status,
        })
    }

    /// Opens connections through this tunnel.
    pub fn dialer(&self) -> TunnelDialer {
        TunnelDialer {
            handle: self.netstack.handle().clone(),
            status: self.status.clone(),
            timeout: DIAL_TIMEOUT,
        }
    }

    /// The tunnel's state, now and as it changes. The sender goes when the tunnel's thread ends.
    pub fn status(&self) -> watch::Receiver<TunnelStatus> {
        self.status.clone()
    }

    /// Where UDP is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.netstack.local_addr()
    }

    /// Sends to the gateway at `endpoint` from now on, and shakes hands there at once.
    pub fn set_endpoint(&self, endpoint: SocketAddr) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.endpoint = Some(endpoint);
        wishes.rehandshake = true;
        drop(wishes);
        self.netstack.handle().wake();
    }

    /// Shakes hands at once: after a resume, a change of network, or when the gateway is known to have restarted.
    pub fn rehandshake(&self) {
        self.wishes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rehandshake = true;
        self.netstack.handle().wake();
    }

    /// Resets all connections and waits for the tunnel's thread to end.
    pub async fn shutdown(self) {
        self.netstack.shutdown().await;
    }
}

/// Opens connections through a [`Tunnel`].
#[derive(Debug, Clone)]
pub struct TunnelDialer {
    handle: Handle<Dial>,
    status: watch::Receiver<TunnelStatus>,
    timeout: Duration,
}

impl TunnelDialer {
    /// The same dialer with another bound on the time that a dial may take (15 s by default).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects to `destination`. Dropping the future abandons the attempt.
    pub async fn connect(&self, destination: SocketAddr) -> Result<TunnelStream, DialError> {
        let down = DialError::TunnelDown { destination };
        let is_down = self.phase() == Phase::Down;
        let (reply, outcome) = oneshot::channel();
        let attempt = async {
            let command = if is_down {
                Dial::Nudge
            } else {
                Dial::Connect { destination, reply }
            };
            self.handle.send(command).await.ok()?;
            if is_down { None } else { outcome.await.ok() }
        };
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Some(Ok(stream))) => Ok(stream),
            Ok(Some(Err(ConnectError::Refused))) => Err(DialError::Refused { destination }),
            Ok(Some(Err(ConnectError::TooMany))) => Err(DialError::TooMany {
                destination,
                limit: MAX_CONNECTIONS,
            }),
            Ok(Some(Err(ConnectError::Unaddressable))) => {
                let source = io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    "the tunnel has no address of its family, or it cannot be dialled",
                );
                Err(DialError::Io { destination, source })
            }
            Ok(None) => Err(down),
            Err(_) if self.phase() != Phase::Up => Err(down),
            Err(_) => Err(DialError::TimedOut {
                destination,
                after: self.timeout,
            }),
        }
    }

    fn phase(&self) -> Phase {
        self.status.borrow().phase
    }
}

impl Dialer for TunnelDialer {
    fn dial(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedStream, DialError>> {
        Box::pin(async move { Ok(Box::new(self.connect(destination).await?) as BoxedStream) })
    }
}

/// What dialers ask of the thread.
#[derive(Debug)]
enum Dial {
    Connect {
        destination: SocketAddr,
        reply: oneshot::Sender<Result<TunnelStream, ConnectError>>,
    },
    /// Somebody wants the tunnel while it is down.
    Nudge,
}

/// What was asked for since the thread last looked. The latest wish counts, so this cannot grow.
#[derive(Debug, Default)]
struct Wishes {
    endpoint: Option<SocketAddr>,
    rehandshake: bool,
}

#[derive(Debug)]
struct ClientFront {
    gateway: PublicKey,
    wishes: Arc<Mutex<Wishes>>,
    status: watch::Sender<TunnelStatus>,
    nudged: Option<Instant>,
    /// Since when a handshake had gone unanswered at the last look.
    asked: Option<Instant>,
}

impl ClientFront {
    /// A handshake that was answered tells the round trip before the first connection could.
    fn measure(&mut self, ends: &mut Ends, now: Instant) {
        let Some(stats) = ends.node.stats(&self.gateway) else {
            return;
        };
        if let Some((asked, answered)) = self.asked.zip(stats.last_handshake)
            && answered >= asked
        {
            let took = answered.saturating_duration_since(asked);
            // A longer one had its first attempt lost, and says nothing.
            if took < RETRY_TIME {
                ends.stack.note_round_trip(took, now);
            }
        }
        self.asked = stats.unanswered_since;
    }
}

impl Front for ClientFront {
    type Command = Dial;

    fn reconcile(&mut self, ends: &mut Ends, now: Instant) -> bool {
        let wishes = std::mem::take(&mut *self.wishes.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(endpoint) = wishes.endpoint {
            ends.node.set_endpoint(&self.gateway, endpoint);
        }
        if wishes.rehandshake {
            ends.node.rehandshake(&self.gateway, now, &mut ends.out);
        }
        self.measure(ends, now);
        false
    }

    fn handle_command(&mut self, command: Dial, ends: &mut Ends, now: Instant) {
        match command {
            Dial::Connect { destination, reply } => ends.stack.connect(destination, reply),
            Dial::Nudge
                if self
                    .nudged
                    .is_none_or(|at| now.saturating_duration_since(at) >= NUDGE_INTERVAL) =>
            {
                self.nudged = Some(now);
                ends.node.rehandshake(&self.gateway, now, &mut ends.out);
            }
            Dial::Nudge => {}
        }
    }

    fn handle_packets(&mut self, packets: &Batch<PeerId>, ends: &mut Ends, _now: Instant) {
        for (packet, _) in packets.iter() {
            ends.stack.push(packet);
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::HandshakeCompleted { endpoint, .. } => {
                tracing::debug!(%endpoint, "handshake with the gateway completed");
            }
            Event::EndpointChanged { to, .. } => {
                tracing::info!(endpoint = %to, "the gateway answers from another address");
            }
            Event::SessionExpired { .. } => tracing::warn!("the gateway does not answer; trying again"),
            _ => {}
        }
    }

    fn handle_closed(&mut self, _flow: Flow) {}

    fn publish(&mut self, ends: &Ends, now: Instant) {
        let Some(stats) = ends.node.stats(&self.gateway) else {
            return;
        };
        let dropped = stats.dropped.total() + ends.node.drops().total();
        self.status.send_if_modified(|status| {
            let before = status.clone();
            update(status, &stats, dropped, &ends.stack, now);
            *status != before
        });
    }
}

pub(crate) fn phase(stats: &PeerStats, now: Instant) -> Phase {
    let is_silent = stats
        .unanswered_since
        .is_some_and(|since| now.saturating_duration_since(since) >= SILENT_AFTER_TIME);
    match stats.last_handshake {
        Some(at) if !is_silent && now.saturating_duration_since(at) < REJECT_AFTER_TIME => Phase::Up,
        Some(_) => Phase::Down,
        None => Phase::Connecting,
    }
}

fn update(status: &mut TunnelStatus, stats: &PeerStats, dropped: u64, stack: &Stack, now: Instant) {
    let phase = phase(stats, now);
    if status.phase != phase {
        tracing::info!(from = ?status.phase, to = ?phase, "tunnel");
        status.phase = phase;
        status.since = now;
    }
    status.last_handshake = stats.last_handshake;
    status.endpoint = stats.endpoint.unwrap_or(status.endpoint);
    status.rx_bytes = stats.rx_bytes;
    status.tx_bytes = stats.tx_bytes;
    status.dropped = dropped;
    status.connections = stack.connections();
    status.buffered_bytes = stack.buffered();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_tells_a_gateway_that_does_not_answer_from_one_that_was_not_asked() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let stats = |last_handshake: Option<u64>, unanswered_since: Option<u64>| PeerStats {
            public_key: PrivateKey::generate().public_key(),
            endpoint: None,
            last_handshake: last_handshake.map(at),
            unanswered_since: unanswered_since.map(at),
            rx_bytes: 0,
            tx_bytes: 0,
            dropped: orfe_tunnel_core::PeerDrops::default(),
        };
        for (last_handshake, unanswered_since, now, expected) in [
            (None, Some(0), 14, Phase::Connecting),
            (None, Some(0), 60, Phase::Connecting),
            (Some(0), None, 179, Phase::Up),
            (Some(0), None, 180, Phase::Down),
            (Some(0), Some(40), 54, Phase::Up),
            (Some(0), Some(40), 55, Phase::Down),
            (Some(56), None, 57, Phase::Up),
        ] {
            assert_eq!(
                phase(&stats(last_handshake, unanswered_since), at(now)),
                expected,
                "handshake {last_handshake:?}, unanswered since {unanswered_since:?}, now {now}"
            );
        }
    }
}
