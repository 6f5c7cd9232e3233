//! The two ends and the clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mock_instant::MockClock;
use orfe_tunnel_core::{
    AllowedIp, Batch, Datagrams, Event, HandshakeLimits, Node, NodeConfig, PeerConfig, PeerStats,
    PresharedKey, PrivateKey, PublicKey,
};

use crate::network::Network;

/// Index of the end that keeps the session and may move.
pub const DEVICE: usize = 0;
/// Index of the end that only answers.
pub const GATEWAY: usize = 1;

const MTU: usize = 1280;
/// Length of an IPv4 header.
const HEADER: usize = 20;

/// One end: a node, where it is, and what came out of it.
#[derive(Debug)]
pub struct End {
    pub node: Node,
    pub address: SocketAddr,
    pub inner: IpAddr,
    pub public_key: PublicKey,
    pub events: Vec<(Duration, Event)>,
    /// How often a timer of its was due.
    pub timers: u64,
}

/// A packet that came out of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub to: usize,
    pub at: Duration,
}

/// Two ends, the network between them, and the time.
#[derive(Debug)]
pub struct World {
    pub ends: [End; 2],
    pub network: Network,
    base: Instant,
    now: Duration,
    next_packet: u64,
    /// Packets handed over, by number: by which end.
    pub sent: BTreeMap<u64, usize>,
    /// Packets that came out, by number. More than one delivery is a fault of the node.
    pub delivered: BTreeMap<u64, Vec<Delivery>>,
}

impl World {
    /// A device that keeps a session to a gateway which does not know where the device is.
    pub fn new(keepalive: Option<Duration>, preshared_key: Option<[u8; 32]>) -> Self {
        MockClock::set_time(Duration::ZERO);
        let base = Instant::now();
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let public_keys = [keys[0].public_key(), keys[1].public_key()];
        let mut ends = [0_u8, 1].map(|number| {
            let config = NodeConfig {
                private_key: keys[usize::from(number)].clone(),
                mtu: MTU,
                limits: HandshakeLimits::default(),
            };
            End {
                node: Node::new(config, base),
                address: SocketAddr::from(([192, 0, 2, number], 51_820)),
                inner: IpAddr::from([10, 0, 0, number]),
                public_key: public_keys[usize::from(number)],
                events: Vec::new(),
                timers: 0,
            }
        });
        for number in [DEVICE, GATEWAY] {
            let other = 1 - number;
            let peer = PeerConfig {
                public_key: public_keys[other],
                preshared_key: preshared_key.map(PresharedKey::from),
                endpoint: (number == DEVICE).then_some(ends[other].address),
                allowed_ips: vec![AllowedIp::host(ends[other].inner)],
                keepalive: keepalive.filter(|_| number == DEVICE),
            };
            let added = ends[number].node.set_peer(peer, base);
            assert!(added.is_ok(), "{added:?}");
        }
        Self {
            ends,
            network: Network::default(),
            base,
            now: Duration::ZERO,
            next_packet: 0,
            sent: BTreeMap::new(),
            delivered: BTreeMap::new(),
        }
    }

    /// The time since the world began.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Sends a numbered packet of `len` bytes (28 at least, the MTU at most) from one end to the other.
    pub fn send(&mut self, from: usize, len: usize) -> u64 {
        let number = self.next_packet;
        self.next_packet += 1;
        let packet = packet(self.ends[from].inner, self.ends[1 - from].inner, number, len);
        self.sent.insert(number, from);
        self.send_raw(from, &packet);
        number
    }

    /// Sends an inner packet that claims to be from another address than the end has.
    pub fn send_spoofed(&mut self, from: usize) {
        let packet = packet(
            IpAddr::from([10, 0, 0, 200]),
            self.ends[1 - from].inner,
            u64::MAX,
            HEADER + 8,
        );
        self.send_raw(from, &packet);
    }

    fn send_raw(&mut self, from: usize, packet: &[u8]) {
        let mut packets = Batch::new();
        packets.push(packet, ());
        let mut out = Datagrams::new();
        let now = self.base + self.now;
        self.ends[from].node.handle_packets(&packets, now, &mut out);
        self.carry(from, &out);
    }

