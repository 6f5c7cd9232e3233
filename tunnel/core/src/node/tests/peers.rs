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

/// Initiations that get lost: around where the 8 bits of a session's number are half way and all the way round.
const LOST: [u32; 9] = [1, 100, 127, 128, 200, 254, 255, 256, 300];

/// [`connected`], with no bound on how often one may ask.
fn connected_without_limits() -> (End, End) {
    let limits = HandshakeLimits {
        per_second: 100_000,
        per_source: 100_000,
        per_source_burst: 100_000,
    };
    let (mut device, mut gateway) = (End::with_limits(1, limits), End::with_limits(2, limits));
    device.dials(&gateway);
    gateway.knows(&device);
    let flight = device.timeout();
    settle(&mut device, &mut gateway, flight);
    assert_eq!((completed(&mut device), completed(&mut gateway)), (1, 1));
    (device, gateway)
}

/// Has the device ask so many times in vain, and hands back what it sends then.
/// Either what it asks is lost, or the answers are.
fn asks_again(
    device: &mut End,
    gateway: &mut End,
    lost: u32,
    is_answered: bool,
) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut out = Datagrams::new();
    for _ in 0..lost {
        out.clear();
        device
            .node
            .rehandshake(&gateway.key.public_key(), Instant::now(), &mut out);
        if is_answered {
            // Its answer is what is lost.
            for (_, datagram) in datagrams(&out) {
                assert_eq!(gateway.receive(device.address, &datagram).len(), 1);
            }
        }
    }
    out.clear();
    device
        .node
        .rehandshake(&gateway.key.public_key(), Instant::now(), &mut out);
    datagrams(&out)
}

fn completed(end: &mut End) -> usize {
    let events = end.events();
    let is_completed = |event: &&Event| matches!(event, Event::HandshakeCompleted { .. });
    events.iter().filter(is_completed).count()
}

#[test]
fn a_handshake_counts_however_many_initiations_were_lost_before() {
    for lost in LOST {
        for is_answered in [false, true] {
            let (mut device, mut gateway) = connected_without_limits();
            let before =
                [device.stats_of(&gateway), gateway.stats_of(&device)].map(|stats| stats.last_handshake);
            let flight = asks_again(&mut device, &mut gateway, lost, is_answered);
            settle(&mut device, &mut gateway, flight);
            let after =
                [device.stats_of(&gateway), gateway.stats_of(&device)].map(|stats| stats.last_handshake);
            assert!(after[0] > before[0] && after[1] > before[1], "{lost} lost");
            assert_eq!(
                (completed(&mut device), completed(&mut gateway)),
                (1, 1),
                "{lost} lost"
            );
            assert_eq!(device.stats_of(&gateway).unanswered_since, None);
        }
    }
}

#[test]
fn data_of_the_newest_session_alone_moves_the_endpoint_however_many_initiations_were_lost_before() {
    for lost in LOST {
        let (mut device, mut gateway) = connected_without_limits();
        let (home, down) = (gateway.address, packet(gateway.inner, device.inner, 7));
        let late = gateway.send(&down);
        let flight = asks_again(&mut device, &mut gateway, lost, false);
        settle(&mut device, &mut gateway, flight);

        let moved = SocketAddr::from(([192, 0, 2, 77], 443));
        device.receive(moved, &late[0].1);
        // With 255, the late packet's session has the number of the newest, which has replaced it.
        assert_eq!(device.stats_of(&gateway).endpoint, Some(home), "{lost} lost");
        let flight = gateway.send(&down);
        device.receive(moved, &flight[0].1);
        assert_eq!(device.stats_of(&gateway).endpoint, Some(moved), "{lost} lost");
    }
}

#[test]
fn one_who_is_dialled_counts_and_follows_the_newest_session_as_well() {
    for lost in LOST {
        let (mut device, mut gateway) = connected_without_limits();
        // The gateway asks, and the device, which was told where it is, answers; its answers are lost.
        let (mut out, mut answer) = (Datagrams::new(), Vec::new());
        for _ in 0..=lost {
            out.clear();
            gateway
                .node
                .rehandshake(&device.key.public_key(), Instant::now(), &mut out);
            answer = device.receive(gateway.address, &datagrams(&out)[0].1);
            assert_eq!(answer.len(), 1);
        }
        assert_eq!(completed(&mut device), 0, "nothing is proved");
        let moved = SocketAddr::from(([192, 0, 2, 77], 443));
        let flight = gateway.receive(device.address, &answer[0].1);
        device.receive(moved, &flight[0].1);
        assert_eq!(completed(&mut device), 1, "{lost} lost");
        assert_eq!(device.stats_of(&gateway).endpoint, Some(moved), "{lost} lost");
    }
}
