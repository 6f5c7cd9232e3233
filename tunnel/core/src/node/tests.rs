//! Two or more nodes in memory; the wire between them is a list of datagrams.

mod batches;
mod rest;
mod seen;
mod shards;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::allowed_ips::AllowedIp;
use crate::batch::Batch;
use crate::engine::{Admission, EngineParams, Opened, Tick};
use crate::key::PresharedKey;

const MTU: usize = 1280;

/// A node with its address and what it said and received.
struct End {
    node: Node,
    key: PrivateKey,
    address: SocketAddr,
    inner: IpAddr,
    received: Vec<Vec<u8>>,
}

impl End {
    fn new(number: u8) -> Self {
        Self::with_limits(number, HandshakeLimits::default())
    }

    fn with_limits(number: u8, limits: HandshakeLimits) -> Self {
        let key = PrivateKey::generate();
        let config = NodeConfig {
            private_key: key.clone(),
            mtu: MTU,
            limits,
        };
        Self {
            node: Node::new(config, Instant::now()),
            key,
            address: SocketAddr::from(([192, 0, 2, number], 51820)),
            inner: IpAddr::from([10, 0, 0, number]),
            received: Vec::new(),
        }
    }

    /// The other end as a peer: without endpoint, as a gateway knows a device.
    fn knows(&mut self, other: &End) -> &mut Self {
        self.node.set_peer(peer(other), Instant::now()).unwrap();
        self
    }

    /// The other end as a peer that this end starts handshakes with.
    fn dials(&mut self, other: &End) -> &mut Self {
        let config = PeerConfig {
            endpoint: Some(other.address),
            keepalive: Some(Duration::from_secs(25)),
            ..peer(other)
        };
        self.node.set_peer(config, Instant::now()).unwrap();
        self
    }

    fn timeout(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.timeout_at(Instant::now())
    }

    fn timeout_at(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut out = Datagrams::new();
        self.node.handle_timeout(now, &mut out);
        datagrams(&out)
    }

    fn send(&mut self, packet: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut packets = Batch::new();
        packets.push(packet, ());
        let mut out = Datagrams::new();
        self.node.handle_packets(&packets, Instant::now(), &mut out);
        datagrams(&out)
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let (mut batch, mut packets, mut out) = (Batch::new(), Batch::new(), Datagrams::new());
        batch.push(datagram, from);
        self.node
            .handle_datagrams(&batch, Instant::now(), &mut packets, &mut out);
        self.received
            .extend(packets.iter().map(|(packet, _)| packet.to_vec()));
        datagrams(&out)
    }

    fn stats_of(&self, other: &End) -> PeerStats {
        self.node.stats(&other.key.public_key()).unwrap()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.node.poll_event()).collect()
    }
}

fn peer(end: &End) -> PeerConfig {
    PeerConfig {
        public_key: end.key.public_key(),
        preshared_key: None,
        endpoint: None,
        allowed_ips: vec![AllowedIp::host(end.inner)],
        keepalive: None,
    }
}

fn datagrams(out: &Datagrams) -> Vec<(SocketAddr, Vec<u8>)> {
    out.iter().map(|(bytes, to)| (to, bytes.to_vec())).collect()
}

/// Carries `flight`, which `from` sent, back and forth until both are silent.
fn settle(from: &mut End, to: &mut End, flight: Vec<(SocketAddr, Vec<u8>)>) {
    let mut flight = flight;
    let (mut sender, mut receiver) = (from, to);
    while !flight.is_empty() {
        let mut answers = Vec::new();
        for (destination, datagram) in flight {
            assert_eq!(destination, receiver.address);
            answers.extend(receiver.receive(sender.address, &datagram));
        }
        flight = answers;
        std::mem::swap(&mut sender, &mut receiver);
    }
}

/// A device and a gateway with a session.
fn connected() -> (End, End) {
    let (mut device, mut gateway) = (End::new(1), End::new(2));
    device.dials(&gateway);
    gateway.knows(&device);
    let flight = device.timeout();
    assert_eq!(flight.len(), 1);
    settle(&mut device, &mut gateway, flight);
    (device, gateway)
}

