//! How much handshake work a node lets others ask for, and who still gets in.

use std::net::Ipv4Addr;

use super::*;

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
    let cookies = (0..50).flat_map(|_| gateway.receive(noisy, &initiation));
    assert_eq!(cookies.count(), 47);
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
fn a_response_is_held_to_the_limits_and_its_sender_can_prove_its_address_too() {
    let (mut device, mut gateway) = (End::with_limits(1, THREE_OF_A_SOURCE), End::new(2));
    device.dials(&gateway);
    gateway.knows(&device);
    let initiation = device.timeout().remove(0).1;
    let response = gateway.receive(device.address, &initiation).remove(0).1;
    let shake_hands = |device: &mut End, gateway: &mut End| {
        let mut out = Datagrams::new();
        let key = gateway.key.public_key();
        device.node.rehandshake(&key, Instant::now(), &mut out);
        let initiation = datagrams(&out).remove(0).1;
        let response = gateway.receive(device.address, &initiation).remove(0).1;
        device.receive(gateway.address, &response).remove(0).1
    };
    // Whoever saw it uses up what the gateway's address may claim; none of it is taken twice.
    for _ in 0..10 {
        device.receive(gateway.address, &response);
    }
    assert_eq!(device.events().len(), 1);
    let cookie = shake_hands(&mut device, &mut gateway);
    assert_eq!(cookie[0], 3, "asked to prove its address");
    assert!(device.events().is_empty());
    gateway.receive(device.address, &cookie);
    let keepalive = shake_hands(&mut device, &mut gateway);
    assert_eq!(keepalive[0], 4);
    assert_eq!(device.events().len(), 1);
}

#[test]
fn nothing_is_due_without_peers() {
    assert_eq!(End::new(2).node.poll_timeout(), None);
}

/// An initiation of somebody who knows the gateway's public key and is no peer: its MAC is right, whatever it is sent from.
fn initiation_of_a_stranger(gateway: &End) -> Vec<u8> {
    let mut stranger = End::new(66);
    stranger.dials(gateway);
    stranger.timeout().remove(0).1
}

/// One try of a device, as its engine makes one each 5 s.
fn try_once(device: &mut End, gateway: &mut End, now: Instant) {
    let mut out = Datagrams::new();
    let key = gateway.key.public_key();
    device.node.rehandshake(&key, now, &mut out);
    for (_, datagram) in datagrams(&out) {
        for (_, answer) in gateway.receive_at(now, device.address, &datagram) {
            for (_, reply) in device.receive_at(now, gateway.address, &answer) {
                gateway.receive_at(now, device.address, &reply);
            }
        }
    }
}

/// How many tries a device needs while 5 000 initiations a second come from 100 000 sources, and 250 more as if it had sent
/// them itself. `None` when it did not get in at all.
fn tries_within_a_flood(limits: HandshakeLimits) -> Option<u32> {
    let (mut device, mut gateway) = (End::new(1), End::with_limits(2, limits));
    device.dials(&gateway);
    gateway.knows(&device);
    let forged = initiation_of_a_stranger(&gateway);
    let start = Instant::now();
    let mut tries = 0;
    for number in 0..100_000_u32 {
        let now = start + Duration::from_micros(200) * number;
        let source = SocketAddr::from((Ipv4Addr::from_bits(0x0b00_0000 + number), 51820));
        gateway.receive_at(now, source, &forged);
        if number % 20 == 0 {
            gateway.receive_at(now, device.address, &forged);
        }
        if number % 5_000 == 0 {
            gateway.timeout_at(now);
        }
        // After 4.9 s, and each 5 s.
        if number % 25_000 == 24_500 {
            tries += 1;
            try_once(&mut device, &mut gateway, now);
            if gateway.stats_of(&device).last_handshake.is_some() {
                return Some(tries);
            }
        }
    }
    None
}

#[test]
fn who_proves_its_address_gets_in_while_others_write_what_source_they_like() {
    let limits = HandshakeLimits {
        per_second: 10_000,
        per_source: 5,
        per_source_burst: 10,
    };
    let busy = HandshakeLimits {
        per_second: 100,
        ..limits
    };
    for limits in [limits, busy] {
        let tries = tries_within_a_flood(limits);
        assert!(
            tries.is_some_and(|tries| tries <= 2),
            "{tries:?} tries with {limits:?}"
        );
    }
}
