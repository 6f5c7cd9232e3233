//! A gateway of several nodes: what is for another one is handed over, and only that.

use super::*;
use crate::limit::HandshakeLimits;
use crate::shard::{Shard, Stray};

const COUNT: u8 = 4;

/// The nodes of one gateway, all with one key, and all knowing `peers`.
fn gateway(key: &PrivateKey, peers: &[&End]) -> Vec<Node> {
    let shard = |number| Shard::new(number, COUNT).unwrap();
    let mut nodes: Vec<Node> = (0..COUNT)
        .map(|number| {
            let config = NodeConfig {
                private_key: key.clone(),
                mtu: MTU,
                limits: HandshakeLimits::default(),
            };
            Node::sharded(config, shard(number), Instant::now())
        })
        .collect();
    for node in &mut nodes {
        for end in peers {
            node.set_peer(peer(end), Instant::now()).unwrap();
        }
    }
    nodes
}

/// What came of datagrams that landed at one node.
#[derive(Default)]
struct Outcome {
    /// Inner packets, with the number of the node that they came out of.
    packets: Vec<(usize, Vec<u8>)>,
    answers: Vec<Vec<u8>>,
    strays: Vec<Stray>,
}

/// Hands datagrams to the node `at`, and what strays to whom it is for.
fn land(nodes: &mut [Node], at: usize, sent: &Datagrams, source: SocketAddr) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut packets, mut out) = (Batch::new(), Datagrams::new());
    for run in sent.runs() {
        nodes[at].handle_run(
            run.bytes,
            run.segment,
            source,
            Instant::now(),
            &mut packets,
            &mut out,
        );
    }
    let note = |packets: &Batch<PeerId>, number, outcome: &mut Outcome| {
        outcome
            .packets
            .extend(packets.iter().map(|(packet, _)| (number, packet.to_vec())));
    };
    note(&packets, at, &mut outcome);
    let strays: Vec<Stray> = nodes[at].drain_strays().collect();
    for stray in &strays {
        let number = usize::from(stray.shard);
        assert_ne!(number, at, "what is its own does not stray");
        let mut packets = Batch::new();
        nodes[number].handle_stray(stray, Instant::now(), &mut packets, &mut out);
        note(&packets, number, &mut outcome);
        assert_eq!(nodes[number].drain_strays().count(), 0, "it has arrived");
    }
    outcome.strays = strays;
    for run in out.runs() {
        outcome.answers.extend(run.datagrams().map(<[u8]>::to_vec));
    }
    outcome
}

fn owner(nodes: &[Node], end: &End) -> usize {
    let key = end.key.public_key();
    nodes.iter().position(|node| node.shard().owns(&key)).unwrap()
}

#[test]
fn a_handshake_and_data_reach_the_owner_from_every_node() {
    let key = PrivateKey::generate();
    for at in 0..usize::from(COUNT) {
        let mut device = End::new(1);
        let mut nodes = gateway(&key, &[&device]);
        let inner = IpAddr::from([10, 0, 0, 99]);
        let config = PeerConfig {
            public_key: key.public_key(),
            preshared_key: None,
            endpoint: Some(SocketAddr::from(([192, 0, 2, 99], 51820))),
            allowed_ips: vec![AllowedIp::host(inner)],
            keepalive: None,
        };
        device.node.set_peer(config, Instant::now()).unwrap();
        let owner = owner(&nodes, &device);

        let mut packets = Batch::new();
        packets.push(&packet(device.inner, inner, 100), ());
        let mut sent = Datagrams::new();
        device.node.handle_packets(&packets, Instant::now(), &mut sent);
        let outcome = land(&mut nodes, at, &sent, device.address);
        assert_eq!(outcome.strays.len(), usize::from(at != owner));
        assert!(outcome.strays.iter().all(Stray::is_initiation));
        assert_eq!(outcome.answers.len(), 1, "the response");

        let mut flushed = Datagrams::new();
        let gateway_address = SocketAddr::from(([192, 0, 2, 99], 51820));
        let response = &outcome.answers[0];
        device.node.handle_run(
            response,
            response.len(),
            gateway_address,
            Instant::now(),
            &mut Batch::new(),
            &mut flushed,
        );
        let outcome = land(&mut nodes, at, &flushed, device.address);
        assert_eq!(outcome.packets.len(), 1, "the packet that had waited");
        assert_eq!(outcome.packets[0].0, owner);
        assert_eq!(outcome.strays.is_empty(), at == owner);
        let known: Vec<u64> = nodes
            .iter()
            .map(|node| node.stats(&device.key.public_key()).unwrap().rx_bytes)
            .collect();
        assert_eq!(known.iter().filter(|bytes| **bytes > 0).count(), 1);
        assert!(nodes.iter().all(|node| node.drops().total() == 0));
    }
}

#[test]
fn what_is_for_nobody_is_dropped_where_it_lands() {
    let key = PrivateKey::generate();
    let mut nodes = gateway(&key, &[]);
    let mut stranger = End::new(1);
    let gateway_address = SocketAddr::from(([192, 0, 2, 99], 51820));
    let config = PeerConfig {
        public_key: key.public_key(),
        preshared_key: None,
        endpoint: Some(gateway_address),
        allowed_ips: Vec::new(),
        keepalive: None,
    };
    stranger.node.set_peer(config, Instant::now()).unwrap();
    for at in 0..usize::from(COUNT) {
        let mut sent = Datagrams::new();
        stranger
            .node
            .rehandshake(&key.public_key(), Instant::now(), &mut sent);
        let outcome = land(&mut nodes, at, &sent, stranger.address);
        assert!(outcome.strays.is_empty() && outcome.answers.is_empty());
        assert_eq!(nodes[at].drops().unknown_peer, 1);
    }
    // Three nodes of four numbers: the fourth exists in no index that was given out.
    let config = NodeConfig {
        private_key: key,
        mtu: MTU,
        limits: HandshakeLimits::default(),
    };
    let mut node = Node::<BoringtunEngine>::sharded(config, Shard::new(0, 3).unwrap(), Instant::now());
    let mut data = vec![0; 64];
    data[0] = 4;
    data[5] = 3;
    node.handle_run(
        &data,
        32,
        stranger.address,
        Instant::now(),
        &mut Batch::new(),
        &mut Datagrams::new(),
    );
    assert_eq!(node.drops().unknown_index, 1);
    assert_eq!(node.drops().malformed, 1, "the zeros behind it");
    assert_eq!(node.drain_strays().count(), 0);
}

#[test]
fn strays_are_bounded() {
    let mut nodes = gateway(&PrivateKey::generate(), &[]);
    let mut data = [0; 32];
    data[0] = 4;
    data[5] = 1;
    let source = SocketAddr::from(([192, 0, 2, 1], 1));
    for _ in 0..5000 {
        nodes[0].handle_run(
            &data,
            data.len(),
            source,
            Instant::now(),
            &mut Batch::new(),
            &mut Datagrams::new(),
        );
    }
    let kept = nodes[0].drain_strays().count() as u64;
    assert!((1..=1024).contains(&kept), "{kept}");
    assert_eq!(nodes[0].drops().strays, 5000 - kept);
}