fn packet(source: IpAddr, destination: IpAddr, payload: usize) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = vec![0; 20 + payload];
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&u16::try_from(20 + payload).unwrap().to_be_bytes());
            packet[12..16].copy_from_slice(&source.octets());
            packet[16..20].copy_from_slice(&destination.octets());
            packet[20..].fill(0xab);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0; 40 + payload];
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&u16::try_from(payload).unwrap().to_be_bytes());
            packet[8..24].copy_from_slice(&source.octets());
            packet[24..40].copy_from_slice(&destination.octets());
            packet
        }
        _ => panic!("mixed families"),
    }
}

#[test]
fn handshake_and_data_both_ways() {
    let (mut device, mut gateway) = connected();
    let (up, down) = (
        packet(device.inner, gateway.inner, 33),
        packet(gateway.inner, device.inner, 0),
    );
    let flight = device.send(&up);
    assert_eq!(flight[0].1.len(), 32 + 64, "53 bytes are padded to 64");
    settle(&mut device, &mut gateway, flight);
    let flight = gateway.send(&down);
    settle(&mut gateway, &mut device, flight);
    assert_eq!(gateway.received, [up.as_slice()]);
    assert_eq!(device.received, [down.as_slice()]);

    let at_gateway = gateway.stats_of(&device);
    assert_eq!(at_gateway.endpoint, Some(device.address));
    assert_eq!(
        (at_gateway.rx_bytes, at_gateway.tx_bytes),
        (up.len() as u64, down.len() as u64)
    );
    assert_eq!(at_gateway.dropped.total(), 0);
    assert!(at_gateway.last_handshake.is_some() && device.stats_of(&gateway).last_handshake.is_some());
    let completed = Event::HandshakeCompleted {
        peer: gateway.key.public_key(),
        endpoint: gateway.address,
    };
    assert_eq!(device.events(), [completed]);
    assert_eq!(gateway.events().len(), 2, "endpoint learnt, handshake completed");
}

#[test]
fn ipv6_inside_and_full_size_packets() {
    let (mut device, mut gateway) = (End::new(1), End::new(2));
    device.inner = "fd00::1".parse().unwrap();
    gateway.inner = "fd00::2".parse().unwrap();
    device.dials(&gateway);
    gateway.knows(&device);
    let largest = packet(device.inner, gateway.inner, MTU - 40);
    let flight = device.send(&largest);
    settle(&mut device, &mut gateway, flight);
    assert_eq!(
        gateway.received,
        [largest],
        "it waited for the session that it started"
    );
    assert!(
        device
            .send(&packet(device.inner, gateway.inner, MTU - 39))
            .is_empty()
    );
    assert_eq!(device.node.drops().too_big, 1);
}

#[test]
fn an_inner_source_that_is_not_the_senders_is_dropped() {
    let (mut device, mut gateway) = connected();
    let mut other = End::new(3);
    other.dials(&gateway);
    gateway.knows(&other);
    // `other` may use a wide network in which the device's address lies: the longer entry still wins.
    let wide = PeerConfig {
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
        ..peer(&other)
    };
    gateway.node.set_peer(wide, Instant::now()).unwrap();
    let flight = other.timeout();
    settle(&mut other, &mut gateway, flight);

    for source in [device.inner, "192.168.1.1".parse().unwrap()] {
        let flight = other.send(&packet(source, gateway.inner, 1));
        settle(&mut other, &mut gateway, flight);
    }
    assert!(gateway.received.is_empty());
    assert_eq!(gateway.stats_of(&other).dropped.spoofed_source, 2);
    let flight = other.send(&packet("10.9.9.9".parse().unwrap(), gateway.inner, 1));
    settle(&mut other, &mut gateway, flight);
    assert_eq!(gateway.received.len(), 1);
    let flight = device.send(&packet(device.inner, gateway.inner, 1));
    settle(&mut device, &mut gateway, flight);
    assert_eq!(gateway.received.len(), 2);
}

#[test]
fn a_key_that_is_not_known_gets_no_answer() {
    let (mut stranger, mut gateway) = (End::new(1), End::new(2));
    stranger.dials(&gateway);
    for (_, datagram) in stranger.timeout() {
        assert!(gateway.receive(stranger.address, &datagram).is_empty());
    }
    assert_eq!(gateway.node.drops().unknown_peer, 1);
}

