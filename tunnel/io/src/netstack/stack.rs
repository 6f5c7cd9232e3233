//! smoltcp with the connections that live in it.
//!
//! A connection comes to be in one of two ways: [`Stack::connect`] sends a SYN and answers when it is settled;
//! [`Stack::accept`] lets in one given SYN, for which alone a listening socket exists for the length of that call. Hence no
//! packet from outside ever opens a connection by itself: one that belongs to none is answered with a reset.
//!
//! smoltcp opens connections; what an open one carries goes by `transfer`.

mod config;
mod life;
mod opening;
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
use smoltcp::socket::tcp::Socket;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpAddress, IpCidr, TCP_HEADER_LEN};

pub(crate) use self::config::StackConfig;
use self::config::invalid;
pub(crate) use self::life::{ConnectError, ConnectReply};
use self::life::{Connection, DEAD_AFTER, Stage};
use self::opening::PORTS;
use super::budget::Budget;
use super::connection::Shared;
use super::datagrams::{self, Inbox, Sockets};
use super::device::PacketDevice;
pub(crate) use super::flow::Flow;
use super::flow::{Header, TCP, UDP};
use super::pool::Pool;
use super::schedule::Schedule;
use super::wake::{Slot, Wake};

/// Packets that a connection may emit in one visit; then it is the next one's turn.
const BURST: usize = 64;
/// Pause before another visit to a socket that wants one at once, and then does nothing.
const FUTILE: Duration = Duration::from_millis(10);

