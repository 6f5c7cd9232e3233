//! What happens by the passing of time alone.

use super::*;
use crate::engine::{EngineParams, Opened, Proof, Tick};

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

    fn gate(_: &PrivateKey) {}

    fn prove((): &(), _: SocketAddr, _: &[u8], _: &mut [u8]) -> Proof {
        Proof::Nothing
    }

    fn identify((): &(), _: &[u8]) -> Option<PublicKey> {
        None
    }

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