#[test]
fn a_wrong_preshared_key_lets_nobody_in() {
    let (mut device, mut gateway) = (End::new(1), End::new(2));
    device.dials(&gateway);
    let config = PeerConfig {
        preshared_key: Some(PresharedKey::generate()),
        ..peer(&device)
    };
    gateway.node.set_peer(config.clone(), Instant::now()).unwrap();
    let flight = device.timeout();
    settle(&mut device, &mut gateway, flight);
    assert_eq!(gateway.stats_of(&device).last_handshake, None);
    assert_eq!(device.stats_of(&gateway).last_handshake, None);
    assert_eq!(device.stats_of(&gateway).dropped.rejected, 1);

    let same = PeerConfig {
        preshared_key: config.preshared_key,
        endpoint: Some(gateway.address),
        keepalive: Some(Duration::from_secs(25)),
        ..peer(&gateway)
    };
    device.node.set_peer(same, Instant::now()).unwrap();
    let flight = device.timeout();
    settle(&mut device, &mut gateway, flight);
    assert!(device.stats_of(&gateway).last_handshake.is_some());
}

#[test]
fn a_handshake_for_another_node_is_rejected() {
    let (mut device, other, mut gateway) = (End::new(1), End::new(3), End::new(2));
    device.dials(&other);
    gateway.knows(&device);
    for (_, datagram) in device.timeout() {
        assert!(gateway.receive(device.address, &datagram).is_empty());
    }
    assert_eq!(gateway.node.drops().rejected_handshake, 1);
}

#[test]
fn only_authentic_and_new_packets_move_the_endpoint() {
    let (mut device, mut gateway) = connected();
    let elsewhere = SocketAddr::from(([198, 51, 100, 9], 4242));
    let flight = device.send(&packet(device.inner, gateway.inner, 1));
    let original = flight[0].1.clone();

    let mut forged = original.clone();
    *forged.last_mut().unwrap() ^= 1;
    gateway.receive(elsewhere, &forged);
    assert_eq!(gateway.stats_of(&device).endpoint, Some(device.address), "forged");

    gateway.receive(device.address, &original);
    gateway.receive(elsewhere, &original);
    assert_eq!(gateway.received.len(), 1, "a replay is dropped");
    assert_eq!(
        gateway.stats_of(&device).endpoint,
        Some(device.address),
        "replayed"
    );

    // A copy of an initiation that overtakes the original is authentic, but proves no address.
    let mut out = Datagrams::new();
    device
        .node
        .rehandshake(&gateway.key.public_key(), Instant::now(), &mut out);
    let initiation = datagrams(&out).remove(0).1;
    let answers = gateway.receive(elsewhere, &initiation);
    assert_eq!(answers[0].0, elsewhere);
    assert_eq!(
        gateway.stats_of(&device).endpoint,
        Some(device.address),
        "initiation"
    );

    gateway.events();
    let fresh = device.send(&packet(device.inner, gateway.inner, 2)).remove(0).1;
    gateway.receive(elsewhere, &fresh);
    assert_eq!(gateway.stats_of(&device).endpoint, Some(elsewhere));
    let changed = Event::EndpointChanged {
        peer: device.key.public_key(),
        from: Some(device.address),
        to: elsewhere,
    };
    assert_eq!(gateway.events(), [changed]);
    assert_eq!(
        gateway.send(&packet(gateway.inner, device.inner, 1))[0].0,
        elsewhere
    );
    assert_eq!(gateway.stats_of(&device).dropped.rejected, 2);
}

#[test]
fn a_replayed_initiation_is_rejected() {
    let (mut device, mut gateway) = (End::new(1), End::new(2));
    device.dials(&gateway);
    gateway.knows(&device);
    let initiation = device.timeout().remove(0).1;
    assert_eq!(gateway.receive(device.address, &initiation).len(), 1);
    assert!(gateway.receive(device.address, &initiation).is_empty());
    assert_eq!(gateway.stats_of(&device).dropped.rejected, 1);
}

