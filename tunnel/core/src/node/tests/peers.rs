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

#[test]
fn data_of_an_older_session_does_not_lead_back_to_where_it_came_from() {
    let (mut device, mut gateway) = connected();
    let old = gateway.address;
    let down = packet(gateway.inner, device.inner, 7);
    let late = [gateway.send(&down), gateway.send(&down)].concat();
    let (first, second) = (&late[0].1, &late[1].1);

    // The device leaves for another way to the gateway, and what is under way on the old one arrives before and after.
    let new = SocketAddr::from(([192, 0, 2, 2], 443));
    device.node.set_endpoint(&gateway.key.public_key(), new);
    let mut out = Datagrams::new();
    device
        .node
        .rehandshake(&gateway.key.public_key(), Instant::now(), &mut out);
    device.receive(old, first);
    gateway.address = new;
    settle(&mut device, &mut gateway, datagrams(&out));
    device.receive(old, second);
    assert_eq!(device.received.len(), 2, "they are taken all the same");
    assert_eq!(device.stats_of(&gateway).endpoint, Some(new));
    let flight = device.send(&packet(device.inner, gateway.inner, 1));
    assert_eq!(flight[0].0, new);

    // The newest session may come from anywhere.
    let flight = gateway.send(&down);
    let moved = SocketAddr::from(([192, 0, 2, 77], 443));
    device.receive(moved, &flight[0].1);
    assert_eq!(device.stats_of(&gateway).endpoint, Some(moved));
}