pub(crate) struct Stack {
    interface: Interface,
    device: PacketDevice,
    /// Where a connection is in `slots`.
    flows: HashMap<Flow, Slot>,
    slots: Vec<Option<Connection>>,
    vacant: Vec<Slot>,
    schedule: Schedule,
    sockets: Sockets,
    /// Meets the packets of no connection.
    nobody: SocketSet<'static>,
    pool: Arc<Pool>,
    budget: Budget,
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
        config.check()?;
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
            sockets: Sockets::default(),
            nobody: SocketSet::new(Vec::new()),
            pool: Arc::new(Pool::new(config.memory)),
            budget: Budget::new(config.memory, config.max_connections),
            closed: VecDeque::new(),
            config: config.clone(),
            // Any start will do, but the same one after each restart would meet connections that still linger elsewhere.
            next_port: PORTS.start() + (seed % PORTS.len() as u64) as u16,
            wake,
            touched: Vec::new(),
            started: now,
        })
    }

    /// A UDP socket for destinations of the family of `remote`. `None` when there is no address of that family, or too many
    /// sockets.
    pub(crate) fn bind_datagrams(&mut self, remote: SocketAddr) -> Option<(SocketAddr, Inbox)> {
        let source = self.source(remote)?;
        let first = self.next_port;
        self.next_port = first.checked_add(1).unwrap_or(*PORTS.start());
        let ports = (first..=*PORTS.end()).chain(*PORTS.start()..first);
        self.sockets.bind(ports.map(|port| SocketAddr::new(source, port)))
    }

    /// Sends a datagram from a socket. One for which there is no room is lost.
    pub(crate) fn send_datagram(&mut self, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let (room, out) = self.device.room();
        let fits = payload.len() <= datagrams::capacity(self.config.mtu, remote.ip());
        if room > 0 && fits && local.is_ipv4() == remote.is_ipv4() {
            datagrams::emit(local, remote, payload, out);
        }
    }

    /// Queues a packet from the tunnel. [`Stack::ingress`] takes it up.
    pub(crate) fn push(&mut self, packet: &[u8]) {
        self.device.push(packet);
    }

    /// Number of connections, those being opened or closed included.
    pub(crate) fn connections(&self) -> usize {
        self.flows.len()
    }

    /// Bytes that all connections hold.
    pub(crate) fn buffered(&self) -> usize {
        self.pool.taken()
    }

    /// Resets the connections that `choose` names.
    pub(crate) fn abort_where(&mut self, mut choose: impl FnMut(&Flow) -> bool) {
        for (flow, slot) in &self.flows {
            if choose(flow)
                && let Some(connection) = &mut self.slots[slot.0]
            {
                connection.abort();
                self.schedule.ready(*slot);
            }
        }
    }

    /// Processes the packets that were pushed. Its work is bounded by their number.
    pub(super) fn ingress(&mut self, now: Instant) {
        let clock = self.clock(now);
        self.interface.poll_maintenance(clock);
        while let Some(packet) = self.device.next() {
            let header = Header::parse(packet);
            if let Some(header) = header.filter(|header| header.protocol == TCP)
                && let Some(slot) = self.flows.get(&header.incoming()).copied()
            {
                self.take(slot, &header, now);
            } else if let Some(header) = header.filter(|header| header.protocol == UDP)
                && self.sockets.deliver(packet, &header)
            {
                self.device.skip();
            } else {
                self.interface
                    .poll_ingress_single(clock, &mut self.device, &mut self.nobody);
                pass_on(&mut self.device, None, now);
            }
        }
    }

    /// Gives the next packet to the connection that it belongs to.
    fn take(&mut self, slot: Slot, header: &Header, now: Instant) {
        self.schedule.ready(slot);
        let (clock, largest) = (self.clock(now), self.largest(header));
        let (Some(Some(connection)), Some(packet)) = (self.slots.get_mut(slot.0), self.device.next()) else {
            return self.device.skip();
        };
        connection.open(Some((packet, header)), &self.pool, largest, now);
        match &mut connection.stage {
            Stage::Opening(dawn) => {
                dawn.seen.incoming(packet, header);
                self.interface
                    .poll_ingress_single(clock, &mut self.device, &mut dawn.set);
                pass_on(&mut self.device, Some(connection), now);
                connection.open(None, &self.pool, largest, now);
            }
            Stage::Carried(transfer) => {
                transfer.incoming(packet, header, now);
                self.device.skip();
                if transfer.must_acknowledge() {
                    transfer.acknowledge(&mut self.device.tx);
                }
            }
            Stage::Over => self.device.skip(),
        }
    }

    /// Bytes that fit into a segment of the family of `header`.
    fn largest(&self, header: &Header) -> usize {
        let ip = if header.source.is_ipv4() {
            IPV4_HEADER_LEN
        } else {
            IPV6_HEADER_LEN
        };
        self.config.mtu - ip - TCP_HEADER_LEN
    }

    /// Visits the connections that have something to do, until [`super::device::MAX_TX`] packets wait in [`Stack::transmit`].
    pub(super) fn work(&mut self, now: Instant) {
        let mut touched = std::mem::take(&mut self.touched);
        self.wake.take_touched(&mut touched);
        for slot in &touched {
            self.schedule.ready(*slot);
        }
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
        let Some(connection) = self.slots.get_mut(slot.0).and_then(Option::as_mut) else {
            return;
        };
        if let Some(deadline) = connection.step(now) {
            self.schedule.wake_at(slot, deadline);
        }
        let has_more = match &mut connection.stage {
            Stage::Opening(_) => self.visit_opening(slot, now),
            Stage::Carried(transfer) => {
                transfer.adjust(&mut self.budget, now);
                let (room, out) = self.device.room();
                let watched = transfer.watch(self.config.keep_alive, DEAD_AFTER, now, out);
                transfer.work(now, room.min(BURST), out);
                for deadline in watched.into_iter().chain(transfer.deadline()) {
                    self.schedule.wake_at(slot, deadline);
                }
                transfer.has_work()
            }
            Stage::Over => false,
        };
        if has_more {
            self.schedule.ready(slot);
            return;
        }
        let is_over = |connection: &Connection| connection.is_over();
        if self.slots[slot.0].as_ref().is_some_and(is_over)
            && let Some(flow) = self.remove(slot)
        {
            self.closed.push_back(flow);
        }
    }

    /// Lets smoltcp send what it has for a connection that it is opening. True when there is more.
    fn visit_opening(&mut self, slot: Slot, now: Instant) -> bool {
        let clock = self.clock(now);
        let Some(connection) = self.slots.get_mut(slot.0).and_then(Option::as_mut) else {
            return false;
        };
        // A SYN or a reset.
        while let Stage::Opening(dawn) = &mut connection.stage
            && self.interface.poll_egress(clock, &mut self.device, &mut dawn.set) != PollResult::None
        {
            pass_on(&mut self.device, Some(connection), now);
        }
        if let Stage::Opening(dawn) = &mut connection.stage {
            match self.interface.poll_at(clock, &dawn.set) {
                Some(at) if at <= clock => self.schedule.wake_at(slot, now + FUTILE),
                Some(at) => self.schedule.wake_at(slot, now + Duration::from(at - clock)),
                None => {}
            }
        }
        !self.device.has_room()
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
        window: usize,
        reply: Option<ConnectReply>,
    ) -> Slot {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() - 1)
        });
        let shared = Arc::new(Shared::new(&self.pool, slot, Arc::clone(&self.wake)));
        self.slots[slot.0] = Some(Connection::new(flow, socket, window, shared, reply));
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
        self.budget.give_back(connection.window());
        connection.shared.finish();
        Some(connection.flow)
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
            let window = connection.window();
            if let Stage::Opening(dawn) = &mut connection.stage {
                dawn.seen.outgoing(packet, &header, window, now);
            }
        }
        _ => {}
    }
    out.push(packet, ());
}