#[test]
fn a_cookie_reply_does_not_move_the_endpoint() {
    let (mut device, gateway) = connected();
    let mut reply = vec![0; 64];
    reply[0] = 3;
    let index = device.node.peer_id(&gateway.key.public_key()).unwrap().0 << 8;
    reply[4..8].copy_from_slice(&index.to_le_bytes());
    device.receive(SocketAddr::from(([198, 51, 100, 9], 1)), &reply);
    assert_eq!(device.stats_of(&gateway).endpoint, Some(gateway.address));
}

#[test]
fn removing_a_peer_leaves_the_others() {
    let (mut device, mut gateway) = connected();
    let mut other = End::new(3);
    other.dials(&gateway);
    gateway.knows(&other);
    let flight = other.timeout();
    settle(&mut other, &mut gateway, flight);

    assert!(gateway.node.remove_peer(&device.key.public_key()));
    assert!(!gateway.node.remove_peer(&device.key.public_key()));
    let flight = device.send(&packet(device.inner, gateway.inner, 1));
    settle(&mut device, &mut gateway, flight);
    assert!(gateway.received.is_empty());
    assert_eq!(gateway.node.drops().unknown_index, 1);
    assert!(gateway.send(&packet(gateway.inner, device.inner, 1)).is_empty());

    let flight = other.send(&packet(other.inner, gateway.inner, 1));
    settle(&mut other, &mut gateway, flight);
    assert_eq!(gateway.received.len(), 1);
}

#[test]
fn changing_networks_or_the_keepalive_keeps_the_session_and_changing_the_preshared_key_renews_it() {
    let (mut device, mut gateway) = connected();
    gateway.inner = "10.0.0.77".parse().unwrap();
    device.dials(&gateway);
    assert!(
        device.stats_of(&gateway).last_handshake.is_some(),
        "still the same session"
    );
    let flight = device.send(&packet(device.inner, gateway.inner, 1));
    assert_eq!(flight[0].1[0], 4, "transport data");

    let changed = PeerConfig {
        keepalive: None,
        endpoint: Some(gateway.address),
        ..peer(&gateway)
    };
    device.node.set_peer(changed.clone(), Instant::now()).unwrap();
    let flight = device.send(&packet(device.inner, gateway.inner, 1));
    assert_eq!(flight[0].1[0], 4, "transport data");

    let changed = PeerConfig {
        preshared_key: Some(PresharedKey::generate()),
        ..changed
    };
    device.node.set_peer(changed, Instant::now()).unwrap();
    let flight = device.send(&packet(device.inner, gateway.inner, 1));
    assert_eq!(flight[0].1[0], 1, "handshake initiation");
}

#[test]
fn a_node_does_not_take_itself_as_peer() {
    let mut end = End::new(1);
    let config = peer(&end);
    assert_eq!(
        end.node.set_peer(config, Instant::now()),
        Err(PeerError::OwnKey(end.key.public_key()))
    );
}

#[test]
fn a_gateway_stays_silent_towards_a_peer_it_has_not_heard() {
    let (device, mut gateway) = (End::new(1), End::new(2));
    gateway.knows(&device);
    assert!(gateway.send(&packet(gateway.inner, device.inner, 1)).is_empty());
    assert_eq!(gateway.stats_of(&device).dropped.no_endpoint, 1);
    assert!(gateway.timeout().is_empty());
}

const THREE_OF_A_SOURCE: HandshakeLimits = HandshakeLimits {
    per_second: 1000,
    per_source: 1,
    per_source_burst: 3,
};

#[test]
fn one_source_cannot_use_up_the_handshakes_of_others() {
    let (mut device, mut gateway) = (End::new(1), End::with_limits(2, THREE_OF_A_SOURCE));
    device.dials(&gateway);
    gateway.knows(&device);
    let noisy = SocketAddr::from(([198, 51, 100, 9], 4242));
    let mut stranger = End::new(3);
    stranger.dials(&gateway);
    let (_, initiation) = stranger.timeout().remove(0);
    for _ in 0..50 {
        assert!(gateway.receive(noisy, &initiation).is_empty());
    }
    assert_eq!(gateway.node.drops().unknown_peer, 3);
    assert_eq!(gateway.node.drops().limited, 47);
    let flight = device.timeout();
    settle(&mut device, &mut gateway, flight);
    assert!(gateway.stats_of(&device).last_handshake.is_some());
}

