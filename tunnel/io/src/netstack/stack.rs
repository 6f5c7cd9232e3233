//! smoltcp with the connections that live in it.
//!
//! A connection comes to be in one of two ways: [`Stack::connect`] sends a SYN and answers when it is settled;
//! [`Stack::accept`] lets in one given SYN, for which alone a listening socket exists for the length of that call. Hence no
//! packet from outside ever opens a connection by itself: one that belongs to none is answered with a reset.

mod life;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_tunnel_core::Batch;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use self::life::Connection;
pub(crate) use self::life::{ConnectError, ConnectReply};
use super::connection::Shared;
use super::device::PacketDevice;
use super::sequence;
use super::stream::TunnelStream;
use super::wake::Wake;

/// Bytes of each of the two smoltcp buffers of a connection: the largest window. Pages are used as they are first touched.
pub(crate) const SOCKET_BUFFER: usize = 512 << 10;
/// Local ports for connections that are dialled (RFC 6335, section 6: dynamic ports).
const PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// A connection's two ends, as seen from the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// What a stack is made from.
#[derive(Debug, Clone)]
pub(crate) struct StackConfig {
    /// Our addresses inside the tunnel, at most eight.
    pub(crate) addresses: Vec<IpAddr>,
    /// Largest packet in bytes; at least 1280.
    pub(crate) mtu: usize,
    /// Take packets to every address, not ours alone.
    pub(crate) any_address: bool,
    /// Connections at once, those being opened or closed included. Each holds at most two smoltcp buffers and two rings.
    pub(crate) max_connections: usize,
    /// Interval of probes on silent connections.
    pub(crate) keep_alive: Option<Duration>,
}

