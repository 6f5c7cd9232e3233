//! The WireGuard core: what it reads, and what it does over a course of events.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use orfe_tunnel_core::{
    AllowedIp, Batch, BoringtunEngine, Datagrams, HandshakeLimits, Node, NodeConfig, PeerConfig, PrivateKey,
    packet,
};

const MTU: usize = 1280;
/// Datagrams on the wire between the two nodes; more are lost.
const WIRE: usize = 64;
/// Events of one run; the rest of the input is not read.
const STEPS: usize = 256;
/// What a node may say in answer to one datagram, packet or timer, in datagrams: a handshake for each of its peers, and what
/// waited for it.
const ANSWERS: usize = 512;

type Wire = VecDeque<(SocketAddr, Vec<u8>)>;

struct End {
    node: Node<BoringtunEngine>,
    key: PrivateKey,
    address: SocketAddr,
    inner: IpAddr,
}

impl End {
    fn new(number: u8, now: Instant) -> Self {
        let key = PrivateKey::from([number; 32]);
        let config = NodeConfig {
            private_key: key.clone(),
            mtu: MTU,
            limits: HandshakeLimits::default(),
        };
        Self {
            node: Node::new(config, now),
            key,
            address: SocketAddr::from(([192, 0, 2, number], 51820)),
            inner: IpAddr::from([10, 0, 0, number]),
        }
    }

    fn knows(&mut self, other: &Self, dials: bool, now: Instant) {
        let config = PeerConfig {
            public_key: other.key.public_key(),
            preshared_key: None,
            endpoint: dials.then_some(other.address),
            allowed_ips: vec![AllowedIp::host(other.inner)],
            keepalive: dials.then_some(Duration::from_secs(25)),
        };
        // A peer that is refused is one of the outcomes.
        let _ = self.node.set_peer(config, now);
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Instant, wire: &mut Wire) {
        let (mut datagrams, mut packets, mut out) = (Batch::new(), Batch::new(), Datagrams::new());
        datagrams.push(datagram, from);
        self.node
            .handle_datagrams(&datagrams, now, &mut packets, &mut out);
        for (inner, _) in packets.iter() {
            assert!(
                packet::source(inner).is_some(),
                "what comes out of the tunnel is an IP packet"
            );
        }
        self.put(&out, wire);
    }

    fn send(&mut self, inner: &[u8], now: Instant, wire: &mut Wire) {
        let (mut packets, mut out) = (Batch::new(), Datagrams::new());
        packets.push(inner, ());
        self.node.handle_packets(&packets, now, &mut out);
        self.put(&out, wire);
    }

    fn pass_time(&mut self, now: Instant, wire: &mut Wire) {
        let mut out = Datagrams::new();
        self.node.handle_timeout(now, &mut out);
        self.put(&out, wire);
    }

    fn put(&self, out: &Datagrams, wire: &mut Wire) {
        assert!(out.len() <= ANSWERS, "{} datagrams at once", out.len());
        for (datagram, _) in out.iter() {
            if wire.len() < WIRE {
                wire.push_back((self.address, datagram.to_vec()));
            }
        }
    }
}

/// One datagram from anywhere, to a node with a peer: nothing panics, nothing comes through, the drop is counted.
pub fn datagram(bytes: &[u8]) {
    let now = Instant::now();
    let (mut one, other) = (End::new(1, now), End::new(2, now));
    one.knows(&other, false, now);
    let _ = (packet::source(bytes), packet::destination(bytes));
    let mut wire = Wire::new();
    one.receive(SocketAddr::from(([203, 0, 113, 9], 9)), bytes, now, &mut wire);
    one.send(bytes, now, &mut wire);
    let stats = one.node.stats(&other.key.public_key());
    let rejected = stats.map_or(0, |stats| stats.dropped.rejected);
    // A forged handshake may be answered by a cookie, and a packet for the peer by an initiation once it is known where to.
    assert!(wire.len() <= 2, "{} answers", wire.len());
    assert!(
        one.node.drops().total() + rejected > 0 || !wire.is_empty(),
        "a datagram of a stranger is dropped and counted"
    );
}