#[test]
fn who_does_not_know_the_nodes_key_uses_up_nobodys_handshakes() {
    let (mut device, mut gateway) = (End::new(1), End::with_limits(2, THREE_OF_A_SOURCE));
    device.dials(&gateway);
    gateway.knows(&device);
    let forged = {
        let mut forged = vec![0x55; 148];
        forged[..4].copy_from_slice(&1u32.to_le_bytes());
        forged
    };
    // From the device's own address: a neighbour behind the same NAT, or one that writes what address it likes.
    for _ in 0..200 {
        assert!(gateway.receive(device.address, &forged).is_empty());
    }
    assert_eq!(gateway.node.drops().rejected_handshake, 200);
    assert_eq!(gateway.node.drops().limited, 0);
    let flight = device.timeout();
    settle(&mut device, &mut gateway, flight);
    assert!(gateway.stats_of(&device).last_handshake.is_some());
}

#[test]
fn a_busy_node_asks_for_a_cookie_that_is_good_for_one_address_and_port() {
    let limits = HandshakeLimits {
        per_second: 1,
        ..HandshakeLimits::default()
    };
    let (mut device, mut gateway) = (End::new(1), End::with_limits(2, limits));
    device.dials(&gateway);
    gateway.knows(&device);
    let first = device.timeout().remove(0).1;
    assert_eq!(
        gateway.receive(device.address, &first)[0].1[0],
        2,
        "the first is answered"
    );

    let initiate_again = |device: &mut End, gateway: &End| {
        let mut out = Datagrams::new();
        device
            .node
            .rehandshake(&gateway.key.public_key(), Instant::now(), &mut out);
        datagrams(&out).remove(0).1
    };
    let second = initiate_again(&mut device, &gateway);
    let cookie = gateway.receive(device.address, &second).remove(0).1;
    assert_eq!((cookie[0], cookie.len()), (3, 64));
    device.receive(gateway.address, &cookie);
    let third = initiate_again(&mut device, &gateway);
    let other_port = SocketAddr::new(device.address.ip(), 1);
    assert_eq!(
        gateway.receive(other_port, &third)[0].1[0],
        3,
        "another port needs another cookie"
    );
    assert_eq!(
        gateway.receive(device.address, &third)[0].1[0],
        2,
        "the cookie opens the door"
    );
}

#[test]
fn more_handshakes_than_the_engines_own_limit_pass() {
    let (mut device, mut gateway) = connected();
    for _ in 0..40 {
        let mut out = Datagrams::new();
        device
            .node
            .rehandshake(&gateway.key.public_key(), Instant::now(), &mut out);
        let flight = datagrams(&out);
        gateway.events();
        settle(&mut device, &mut gateway, flight);
        assert_eq!(gateway.events().len(), 1);
    }
}

#[test]
fn a_kept_session_is_renewed_after_two_minutes_without_data() {
    let (mut device, gateway) = connected();
    let start = Instant::now();
    assert!(
        device
            .timeout_at(start + Duration::from_secs(119))
            .iter()
            .all(|(_, datagram)| datagram[0] != 1)
    );
    let renewal = device.timeout_at(start + Duration::from_secs(126));
    assert_eq!(
        renewal
            .iter()
            .filter(|(to, bytes)| *to == gateway.address && bytes[0] == 1)
            .count(),
        1
    );
    assert!(
        device
            .timeout_at(start + Duration::from_secs(127))
            .iter()
            .all(|(_, datagram)| datagram[0] != 1)
    );
}

