//! The smoltcp end: a front for the stack's thread that dials.

mod datagrams;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use orfe_tunnel_core::path::{self, Path};
use orfe_tunnel_core::{Batch, Event, Node, PeerId, PublicKey};
use tokio::sync::{oneshot, watch};

use super::{DialFailure, EndConfig, MAX_CONNECTIONS, NUDGE_INTERVAL, TunnelStatus, cookie};
use crate::dial::{BoxedDatagrams, BoxedStream};
use crate::netstack::{ConnectError, Ends, Flow, Front, Handle, Inbox, Netstack, StackConfig, TunnelStream};
use crate::udp::UdpOptions;

/// Bytes that all connections may hold together. A window may open to a third of it, which carries 640 Mbit/s at 50 ms;
/// without a delay a connection holds a few hundred kilobytes. With a thousand connections the process stays below 32 MiB.
const MEMORY: usize = 12 << 20;

/// A tunnel whose connections smoltcp carries.
#[derive(Debug)]
pub(super) struct SmoltcpEnd {
    netstack: Netstack<Dial>,
    mtu: usize,
    wishes: Arc<Mutex<Wishes>>,
}

impl SmoltcpEnd {
    /// Starts the thread. It tells its state through `status` until it ends.
    pub(super) fn start(
        config: EndConfig,
        node: Node,
        status: watch::Sender<TunnelStatus>,
        path: watch::Sender<Option<path::Report>>,
    ) -> io::Result<Self> {
        let addresses = config.addresses.clone();
        let stack = StackConfig {
            addresses: config.addresses,
            mtu: config.mtu,
            any_address: false,
            max_connections: MAX_CONNECTIONS,
            memory: MEMORY,
            keep_alive: None,
        };
        let wishes = Arc::new(Mutex::new(Wishes::default()));
        let front = ClientFront {
            gateway: config.gateway,
            addresses,
            mtu: config.mtu,
            prober: None,
            path,
            wishes: Arc::clone(&wishes),
            status,
            nudged: None,
        };
        let udp = UdpOptions::new(config.bind);
        let netstack = Netstack::start("orfe-tunnel", &udp, node, &stack, |_| front)?;
        Ok(Self {
            netstack,
            mtu: config.mtu,
            wishes,
        })
    }

    pub(super) fn dialer(&self) -> SmoltcpDialer {
        SmoltcpDialer {
            handle: self.netstack.handle().clone(),
            mtu: self.mtu,
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

    pub(super) fn probe(&self, endpoint: SocketAddr) {
        self.wish(|wishes| wishes.probe = Some(endpoint));
    }

    pub(super) fn rebind(&self) {
        self.wish(|wishes| wishes.rebind = true);
    }

    pub(super) fn measure_path(&self, gateway: Vec<IpAddr>) {
        self.wish(|wishes| wishes.measure = Some(gateway));
    }

    fn wish(&self, wish: impl FnOnce(&mut Wishes)) {
        wish(&mut self.wishes.lock().unwrap_or_else(PoisonError::into_inner));
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
    mtu: usize,
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

    pub(super) async fn bind_datagrams(&self, destination: SocketAddr) -> io::Result<BoxedDatagrams> {
        let socket = datagrams::bind(&self.handle, self.mtu, destination).await?;
        Ok(Box::new(socket))
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
    /// Somebody wants a UDP socket for the family of `destination`.
    Bind {
        destination: SocketAddr,
        reply: oneshot::Sender<Option<(SocketAddr, Inbox)>>,
    },
    /// A UDP socket sends.
    Send {
        source: SocketAddr,
        destination: SocketAddr,
        payload: Vec<u8>,
    },
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
    /// Of the stack: it is fixed for its life. What the path lets through is told to connections when they are made.
    mtu: usize,
    prober: Option<Path>,
    path: watch::Sender<Option<path::Report>>,
    wishes: Arc<Mutex<Wishes>>,
    status: watch::Sender<TunnelStatus>,
    nudged: Option<Instant>,
}

impl ClientFront {
    /// Sends what the prober has.
    fn send_probes(&mut self, ends: &mut Ends, now: Instant) {
        let Some(prober) = &mut self.prober else { return };
        if ends.node.is_resting(&self.gateway) {
            prober.put_off(now);
        }
        while let Some(request) = prober.poll_packet(now) {
            ends.node.handle_measuring(&request, now, &mut ends.out);
        }
        ends.node.set_segment_mtu(prober.mtu().into());
    }

    /// Begins anew with what passes everywhere, and stays there when there is nobody to ask.
    fn start_measuring(&mut self, gateway: &[IpAddr], ends: &mut Ends, now: Instant) {
        let limit = u16::try_from(self.mtu).map_or(path::MTU_MAX, |mtu| mtu.min(path::MTU_MAX));
        self.prober = Path::new(&self.addresses, gateway, limit, cookie(), now);
        ends.node.set_segment_mtu(path::MTU_MIN.into());
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
        if let Some(endpoint) = wishes.probe {
            ends.node.probe(&self.gateway, endpoint, now, &mut ends.out);
        }
        ends.rebind |= wishes.rebind;
        if let Some(gateway) = wishes.measure {
            self.start_measuring(&gateway, ends, now);
        }
        ends.node
            .set_in_use(&self.gateway, ends.stack.connections() > 0, now);
        self.send_probes(ends, now);
        false
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.prober.as_ref().map(Path::poll_timeout)
    }

    fn handle_command(&mut self, command: Dial, ends: &mut Ends, now: Instant) {
        match command {
            Dial::Connect { destination, reply } => ends.stack.connect(destination, reply),
            // Who asked may be gone; then the socket is closed at once.
            Dial::Bind { destination, reply } => drop(reply.send(ends.stack.bind_datagrams(destination))),
            Dial::Send {
                source,
                destination,
                payload,
            } => ends.stack.send_datagram(source, destination, &payload),
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
        let (connections, buffered) = (ends.stack.connections(), ends.stack.buffered());
        self.status.send_if_modified(|status| {
            let before = status.clone();
            status.update(&stats, ends.node.drops(), now);
            status.connections = connections;
            status.buffered_bytes = buffered;
            *status != before
        });
    }
}
