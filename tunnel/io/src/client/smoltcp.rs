//! The smoltcp end: a front for the stack's thread that dials.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orfe_tunnel_core::{Batch, Event, Node, PeerId, PeerStats, PublicKey};
use tokio::sync::{oneshot, watch};

use super::{DialFailure, MAX_CONNECTIONS, NUDGE_INTERVAL, TunnelConfig, TunnelStatus, phase};
use crate::dial::BoxedStream;
use crate::netstack::{ConnectError, Ends, Flow, Front, Handle, Netstack, Stack, StackConfig, TunnelStream};
use crate::udp::UdpOptions;

/// Bytes that the buffers of all connections may take together.
const MEMORY: usize = 96 << 20;
/// A handshake that was not answered is begun again after this long (`WireGuard`'s `REKEY_TIMEOUT`).
const RETRY_TIME: Duration = Duration::from_secs(5);

/// A tunnel whose connections smoltcp carries.
#[derive(Debug)]
pub(super) struct SmoltcpEnd {
    netstack: Netstack<Dial>,
    wishes: Arc<Mutex<Wishes>>,
}

impl SmoltcpEnd {
    /// Starts the thread. It tells its state through `status` until it ends.
    pub(super) fn start(
        config: &TunnelConfig,
        node: Node,
        status: watch::Sender<TunnelStatus>,
    ) -> io::Result<Self> {
        let stack = StackConfig {
            addresses: config.addresses.clone(),
            mtu: config.mtu,
            any_address: false,
            max_connections: MAX_CONNECTIONS,
            memory: MEMORY,
            keep_alive: None,
        };
        let wishes = Arc::new(Mutex::new(Wishes::default()));
        let front = ClientFront {
            gateway: config.peer.public_key,
            wishes: Arc::clone(&wishes),
            status,
            nudged: None,
            asked: None,
        };
        let udp = UdpOptions::new(config.bind);
        let netstack = Netstack::start("orfe-tunnel", &udp, node, &stack, |_| front)?;
        Ok(Self { netstack, wishes })
    }

    pub(super) fn dialer(&self) -> SmoltcpDialer {
        SmoltcpDialer {
            handle: self.netstack.handle().clone(),
        }
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.netstack.local_addr()
    }

    pub(super) fn set_endpoint(&self, endpoint: SocketAddr) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.endpoint = Some(endpoint);
        wishes.rehandshake = true;
        drop(wishes);
        self.netstack.handle().wake();
    }

    pub(super) fn rehandshake(&self) {
        self.wishes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rehandshake = true;
        self.netstack.handle().wake();
    }

    pub(super) async fn shutdown(self) {
        self.netstack.shutdown().await;
    }
}

/// Asks the thread for connections.
#[derive(Debug, Clone)]
pub(super) struct SmoltcpDialer {
    handle: Handle<Dial>,
}

impl SmoltcpDialer {
    pub(super) async fn connect(&self, destination: SocketAddr) -> Result<BoxedStream, DialFailure> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.handle.send(Dial::Connect { destination, reply }).await;
        sent.map_err(|_| DialFailure::Gone)?;
        match outcome.await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(ConnectError::Refused)) => Err(DialFailure::Refused),
            Ok(Err(ConnectError::TooMany)) => Err(DialFailure::TooMany),
            Ok(Err(ConnectError::Unaddressable)) => Err(DialFailure::unaddressable()),
            Err(_) => Err(DialFailure::Gone),
        }
    }

    pub(super) async fn nudge(&self) {
        // A thread that has ended has no use for it.
        let _ = self.handle.send(Dial::Nudge).await;
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