    /// Lets time pass; timers and arrivals come in their order.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let timers = self.ends.iter().filter_map(|end| end.node.poll_timeout());
            let timer = timers
                .map(|(at, _)| at.saturating_duration_since(self.base))
                .min();
            let next = [timer, self.network.next_arrival()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.set_time(next.max(self.now));
            self.timers();
            self.arrivals();
        }
        self.set_time(until);
    }

    /// The time jumps for both ends, and nothing ran in between: a machine slept, or its clock was stopped.
    pub fn sleep(&mut self, by: Duration) {
        self.network.lose_all();
        self.set_time(self.now + by);
        self.timers();
    }

    /// The device has another address from now on.
    pub fn roam(&mut self, address: SocketAddr) {
        self.ends[DEVICE].address = address;
    }

    /// Says whether something is open in the device's tunnel.
    pub fn set_in_use(&mut self, in_use: bool) {
        let gateway = self.ends[GATEWAY].public_key;
        let now = self.base + self.now;
        self.ends[DEVICE].node.set_in_use(&gateway, in_use, now);
    }

    /// The device notices a change of network and shakes hands at once.
    pub fn rehandshake(&mut self) {
        let gateway = self.ends[GATEWAY].public_key;
        let mut out = Datagrams::new();
        let now = self.base + self.now;
        self.ends[DEVICE].node.rehandshake(&gateway, now, &mut out);
        self.carry(DEVICE, &out);
    }

    /// What `end` knows of the other.
    pub fn stats(&self, end: usize) -> PeerStats {
        let other = self.ends[1 - end].public_key;
        match self.ends[end].node.stats(&other) {
            Some(stats) => stats,
            None => unreachable!("each end has the other as its peer"),
        }
    }

    /// Moments at which `end` completed handshakes.
    pub fn handshakes(&self, end: usize) -> Vec<Duration> {
        let events = self.ends[end].events.iter();
        events
            .filter(|(_, event)| matches!(event, Event::HandshakeCompleted { .. }))
            .map(|(at, _)| *at)
            .collect()
    }

    fn set_time(&mut self, now: Duration) {
        self.now = now;
        MockClock::set_time(now);
    }

    fn timers(&mut self) {
        for end in [DEVICE, GATEWAY] {
            let now = self.base + self.now;
            let is_due = self.ends[end]
                .node
                .poll_timeout()
                .is_some_and(|(at, _)| at <= now);
            if is_due {
                self.ends[end].timers += 1;
                let mut out = Datagrams::new();
                self.ends[end].node.handle_timeout(now, &mut out);
                self.carry(end, &out);
            }
        }
    }

    fn arrivals(&mut self) {
        while let Some((from, to, bytes)) = self.network.arrive(self.now) {
            let Some(end) = self.ends.iter().position(|end| end.address == to) else {
                continue;
            };
            let (mut datagrams, mut packets, mut out) = (Batch::new(), Batch::new(), Datagrams::new());
            datagrams.push(&bytes, from);
            let now = self.base + self.now;
            self.ends[end]
                .node
                .handle_datagrams(&datagrams, now, &mut packets, &mut out);
            for (packet, _) in packets.iter() {
                let number = packet[HEADER..].first_chunk().copied().map(u64::from_be_bytes);
                let delivery = Delivery {
                    to: end,
                    at: self.now,
                };
                self.delivered
                    .entry(number.unwrap_or(u64::MAX))
                    .or_default()
                    .push(delivery);
            }
            self.carry(end, &out);
        }
    }

    fn carry(&mut self, from: usize, out: &Datagrams) {
        for (datagram, to) in out.iter() {
            self.network.send(self.ends[from].address, to, datagram, self.now);
        }
        while let Some(event) = self.ends[from].node.poll_event() {
            self.ends[from].events.push((self.now, event));
        }
    }
}

/// An IPv4 packet with a number in its payload.
fn packet(source: IpAddr, destination: IpAddr, number: u64, len: usize) -> Vec<u8> {
    let len = len.clamp(HEADER + 8, MTU);
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    if let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) {
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&destination.octets());
    }
    packet[HEADER..HEADER + 8].copy_from_slice(&number.to_be_bytes());
    packet
}
