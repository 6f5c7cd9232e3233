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
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use self::life::Connection;
pub(crate) use self::life::{ConnectError, ConnectReply};
use super::buffers::{Budget, RoundTrips, Size};
use super::connection::Shared;
use super::device::PacketDevice;
pub(crate) use super::flow::Flow;
use super::flow::{Header, TCP};
use super::schedule::Schedule;
use super::stream::TunnelStream;
use super::wake::{Slot, Wake};

/// Local ports for connections that are dialled (RFC 6335, section 6: dynamic ports).
const PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// Packets that a connection may emit in one visit; then it is the next one's turn.
const BURST: usize = 64;
/// Pause before another visit to a socket that wants one at once, and then does nothing.
const FUTILE: Duration = Duration::from_millis(10);

/// What a stack is made from.
#[derive(Debug, Clone)]
pub(crate) struct StackConfig {
    /// Our addresses inside the tunnel, at most eight.
    pub(crate) addresses: Vec<IpAddr>,
    /// Largest packet in bytes; at least 1280.
    pub(crate) mtu: usize,
    /// Take packets to every address, not ours alone.
    pub(crate) any_address: bool,
    /// Connections at once, those being opened or closed included.
    pub(crate) max_connections: usize,
    /// Bytes that the buffers of all connections may take together (see `buffers`).
    pub(crate) memory: usize,
    /// Interval of probes on silent connections.
    pub(crate) keep_alive: Option<Duration>,
}