/// Two nodes and a wire, driven by the bytes: each is a verb, with its operands behind it.
pub fn node(bytes: &[u8]) {
    let start = Instant::now();
    let mut now = start;
    let (mut one, mut other) = (End::new(1, now), End::new(2, now));
    one.knows(&other, true, now);
    other.knows(&one, false, now);
    let (mut to_other, mut to_one) = (Wire::new(), Wire::new());
    let mut input = bytes.iter().copied();
    for _ in 0..STEPS {
        let Some(verb) = input.next() else { break };
        match verb % 12 {
            // Deliver what is on the wire, one way or the other.
            0 => deliver(&mut to_other, &mut other, now, &mut to_one),
            1 => deliver(&mut to_one, &mut one, now, &mut to_other),
            // A datagram and an inner packet of anything.
            2 => {
                let text = take(&mut input);
                other.receive(one.address, &text, now, &mut to_one);
            }
            3 => {
                let text = take(&mut input);
                one.send(&text, now, &mut to_other);
            }
            // An inner packet that has a way.
            4 => one.send(
                &ipv4(one.inner, other.inner, &take(&mut input)),
                now,
                &mut to_other,
            ),
            5 => other.send(&ipv4(other.inner, one.inner, &take(&mut input)), now, &mut to_one),
            // Time, from a second to minutes; the other way is what a clock of a caller may do too.
            6 => {
                now += Duration::from_secs(u64::from(input.next().unwrap_or(1)));
                one.pass_time(now, &mut to_other);
                other.pass_time(now, &mut to_one);
            }
            7 => {
                let back = Duration::from_secs(u64::from(input.next().unwrap_or(1)));
                now = now.checked_sub(back).map_or(start, |earlier| earlier.max(start));
                one.pass_time(now, &mut to_other);
            }
            // The wire alters, doubles and loses.
            8 => {
                if let (Some((_, datagram)), Some(at)) = (to_other.front_mut(), input.next()) {
                    let at = usize::from(at) % datagram.len().max(1);
                    if let Some(byte) = datagram.get_mut(at) {
                        *byte ^= input.next().unwrap_or(1);
                    }
                }
            }
            9 => {
                if let Some(first) = to_other.front().cloned() {
                    to_other.push_back(first);
                }
                to_one.pop_front();
            }
            // The far end moves, and the configuration changes.
            10 => one.address.set_port(u16::from(input.next().unwrap_or(1)) + 1),
            _ => match input.next().unwrap_or(0) % 4 {
                0 => {
                    let mut out = Datagrams::new();
                    one.node.rehandshake(&other.key.public_key(), now, &mut out);
                    one.put(&out, &mut to_other);
                }
                1 => drop(other.node.remove_peer(&one.key.public_key())),
                2 => other.knows(&one, true, now),
                _ => drop(one.node.set_endpoint(&other.key.public_key(), other.address)),
            },
        }
    }
    for end in [&mut one, &mut other] {
        // Each poll is one of a bounded number of hints.
        let events = std::iter::from_fn(|| end.node.poll_event()).take(2048).count();
        assert!(events <= 1024, "{events} events");
        if let Some((_, why)) = end.node.poll_timeout() {
            assert!(!why.is_empty());
        }
    }
}

fn deliver(wire: &mut Wire, to: &mut End, now: Instant, back: &mut Wire) {
    if let Some((from, datagram)) = wire.pop_front() {
        to.receive(from, &datagram, now, back);
    }
}

/// A length and as many bytes, or what there is.
fn take(input: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let length = usize::from(input.next().unwrap_or(0));
    input.take(length).collect()
}

fn ipv4(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    for address in [source, destination] {
        if let IpAddr::V4(address) = address {
            packet.extend_from_slice(&address.octets());
        }
    }
    packet.extend_from_slice(payload);
    packet
}
