//! Sessions that nothing needs.
//!
//! The engine has a clock of its own that stands still here, so these are about what the node itself decides; hours of both
//! are in `tests/wireguard-model`.

use super::super::rest::LINGER;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What a device says by itself at these moments, message types only.
fn said(device: &mut End, from: Instant, seconds: std::ops::Range<u32>) -> Vec<u8> {
    seconds
        .flat_map(|second| device.timeout_at(from + SECOND * second))
        .map(|(_, datagram)| datagram[0])
        .collect()
}

fn in_use(device: &mut End, gateway: &End, in_use: bool, now: Instant) {
    let key = gateway.key.public_key();
    device.node.set_in_use(&key, in_use, now);
}

#[test]
fn keepalives_are_sent_while_something_is_open_and_only_when_nothing_else_is() {
    let (mut device, gateway) = connected();
    let now = Instant::now();
    assert_eq!(said(&mut device, now, 1..100), [4, 4, 4], "one in 25 s");
    let mut out = Datagrams::new();
    for second in 101..115 {
        let mut packets = Batch::new();
        packets.push(&packet(device.inner, gateway.inner, 1), ());
        device
            .node
            .handle_packets(&packets, now + SECOND * second, &mut out);
        assert!(
            device.timeout_at(now + SECOND * second).is_empty(),
            "data is as good"
        );
    }
    let (due, why) = device.node.poll_timeout().unwrap();
    assert!(due <= now + SECOND * (114 + 25), "{why}");
}

#[test]
fn timers_run_when_one_may_be_due_and_not_in_between() {
    let (mut device, _gateway) = connected();
    let now = Instant::now();
    let mut due = Vec::new();
    loop {
        let (at, _) = device.node.poll_timeout().unwrap();
        if at > now + 100 * SECOND {
            break;
        }
        device.timeout_at(at);
        due.push((at - now).as_secs());
    }
    // A keepalive each 25 s, and whether what was sent and received in the beginning wants an answer.
    assert!(due.len() <= 6, "{due:?}");

    let (mut device, gateway) = connected();
    in_use(&mut device, &gateway, false, now);
    // After the moment of the handshake that nobody here would answer.
    device.timeout_at(now + LINGER + SECOND);
    let at_rest = now + Duration::from_secs(600);
    device.timeout_at(at_rest);
    assert_eq!(device.node.poll_timeout().unwrap().0, at_rest + 30 * SECOND);
    assert_eq!(
        End::new(3).node.poll_timeout(),
        None,
        "without peers there are no timers"
    );
}

#[test]
fn a_tunnel_with_nothing_open_falls_silent_after_its_last_packet() {
    let (mut device, gateway) = connected();
    let now = Instant::now();
    in_use(&mut device, &gateway, false, now);
    let linger = LINGER.as_secs() as u32;
    assert!(
        !said(&mut device, now, 1..linger - 1).is_empty(),
        "it may come back at once"
    );
    assert!(!device.node.is_resting(&gateway.key.public_key()));
    // The handshake of 120 s that nobody answered would keep it awake.
    let (mut device, gateway) = connected();
    in_use(&mut device, &gateway, false, now);
    assert_eq!(said(&mut device, now, linger + 1..linger + 3_600), [], "silence");
    assert!(device.node.is_resting(&gateway.key.public_key()));
    let stats = device.stats_of(&gateway);
    assert!(stats.rested && stats.unanswered_since.is_none());
}

#[test]
fn what_is_opened_wakes_it_and_a_handshake_is_due_at_once() {
    let (mut device, mut gateway) = connected();
    let now = Instant::now();
    in_use(&mut device, &gateway, false, now);
    let later = now + Duration::from_secs(7_200);
    assert!(device.timeout_at(later).is_empty());
    in_use(&mut device, &gateway, true, later);
    assert!(device.node.poll_timeout().unwrap().0 <= later);
    let flight = device.timeout_at(later);
    assert_eq!(flight.len(), 1);
    assert_eq!(flight[0].1[0], 1, "handshake initiation");
    assert!(device.stats_of(&gateway).rested, "until it is answered");
    settle(&mut device, &mut gateway, flight);
    assert!(!device.stats_of(&gateway).rested);
}

#[test]
fn a_packet_wakes_it_and_the_requests_of_the_prober_do_not() {
    let (mut device, gateway) = connected();
    let now = Instant::now();
    let key = gateway.key.public_key();
    in_use(&mut device, &gateway, false, now);
    let later = now + LINGER + SECOND;
    device.timeout_at(later);
    let mut out = Datagrams::new();
    device
        .node
        .handle_measuring(&packet(device.inner, gateway.inner, 1), later, &mut out);
    assert!(device.node.is_resting(&key));
    let mut packets = Batch::new();
    packets.push(&packet(device.inner, gateway.inner, 1), ());
    device.node.handle_packets(&packets, later, &mut out);
    assert!(!device.node.is_resting(&key));
    assert_eq!(out.len(), 2, "both were sent");
    assert_eq!(said(&mut device, later, 0..1), [1], "its session is old");
}

#[test]
fn a_tunnel_that_is_not_answered_does_not_rest() {
    let (mut device, mut gateway) = (End::new(1), End::new(2));
    device.dials(&gateway);
    gateway.knows(&device);
    let now = Instant::now();
    in_use(&mut device, &gateway, false, now);
    let flight = device.timeout_at(now);
    assert_eq!(flight.len(), 1, "it is tried though nothing is open");
    assert!(
        said(&mut device, now, 200..4_000).is_empty(),
        "the engine's clock stands still"
    );
    assert!(
        !device.node.is_resting(&gateway.key.public_key()),
        "no handshake yet"
    );
    settle(&mut device, &mut gateway, flight);
    let later = now + Duration::from_secs(4_000);
    device.timeout_at(later);
    assert!(device.node.is_resting(&gateway.key.public_key()));

    let mut out = Datagrams::new();
    device
        .node
        .rehandshake(&gateway.key.public_key(), later, &mut out);
    device.timeout_at(later + SECOND);
    assert!(
        !device.node.is_resting(&gateway.key.public_key()),
        "an answer is awaited"
    );
}
