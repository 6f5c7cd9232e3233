//! Whom a gateway saw where, and what that spares it.

use std::cell::Cell;

use super::*;
use crate::engine::{BoringtunEngine, EngineParams, Opened, Proof, Tick};

thread_local! {
    /// Initiations whose peer was asked for by a curve operation of its own.
    static ASKED: Cell<u32> = const { Cell::new(0) };
}

/// The real engine, and a count.
struct Watched(BoringtunEngine);

impl Engine for Watched {
    type Gate = <BoringtunEngine as Engine>::Gate;

    fn gate(private_key: &PrivateKey) -> Self::Gate {
        BoringtunEngine::gate(private_key)
    }

    fn prove(gate: &Self::Gate, source: SocketAddr, handshake: &[u8], out: &mut [u8]) -> Proof {
        BoringtunEngine::prove(gate, source, handshake, out)
    }

    fn identify(gate: &Self::Gate, initiation: &[u8]) -> Option<PublicKey> {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        BoringtunEngine::identify(gate, initiation)
    }

    fn new(gate: &Self::Gate, params: &EngineParams<'_>) -> Self {
        Self(BoringtunEngine::new(gate, params))
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        self.0.seal(packet, out)
    }

    fn open(&mut self, source: SocketAddr, datagram: &[u8], out: &mut [u8]) -> Opened {
        self.0.open(source, datagram, out)
    }

    fn next_queued(&mut self, out: &mut [u8]) -> Option<usize> {
        self.0.next_queued(out)
    }

    fn tick(&mut self, out: &mut [u8]) -> Tick {
        self.0.tick(out)
    }

    fn initiate(&mut self, force: bool, out: &mut [u8]) -> Option<usize> {
        self.0.initiate(force, out)
    }
}

struct Gateway {
    node: Node<Watched>,
    end: End,
}

impl Gateway {
    fn new(devices: &mut [End]) -> Self {
        let end = End::new(9);
        let config = NodeConfig {
            private_key: end.key.clone(),
            mtu: MTU,
            limits: HandshakeLimits::default(),
        };
        let mut node = Node::new(config, Instant::now());
        for device in devices {
            node.set_peer(peer(device), Instant::now()).unwrap();
            device
                .node
                .set_peer(
                    PeerConfig {
                        endpoint: Some(end.address),
                        ..peer(&end)
                    },
                    Instant::now(),
                )
                .unwrap();
        }
        Self { node, end }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        let (mut batch, mut packets, mut out) = (Batch::new(), Batch::new(), Datagrams::new());
        batch.push(datagram, from);
        self.node
            .handle_datagrams(&batch, Instant::now(), &mut packets, &mut out);
        out.iter().map(|(answer, _)| answer.to_vec()).collect()
    }

    fn initiation(&self, device: &mut End) -> Vec<u8> {
        let mut out = Datagrams::new();
        device
            .node
            .rehandshake(&self.end.key.public_key(), Instant::now(), &mut out);
        out.iter().next().unwrap().0.to_vec()
    }

    /// A whole handshake from where the device is; how often the gateway had to ask who it is.
    fn shake_hands(&mut self, device: &mut End) -> u32 {
        let before = ASKED.with(Cell::get);
        let initiation = self.initiation(device);
        let answer = self.receive(device.address, &initiation);
        assert_eq!(answer.len(), 1, "answered");
        for (_, proof) in device.receive(self.end.address, &answer[0]) {
            self.receive(device.address, &proof);
        }
        assert_eq!(
            self.node.stats(&device.key.public_key()).unwrap().endpoint,
            Some(device.address)
        );
        ASKED.with(Cell::get) - before
    }
}

#[test]
fn who_renews_a_session_from_where_it_was_is_known_by_that() {
    let mut devices = [End::new(1), End::new(2)];
    let mut gateway = Gateway::new(&mut devices);
    let [one, other] = &mut devices;
    for device in [&mut *one, &mut *other] {
        assert_eq!(gateway.shake_hands(device), 1, "a first contact");
        assert_eq!(gateway.shake_hands(device), 0);
        assert_eq!(gateway.shake_hands(device), 0);
    }
    one.address.set_port(1);
    assert_eq!(gateway.shake_hands(one), 1, "it moved");
    assert_eq!(gateway.shake_hands(one), 0);
    assert_eq!(gateway.node.seen_at.len(), 2, "one place for each peer");
    assert!(gateway.node.remove_peer(&one.key.public_key()));
    assert_eq!(gateway.node.seen_at.len(), 1);
}

#[test]
fn who_speaks_from_the_place_of_another_is_answered_and_the_other_too() {
    let mut devices = [End::new(1), End::new(2)];
    let mut gateway = Gateway::new(&mut devices);
    let [one, other] = &mut devices;
    gateway.shake_hands(one);
    let home = one.address;
    // A NAT gave the port to somebody else.
    other.address = home;
    one.address = SocketAddr::from(([192, 0, 2, 77], 7));
    assert_eq!(gateway.shake_hands(other), 1);
    assert_eq!(
        gateway.shake_hands(other),
        0,
        "it is the one that was seen there last"
    );
    assert_eq!(gateway.shake_hands(one), 1);
    assert_eq!(
        gateway.shake_hands(other),
        0,
        "who left does not take the place along"
    );
    assert_eq!(gateway.node.drops(), NodeDrops::default());
}

#[test]
fn wrong_guesses_at_one_place_cost_one_operation_between_two_sessions() {
    let mut devices = [End::new(1)];
    let mut gateway = Gateway::new(&mut devices);
    let [device] = &mut devices;
    gateway.shake_hands(device);
    let mut stranger = End::new(3);
    let config = PeerConfig {
        endpoint: Some(gateway.end.address),
        ..peer(&gateway.end)
    };
    stranger.node.set_peer(config, Instant::now()).unwrap();
    for _ in 0..3 {
        let initiation = gateway.initiation(&mut stranger);
        assert!(gateway.receive(device.address, &initiation).is_empty());
        assert!(gateway.node.seen_at.is_empty(), "nobody is guessed any more");
    }
    assert_eq!(gateway.node.drops().unknown_peer, 3);
    assert_eq!(gateway.shake_hands(device), 1, "it gets in all the same");
    assert_eq!(gateway.shake_hands(device), 0);
}

#[test]
fn a_copy_of_an_initiation_from_a_known_place_is_rejected_and_counted_once() {
    let mut devices = [End::new(1)];
    let mut gateway = Gateway::new(&mut devices);
    let [device] = &mut devices;
    gateway.shake_hands(device);
    let initiation = gateway.initiation(device);
    assert_eq!(gateway.receive(device.address, &initiation).len(), 1);
    assert!(gateway.receive(device.address, &initiation).is_empty());
    let stats = gateway.node.stats(&device.key.public_key()).unwrap();
    assert_eq!(stats.dropped.rejected, 1);
}
