//! Peers that are declared, changed and removed.

use super::*;

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