pub(crate) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    device: PacketDevice,
    connections: HashMap<Flow, Connection>,
    /// Connections that are gone and not yet reported; as many as there were connections at most.
    closed: VecDeque<Flow>,
    config: StackConfig,
    next_port: u16,
    wake: Arc<Wake>,
    started: Instant,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("config", &self.config)
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// Fails when an address is not a unicast one, or there are none or more than eight, or the MTU is too small.
    pub(super) fn new(config: &StackConfig, wake: Arc<Wake>, now: Instant) -> io::Result<Self> {
        check(config)?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
        let seed = u64::from_ne_bytes(seed);
        let mut device = PacketDevice::new(config.mtu);
        let mut interface_config = Config::new(HardwareAddress::Ip);
        interface_config.random_seed = seed;
        let mut interface = Interface::new(interface_config, &mut device, StackInstant::ZERO);
        let mut fits = true;
        interface.update_ip_addrs(|addresses| {
            for address in &config.addresses {
                let prefix = if address.is_ipv4() { 32 } else { 128 };
                fits &= addresses
                    .push(IpCidr::new(IpAddress::from(*address), prefix))
                    .is_ok();
            }
        });
        for address in &config.addresses {
            // smoltcp takes packets for foreign addresses when their route leads to itself, and needs a route to answer.
            let routes = interface.routes_mut();
            let added = match *address {
                IpAddr::V4(v4) => routes.add_default_ipv4_route(v4).is_ok(),
                IpAddr::V6(v6) => routes.add_default_ipv6_route(v6).is_ok(),
            };
            fits &= added;
        }
        if !fits {
            return Err(invalid("more addresses than the TCP stack holds (8)"));
        }
        interface.set_any_ip(config.any_address);
        Ok(Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            device,
            connections: HashMap::new(),
            closed: VecDeque::new(),
            config: config.clone(),
            // Any start will do, but the same one after each restart would meet connections that still linger elsewhere.
            next_port: PORTS.start() + (seed % PORTS.len() as u64) as u16,
            wake,
            started: now,
        })
    }

    /// Starts a connection to `remote`; `reply` has the outcome. A dropped receiver abandons it.
    pub(crate) fn connect(&mut self, remote: SocketAddr, reply: ConnectReply) {
        // The receiver may be gone already; then nobody wants to know.
        if self.connections.len() >= self.config.max_connections {
            let _ = reply.send(Err(ConnectError::TooMany));
            return;
        }
        let source = self
            .config
            .addresses
            .iter()
            .find(|address| address.is_ipv4() == remote.is_ipv4());
        let Some(flow) = source.copied().and_then(|source| self.free_flow(source, remote)) else {
            let _ = reply.send(Err(ConnectError::Unaddressable));
            return;
        };
        let mut socket = self.new_socket();
        if socket
            .connect(self.interface.context(), flow.remote, flow.local)
            .is_err()
        {
            let _ = reply.send(Err(ConnectError::Unaddressable));
            return;
        }
        let handle = self.sockets.add(socket);
        self.insert(flow, handle, Some(reply));
    }

    /// Lets in `syn`, which must be the first packet of `flow`. `None` when the stack does not take it.
    pub(crate) fn accept(&mut self, flow: Flow, syn: &[u8], now: Instant) -> Option<TunnelStream> {
        if self.connections.len() >= self.config.max_connections || self.connections.contains_key(&flow) {
            return None;
        }
        // Nothing but this packet may meet the listening socket.
        self.ingress(now);
        let mut socket = self.new_socket();
        socket.listen(flow.local).ok()?;
        let handle = self.sockets.add(socket);
        self.push(syn);
        self.ingress(now);
        let socket = self.sockets.get::<Socket<'_>>(handle);
        if socket.remote_endpoint().map(SocketAddr::from) != Some(flow.remote) {
            self.sockets.remove(handle);
            return None;
        }
        let shared = self.insert(flow, handle, None);
        Some(TunnelStream::new(shared))
    }

    /// Queues a packet from the tunnel. [`Stack::ingress`] takes it up.
    pub(crate) fn push(&mut self, packet: &[u8]) {
        self.device.push(packet);
    }

    /// Number of connections, those being opened or closed included.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Bytes in the buffers and rings of all connections.
    pub(crate) fn buffered(&self) -> usize {
        let in_connection = |connection: &Connection| {
            let socket = self.sockets.get::<Socket<'_>>(connection.handle);
            connection.shared.buffered() + socket.send_queue() + socket.recv_queue()
        };
        self.connections.values().map(in_connection).sum()
    }

    /// Resets the connections that `choose` names.
    pub(crate) fn abort_where(&mut self, mut choose: impl FnMut(&Flow) -> bool) {
        for (flow, connection) in &self.connections {
            if choose(flow) {
                self.sockets.get_mut::<Socket<'_>>(connection.handle).abort();
            }
        }
    }

    /// Processes the packets that were pushed. Its work is bounded by their number.
    pub(super) fn ingress(&mut self, now: Instant) {
        let now = self.clock(now);
        self.interface.poll_maintenance(now);
        while self
            .interface
            .poll_ingress_single(now, &mut self.device, &mut self.sockets)
            != PollIngressSingleResult::None
        {}
    }

    /// Moves bytes between rings and sockets, and lets go of connections that are over.
    pub(super) fn pump(&mut self, now: Instant) {
        let mut over = Vec::new();
        for (flow, connection) in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket<'_>>(connection.handle);
            if connection.step(socket, now) {
                over.push(*flow);
            }
        }
        for flow in over {
            if let Some(connection) = self.connections.remove(&flow) {
                self.sockets.remove(connection.handle);
                connection.shared.finish();
                self.closed.push_back(flow);
            }
        }
    }

    /// Lets sockets emit packets; at most [`super::device::MAX_TX`] wait in [`Stack::transmit`].
    pub(super) fn egress(&mut self, now: Instant) {
        let now = self.clock(now);
        while self
            .interface
            .poll_egress(now, &mut self.device, &mut self.sockets)
            != PollResult::None
        {}
    }

    /// Packets for the tunnel.
    pub(super) fn transmit(&mut self) -> &Batch<()> {
        for index in 0..self.device.tx.len() {
            if let Some((packet, ())) = self.device.tx.get_mut(index) {
                sequence::correct(packet, |flow| {
                    self.connections
                        .get_mut(flow)
                        .map(|connection| &mut connection.sent)
                });
            }
        }
        &self.device.tx
    }

    pub(super) fn clear_transmitted(&mut self) {
        self.device.tx.clear();
    }

    /// The next connection that is gone.
    pub(super) fn poll_closed(&mut self) -> Option<Flow> {
        self.closed.pop_front()
    }

    /// How long until a socket's timer is due.
    pub(super) fn poll_delay(&mut self, now: Instant) -> Option<Duration> {
        let now = self.clock(now);
        self.interface.poll_delay(now, &self.sockets).map(Duration::from)
    }

    fn insert(&mut self, flow: Flow, handle: SocketHandle, opening: Option<ConnectReply>) -> Arc<Shared> {
        let shared = Arc::new(Shared::new(Arc::clone(&self.wake)));
        let connection = Connection::new(handle, Arc::clone(&shared), opening);
        self.connections.insert(flow, connection);
        shared
    }

    fn new_socket(&self) -> Socket<'static> {
        let buffer = || SocketBuffer::new(vec![0; SOCKET_BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_keep_alive(self.config.keep_alive.map(Into::into));
        socket
    }

    fn free_flow(&mut self, source: IpAddr, remote: SocketAddr) -> Option<Flow> {
        // Ports go round, so that one is not used again while the other end may still remember its last connection.
        for _ in PORTS {
            let flow = Flow {
                local: SocketAddr::new(source, self.next_port),
                remote,
            };
            self.next_port = self.next_port.checked_add(1).unwrap_or(*PORTS.start());
            if !self.connections.contains_key(&flow) {
                return Some(flow);
            }
        }
        None
    }

    fn clock(&self, now: Instant) -> StackInstant {
        let elapsed = now.saturating_duration_since(self.started).as_micros();
        StackInstant::from_micros(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for connection in self.connections.values() {
            connection.shared.finish();
        }
    }
}

fn check(config: &StackConfig) -> io::Result<()> {
    if config.mtu < 1280 || config.mtu > 9216 {
        return Err(invalid("the MTU must be 1280 to 9216"));
    }
    if config.addresses.is_empty() {
        return Err(invalid("no address inside the tunnel"));
    }
    let unicast = |address: &IpAddr| {
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        !address.is_multicast() && !address.is_unspecified() && !broadcast
    };
    match config.addresses.iter().find(|address| !unicast(address)) {
        Some(address) => Err(invalid(&format!("{address} is no address for one machine"))),
        None => Ok(()),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