pub(crate) struct Stack {
    interface: Interface,
    device: PacketDevice,
    /// Where a connection is in `slots`.
    flows: HashMap<Flow, Slot>,
    slots: Vec<Option<Connection>>,
    vacant: Vec<Slot>,
    schedule: Schedule,
    /// Meets the packets of no connection.
    nobody: SocketSet<'static>,
    budget: Budget,
    round_trips: RoundTrips,
    /// Connections that are gone and not yet reported; as many as there were connections at most.
    closed: VecDeque<Flow>,
    config: StackConfig,
    next_port: u16,
    wake: Arc<Wake>,
    /// Kept for its memory.
    touched: Vec<Slot>,
    started: Instant,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("config", &self.config)
            .field("connections", &self.flows.len())
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
            device,
            flows: HashMap::new(),
            slots: Vec::new(),
            vacant: Vec::new(),
            schedule: Schedule::default(),
            nobody: SocketSet::new(Vec::new()),
            budget: Budget::new(config.memory, config.max_connections),
            round_trips: RoundTrips::default(),
            closed: VecDeque::new(),
            config: config.clone(),
            // Any start will do, but the same one after each restart would meet connections that still linger elsewhere.
            next_port: PORTS.start() + (seed % PORTS.len() as u64) as u16,
            wake,
            touched: Vec::new(),
            started: now,
        })
    }

    /// Starts a connection to `remote`; `reply` has the outcome. A dropped receiver abandons it.
    pub(crate) fn connect(&mut self, remote: SocketAddr, reply: ConnectReply) {
        if let Err((error, reply)) = self.try_connect(remote, reply) {
            // The receiver may be gone already; then nobody wants to know.
            let _ = reply.send(Err(error));
        }
    }

    fn try_connect(
        &mut self,
        remote: SocketAddr,
        reply: ConnectReply,
    ) -> Result<(), (ConnectError, ConnectReply)> {
        let source = self
            .config
            .addresses
            .iter()
            .find(|address| address.is_ipv4() == remote.is_ipv4());
        let Some(flow) = source.copied().and_then(|source| self.free_flow(source, remote)) else {
            return Err((ConnectError::Unaddressable, reply));
        };
        let Some(size) = self.budget.take(self.round_trips.get(self.path(&flow))) else {
            return Err((ConnectError::TooMany, reply));
        };
        let mut socket = self.new_socket(size);
        if socket
            .connect(self.interface.context(), flow.remote, flow.local)
            .is_err()
        {
            self.budget.give_back(size);
            return Err((ConnectError::Unaddressable, reply));
        }
        self.insert(flow, socket, size, Some(reply));
        Ok(())
    }

    /// Lets in `syn`, which must be the first packet of `flow`. `None` when the stack does not take it.
    pub(crate) fn accept(&mut self, flow: Flow, syn: &[u8], now: Instant) -> Option<TunnelStream> {
        if self.flows.contains_key(&flow) {
            return None;
        }
        // Nothing but this packet may meet the listening socket.
        self.ingress(now);
        let size = self.budget.take(self.round_trips.get(self.path(&flow)))?;
        let mut socket = self.new_socket(size);
        if socket.listen(flow.local).is_err() {
            self.budget.give_back(size);
            return None;
        }
        let slot = self.insert(flow, socket, size, None);
        self.device.push(syn);
        let clock = self.clock(now);
        let connection = self.slots[slot.0].as_mut()?;
        if let Some(packet) = self.device.next()
            && let Some(header) = Header::parse(packet)
        {
            connection.sender.incoming(packet, &header, now);
        }
        self.interface
            .poll_ingress_single(clock, &mut self.device, &mut connection.set);
        pass_on(&mut self.device, Some(connection), now);
        if connection.socket().remote_endpoint().map(SocketAddr::from) == Some(flow.remote) {
            return Some(TunnelStream::new(Arc::clone(&connection.shared)));
        }
        self.remove(slot);
        None
    }

    /// Queues a packet from the tunnel. [`Stack::ingress`] takes it up.
    pub(crate) fn push(&mut self, packet: &[u8]) {
        self.device.push(packet);
    }

    /// Number of connections, those being opened or closed included.
    pub(crate) fn connections(&self) -> usize {
        self.flows.len()
    }

    /// Bytes in the buffers and rings of all connections.
    pub(crate) fn buffered(&self) -> usize {
        let in_connection = |connection: &Connection| {
            let socket = connection.socket();
            connection.shared.buffered()
                + connection.sender.buffered()
                + socket.send_queue()
                + socket.recv_queue()
        };
        self.slots.iter().flatten().map(in_connection).sum()
    }

    /// Resets the connections that `choose` names.
    pub(crate) fn abort_where(&mut self, mut choose: impl FnMut(&Flow) -> bool) {
        for (flow, slot) in &self.flows {
            if choose(flow)
                && let Some(connection) = &mut self.slots[slot.0]
            {
                connection.socket_mut().abort();
                self.schedule.ready(*slot);
            }
        }
    }

    /// Notes a round trip that was seen on the only path that a device has.
    pub(crate) fn note_round_trip(&mut self, round_trip: Duration, now: Instant) {
        self.round_trips.note(None, round_trip, now);
    }

    /// Processes the packets that were pushed. Its work is bounded by their number.
    pub(super) fn ingress(&mut self, now: Instant) {
        let clock = self.clock(now);
        self.interface.poll_maintenance(clock);
        while let Some(packet) = self.device.next() {
            let header = Header::parse(packet);
            if let Some(header) = header.filter(|header| header.protocol == TCP)
                && let Some(slot) = self.flows.get(&header.incoming()).copied()
                && let Some(connection) = &mut self.slots[slot.0]
            {
                if let Some(round_trip) = connection.sender.incoming(packet, &header, now) {
                    let path = self.config.any_address.then_some(connection.flow.remote.ip());
                    self.round_trips.note(path, round_trip, now);
                }
                self.interface
                    .poll_ingress_single(clock, &mut self.device, &mut connection.set);
                pass_on(&mut self.device, Some(connection), now);
                self.schedule.ready(slot);
                if connection.must_acknowledge() {
                    self.interface
                        .poll_egress(clock, &mut self.device, &mut connection.set);
                    pass_on(&mut self.device, Some(connection), now);
                }
            } else {
                self.interface
                    .poll_ingress_single(clock, &mut self.device, &mut self.nobody);
                pass_on(&mut self.device, None, now);
            }
        }
    }

    /// Visits the connections that have something to do, until [`super::device::MAX_TX`] packets wait in [`Stack::transmit`].
    pub(super) fn work(&mut self, now: Instant) {
        let mut touched = std::mem::take(&mut self.touched);
        self.wake.take_touched(&mut touched);
        touched.iter().for_each(|slot| self.schedule.ready(*slot));
        self.touched = touched;
        self.schedule.fire(now);
        // Those that come to be ready meanwhile are for the next round: what comes from the network must have its turn.
        for _ in 0..self.schedule.waiting() {
            if !self.device.has_room() {
                break;
            }
            let Some(slot) = self.schedule.next_visit() else {
                break;
            };
            self.visit(slot, now);
        }
    }

    fn visit(&mut self, slot: Slot, now: Instant) {
        let clock = self.clock(now);
        let Some(connection) = self.slots.get_mut(slot.0).and_then(Option::as_mut) else {
            return;
        };
        if let Some(deadline) = connection.step(now) {
            self.schedule.wake_at(slot, deadline);
        }
        connection.unacknowledged = 0;
        let (room, tx) = self.device.room();
        if let Some(deadline) = connection.sender.work(now, room.min(BURST), tx) {
            self.schedule.wake_at(slot, deadline);
        }
        let mut emitted = 0;
        while emitted < BURST
            && self
                .interface
                .poll_egress(clock, &mut self.device, &mut connection.set)
                != PollResult::None
        {
            pass_on(&mut self.device, Some(connection), now);
            emitted += 1;
        }
        let has_more = emitted == BURST || !self.device.has_room();
        if has_more {
            self.schedule.ready(slot);
            return;
        }
        let queued = connection.socket().send_queue();
        connection.sender.note_queued(queued);
        if connection.is_over() {
            if let Some(flow) = self.remove(slot) {
                self.closed.push_back(flow);
            }
            return;
        }
        match self.interface.poll_at(clock, &connection.set) {
            Some(at) if at <= clock => self.schedule.wake_at(slot, now + FUTILE),
            Some(at) => self.schedule.wake_at(slot, now + Duration::from(at - clock)),
            None => {}
        }
    }

    /// Packets for the tunnel.
    pub(super) fn transmit(&self) -> &Batch<()> {
        &self.device.tx
    }

    pub(super) fn clear_transmitted(&mut self) {
        self.device.tx.clear();
    }

    /// The next connection that is gone.
    pub(super) fn poll_closed(&mut self) -> Option<Flow> {
        self.closed.pop_front()
    }

    /// How long until [`Stack::work`] is to be called again, if nothing happens before.
    pub(super) fn poll_delay(&self, now: Instant) -> Option<Duration> {
        if self.schedule.waiting() > 0 {
            return Some(Duration::ZERO);
        }
        let timer = self.schedule.next_timer()?;
        Some(timer.saturating_duration_since(now))
    }

    fn insert(
        &mut self,
        flow: Flow,
        socket: Socket<'static>,
        size: Size,
        opening: Option<ConnectReply>,
    ) -> Slot {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() - 1)
        });
        let shared = Arc::new(Shared::new(size.ring, slot, Arc::clone(&self.wake)));
        self.slots[slot.0] = Some(Connection::new(flow, socket, size, shared, opening));
        self.flows.insert(flow, slot);
        self.schedule.ready(slot);
        slot
    }

    /// Lets go of a connection.
    fn remove(&mut self, slot: Slot) -> Option<Flow> {
        let connection = self.slots[slot.0].take()?;
        self.schedule.forget(slot);
        self.flows.remove(&connection.flow);
        self.vacant.push(slot);
        self.budget.give_back(connection.size);
        connection.shared.finish();
        Some(connection.flow)
    }

    fn new_socket(&self, size: Size) -> Socket<'static> {
        let buffer = || SocketBuffer::new(vec![0; size.buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_keep_alive(self.config.keep_alive.map(Into::into));
        socket
    }

    /// What round trips are remembered by. All that a device dials lies behind one gateway.
    fn path(&self, flow: &Flow) -> Option<IpAddr> {
        self.config.any_address.then_some(flow.remote.ip())
    }

    fn free_flow(&mut self, source: IpAddr, remote: SocketAddr) -> Option<Flow> {
        // Ports go round, so that one is not used again while the other end may still remember its last connection.
        for _ in PORTS {
            let flow = Flow {
                local: SocketAddr::new(source, self.next_port),
                remote,
            };
            self.next_port = self.next_port.checked_add(1).unwrap_or(*PORTS.start());
            if !self.flows.contains_key(&flow) {
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
        for connection in self.slots.iter().flatten() {
            connection.shared.finish();
        }
    }
}

/// Passes on what smoltcp made, by way of the connection that it belongs to.
fn pass_on(device: &mut PacketDevice, connection: Option<&mut Connection>, now: Instant) {
    let Some((packet, out)) = device.take_made() else {
        return;
    };
    match (connection, Header::parse(packet)) {
        (Some(connection), Some(header)) if header.protocol == TCP => {
            connection.sender.outgoing(packet, &header, now, out);
        }
        _ => out.push(packet, ()),
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