#[test]
fn a_handshake_is_unanswered_from_its_first_initiation_until_something_authentic_comes() {
    let (mut device, mut gateway) = connected();
    assert_eq!(device.stats_of(&gateway).unanswered_since, None);
    let start = Instant::now();
    let renewed_at = start + Duration::from_secs(126);
    device.timeout_at(renewed_at);
    assert_eq!(
        device.stats_of(&gateway).unanswered_since,
        Some(renewed_at),
        "the node's own renewal"
    );
    let mut out = Datagrams::new();
    let later = renewed_at + Duration::from_secs(9);
    device
        .node
        .rehandshake(&gateway.key.public_key(), later, &mut out);
    assert_eq!(
        device.stats_of(&gateway).unanswered_since,
        Some(renewed_at),
        "another attempt does not move it"
    );
    let mut forged = vec![0x55; 92];
    forged[..4].copy_from_slice(&2u32.to_le_bytes());
    let index = device.node.peer_id(&gateway.key.public_key()).unwrap().0 << 8;
    forged[8..12].copy_from_slice(&index.to_le_bytes());
    device.receive(gateway.address, &forged);
    assert_eq!(
        device.stats_of(&gateway).unanswered_since,
        Some(renewed_at),
        "a forged answer is none"
    );
    settle(&mut device, &mut gateway, datagrams(&out));
    assert_eq!(device.stats_of(&gateway).unanswered_since, None, "answered");

    device
        .node
        .rehandshake(&gateway.key.public_key(), later, &mut Datagrams::new());
    assert_eq!(device.stats_of(&gateway).unanswered_since, Some(later));
    let flight = gateway.send(&packet(gateway.inner, device.inner, 1));
    settle(&mut gateway, &mut device, flight);
    assert_eq!(
        device.stats_of(&gateway).unanswered_since,
        None,
        "data on the session shows that the gateway is there"
    );
}

#[test]
fn a_handshake_that_data_or_the_engine_started_counts_as_unanswered() {
    let (mut device, gateway) = (End::new(1), End::new(2));
    let config = PeerConfig {
        endpoint: Some(gateway.address),
        ..peer(&gateway)
    };
    device.node.set_peer(config.clone(), Instant::now()).unwrap();
    assert_eq!(
        device.stats_of(&gateway).unanswered_since,
        None,
        "nothing was asked"
    );
    device.send(&packet(device.inner, gateway.inner, 1));
    assert!(device.stats_of(&gateway).unanswered_since.is_some(), "data");

    let start = Instant::now();
    let node_config = NodeConfig {
        private_key: PrivateKey::generate(),
        mtu: MTU,
        limits: HandshakeLimits::default(),
    };
    let mut node: Node<Fake<RETRIES>> = Node::new(node_config, start);
    node.set_peer(config, start).unwrap();
    // Makes the engine, but no initiation: this fake seals nothing.
    let (mut packets, mut out) = (Batch::new(), Datagrams::new());
    packets.push(&packet(device.inner, gateway.inner, 1), ());
    node.handle_packets(&packets, start, &mut out);
    let unanswered =
        |node: &Node<Fake<RETRIES>>| node.stats(&gateway.key.public_key()).unwrap().unanswered_since;
    assert_eq!(unanswered(&node), None);
    let first = start + Duration::from_secs(15);
    for seconds in [0, 5, 10] {
        node.handle_timeout(first + Duration::from_secs(seconds), &mut out);
        assert_eq!(
            unanswered(&node),
            Some(first),
            "the engine's first, not its retries"
        );
    }
}

#[test]
fn an_expired_session_is_tried_again_with_growing_jittered_pauses() {
    let mut pauses = Vec::new();
    let key = PrivateKey::generate();
    let config = NodeConfig {
        private_key: key,
        mtu: MTU,
        limits: HandshakeLimits::default(),
    };
    let start = Instant::now();
    let mut node: Node<GivesUp> = Node::new(config, start);
    let gateway = End::new(2);
    let kept = PeerConfig {
        endpoint: Some(gateway.address),
        keepalive: Some(Duration::from_secs(25)),
        ..peer(&gateway)
    };
    node.set_peer(kept, start).unwrap();
    let (mut now, mut last_sent) = (start, start);
    let mut out = Datagrams::new();
    while pauses.len() < 12 {
        out.clear();
        node.handle_timeout(now, &mut out);
        if !out.is_empty() {
            pauses.push((now - last_sent).as_secs_f64());
            last_sent = now;
        }
        let (next, reason) = node.poll_timeout().unwrap();
        assert!(!reason.is_empty());
        now = next.max(now);
    }
    assert!(pauses[0] < 0.001, "the first attempt is made at once");
    assert!(
        // The engine is asked when it would repeat the initiation, 5 s later.
        pauses[1..].iter().all(|pause| (6.0..36.0).contains(pause)),
        "{pauses:?}"
    );
    assert!(pauses[6..].iter().any(|pause| *pause > 9.0), "{pauses:?}");
    let expired = std::iter::from_fn(|| node.poll_event()).count();
    assert_eq!(
        expired, 11,
        "one event for each time it was given up, not one for each tick"
    );
}

