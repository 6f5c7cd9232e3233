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

use orfe_tunnel_core::path::{self, Path};
use orfe_tunnel_core::{
    AllowedIp, Batch, Event, HandshakeLimits, Node, NodeConfig, PeerConfig, PeerId, PeerStats, PresharedKey,
    PrivateKey, PublicKey, REJECT_AFTER_TIME, SILENT_AFTER_TIME,
};
use tokio::sync::{oneshot, watch};

use crate::dial::{BoxFuture, BoxedStream, DialError, Dialer};
use crate::netstack::{ConnectError, Ends, Flow, Front, Handle, Netstack, Stack, StackConfig, TunnelStream};

/// Connections at once on a device. With about 1.1 MiB each when all buffers are full, 600 MiB is the worst case.
const MAX_CONNECTIONS: usize = 512;
/// How long a dial waits for an answer unless [`TunnelDialer::with_timeout`] says otherwise.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// At most one handshake in this time is started by dials while the tunnel is down (`WireGuard`'s `REKEY_TIMEOUT`).
const NUDGE_INTERVAL: Duration = Duration::from_secs(5);

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
    path: watch::Receiver<Option<path::Report>>,
}

impl Tunnel {
    /// Binds UDP and starts the tunnel's thread. The first handshake is under way when this returns.
    ///
    /// Fails with the system's error for the bind, or `InvalidInput` for a configuration that cannot work.
    pub fn start(config: TunnelConfig) -> io::Result<Self> {
        let now = Instant::now();
        let node_config = NodeConfig {
            private_key: config.private_key,
            // Echo requests up to the largest MTU are sent to measure the path; the stack's own packets are no larger than its MTU.
            mtu: config.mtu.max(path::MTU_MAX.into()),
            limits: HandshakeLimits::default(),
        };
        let mut node = Node::new(node_config, now);
        let addresses = config.addresses.clone();
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
        let (path_publisher, path) = watch::channel(None);
        let front = ClientFront {
            gateway,
            addresses,
            prober: None,
            path: path_publisher,
            wishes: Arc::clone(&wishes),
            status: publisher,
            nudged: None,
        };
        let netstack = Netstack::start("orfe-tunnel", config.bind, node, &stack, |_| front)?;
        Ok(Self {
            netstack,
            wishes,
            status,
            path,
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

    /// Asks by a handshake whether the gateway answers at `endpoint`, beside the traffic: that goes there only when it does.
    pub fn probe(&self, endpoint: SocketAddr) {
        self.wish(|wishes| wishes.probe = Some(endpoint));
    }

    /// Sends from a fresh UDP port from now on. A middlebox may hold a dead mapping for the old one.
    pub fn rebind(&self) {
        self.wish(|wishes| wishes.rebind = true);
    }

    /// Measures the path to the first of the `gateway`'s inner addresses that is of a family of ours, from now on and
    /// anew: to be called also when the network changed.
    pub fn measure_path(&self, gateway: Vec<IpAddr>) {
        self.wish(|wishes| wishes.measure = Some(gateway));
    }

    /// What was measured of the path, now and as it changes.
    pub fn path(&self) -> watch::Receiver<Option<path::Report>> {
        self.path.clone()
    }

    fn wish(&self, wish: impl FnOnce(&mut Wishes)) {
        wish(&mut self.wishes.lock().unwrap_or_else(PoisonError::into_inner));
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
    probe: Option<SocketAddr>,
    rebind: bool,
    measure: Option<Vec<IpAddr>>,
}

#[derive(Debug)]
struct ClientFront {
    gateway: PublicKey,
    /// Our own, for the prober's packets.
    addresses: Vec<IpAddr>,
    prober: Option<Path>,
    path: watch::Sender<Option<path::Report>>,
    wishes: Arc<Mutex<Wishes>>,
    status: watch::Sender<TunnelStatus>,
    nudged: Option<Instant>,
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
        if let Some(endpoint) = wishes.probe {
            ends.node.probe(&self.gateway, endpoint, now, &mut ends.out);
        }
        ends.rebind |= wishes.rebind;
        if let Some(gateway) = wishes.measure {
            self.prober = Path::new(&self.addresses, &gateway, path::MTU_MAX, rand_cookie(), now);
        }
        self.send_probes(ends, now);
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

    fn handle_packets(&mut self, packets: &Batch<PeerId>, ends: &mut Ends, now: Instant) {
        for (packet, _) in packets.iter() {
            if let Some(prober) = &mut self.prober {
                if prober.handle_packet(packet, now) {
                    continue;
                }
                prober.note_traffic(now);
            }
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
        let report = self.prober.as_ref().and_then(Path::report);
        self.path.send_if_modified(|shown| {
            let changed = *shown != report;
            *shown = report;
            changed
        });
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

impl ClientFront {
    /// Sends what the prober has. It is asked once in each round, and there is one every second at the latest.
    fn send_probes(&mut self, ends: &mut Ends, now: Instant) {
        let Some(prober) = &mut self.prober else { return };
        let mut requests = Batch::new();
        while let Some(request) = prober.poll_packet(now) {
            requests.push(&request, ());
        }
        ends.node.handle_packets(&requests, now, &mut ends.out);
    }
}

/// What tells this prober's echo requests from those of others; nothing depends on its being hard to guess.
fn rand_cookie() -> u64 {
    getrandom::u64().unwrap_or(1)
}

fn phase(stats: &PeerStats, now: Instant) -> Phase {
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