#[test]
fn retries_wait_out_a_random_part_of_a_third_of_a_second() {
    let start = Instant::now();
    let config = NodeConfig {
        private_key: PrivateKey::generate(),
        mtu: MTU,
        limits: HandshakeLimits::default(),
    };
    let mut node: Node<Fake<RETRIES>> = Node::new(config, start);
    let gateway = End::new(2);
    node.set_peer(
        PeerConfig {
            endpoint: Some(gateway.address),
            ..peer(&gateway)
        },
        start,
    )
    .unwrap();
    let mut out = Datagrams::new();
    node.rehandshake(&gateway.key.public_key(), start, &mut out);
    let mut delays = Vec::new();
    let mut now = start;
    while delays.len() < 20 {
        out.clear();
        node.handle_timeout(now, &mut out);
        assert!(out.is_empty(), "the engine's retry is held back");
        let (at, reason) = node.poll_timeout().unwrap();
        if reason == "handshake retry" {
            node.handle_timeout(at, &mut out);
            assert_eq!(out.len(), 1);
            delays.push(at - now);
        }
        now = at + Duration::from_secs(5);
    }
    assert!(delays.iter().all(|delay| *delay < Duration::from_millis(333)));
    delays.sort();
    assert!(
        delays[0] + Duration::from_millis(20) < delays[delays.len() - 1],
        "{delays:?}"
    );
}

type GivesUp = Fake<GIVES_UP>;

const GIVES_UP: bool = false;
const RETRIES: bool = true;

/// An engine that either retries at every tick or has given up.
struct Fake<const KIND: bool>;

impl<const KIND: bool> Engine for Fake<KIND> {
    type Gate = ();

    fn gate(_: &PrivateKey, _: u32) {}

    fn admit((): &(), _: SocketAddr, _: &[u8], _: &mut [u8]) -> Admission {
        Admission::Rejected
    }

    fn identify((): &(), _: &[u8]) -> Option<PublicKey> {
        None
    }

    fn refill((): &()) {}

    fn new((): &(), _: &EngineParams<'_>) -> Self {
        Self
    }

    fn seal(&mut self, _: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }

    fn open(&mut self, _: SocketAddr, _: &[u8], _: &mut [u8]) -> Opened {
        Opened::Rejected
    }

    fn next_queued(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }

    fn tick(&mut self, out: &mut [u8]) -> Tick {
        if KIND == GIVES_UP {
            return Tick::Expired;
        }
        out[..148].fill(0);
        out[0] = 1;
        Tick::Send(148)
    }

    fn initiate(&mut self, _: bool, out: &mut [u8]) -> Option<usize> {
        out[..148].fill(0);
        Some(148)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_never_panics_and_lets_nothing_in(
        kind in 0u8..6,
        len in 0usize..400,
        fill in prop::collection::vec(any::<u8>(), 400),
        own_index in any::<bool>(),
    ) {
        let (device, mut gateway) = connected();
        let mut bytes = fill[..len].to_vec();
        if len >= 12 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            if own_index {
                let index = gateway.node.peer_id(&device.key.public_key()).unwrap().0 << 8 | 1;
                bytes[4..8].copy_from_slice(&index.to_le_bytes());
                bytes[8..12].copy_from_slice(&index.to_le_bytes());
            }
        }
        gateway.receive(device.address, &bytes);
        gateway.send(&bytes);
        prop_assert!(gateway.received.is_empty());
    }

    #[test]
    fn truncated_and_altered_messages_let_nothing_in(cut in 0usize..148, flip in 0usize..148) {
        let (mut device, mut gateway) = (End::new(1), End::new(2));
        device.dials(&gateway);
        gateway.knows(&device);
        let initiation = device.timeout().remove(0).1;
        prop_assert!(gateway.receive(device.address, &initiation[..cut]).is_empty());
        let mut altered = initiation.clone();
        altered[flip] ^= 0x80;
        let answered = !gateway.receive(device.address, &altered).is_empty();
        // The last 16 bytes hold the cookie's MAC, which an idle node does not read.
        prop_assert_eq!(answered, flip >= 132);
    }
}
