//! Whole batches: runs out, gathered datagrams in, and what happens to packets that do not fit.

use super::*;
use crate::datagrams::MAX_RUN_DATAGRAMS;
use crate::packet;

/// A TCP SYN that announces this segment size. Its checksum is made up.
fn syn(source: IpAddr, destination: IpAddr, segment: u16) -> Vec<u8> {
    let mut packet = super::packet(source, destination, 24);
    packet[9] = 6;
    let tcp = 20;
    packet[tcp..].fill(0);
    packet[tcp + 12] = 6 << 4;
    packet[tcp + 13] = 2;
    packet[tcp + 20..tcp + 22].copy_from_slice(&[2, 4]);
    packet[tcp + 22..tcp + 24].copy_from_slice(&segment.to_be_bytes());
    packet
}

fn announced(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[42], packet[43]])
}

#[test]
fn a_batch_for_one_peer_leaves_as_runs_and_is_opened_as_runs() {
    let (mut device, mut gateway) = connected();
    let full = packet(device.inner, gateway.inner, 1000);
    let short = packet(device.inner, gateway.inner, 100);
    let mut packets = Batch::new();
    for _ in 0..100 {
        packets.push(&full, ());
    }
    packets.push(&short, ());
    let mut out = Datagrams::new();
    device.node.handle_packets(&packets, Instant::now(), &mut out);
    let shapes: Vec<(SocketAddr, usize)> = out
        .runs()
        .map(|run| (run.destination, run.datagrams().count()))
        .collect();
    let first = (65_000 / out.run(0).unwrap().segment).min(MAX_RUN_DATAGRAMS);
    assert_eq!(shapes, [(gateway.address, first), (gateway.address, 101 - first)]);

    let (mut opened, mut answers) = (Batch::new(), Datagrams::new());
    for run in out.runs() {
        gateway.node.handle_run(
            run.bytes,
            run.segment,
            device.address,
            Instant::now(),
            &mut opened,
            &mut answers,
        );
    }
    let lens: Vec<usize> = opened.iter().map(|(packet, _)| packet.len()).collect();
    assert_eq!(lens, [vec![full.len(); 100], vec![short.len()]].concat());
    assert!(answers.is_empty());
    let stats = gateway.stats_of(&device);
    assert_eq!(stats.rx_bytes, (100 * full.len() + short.len()) as u64);
    assert_eq!(stats.dropped.total(), 0);
}

#[test]
fn a_run_may_mix_sessions_messages_and_rubbish() {
    let (mut device, mut gateway) = connected();
    let mut other = End::new(3);
    other.dials(&gateway);
    gateway.knows(&other);
    let initiation = other.timeout().remove(0).1;
    let data = |device: &mut End, payload| {
        device
            .send(&packet(device.inner, gateway.inner, payload))
            .remove(0)
            .1
    };
    let one = data(&mut device, 1000);
    let two = data(&mut device, 1000);
    let mut run = one.clone();
    run.extend_from_slice(&two);
    run.extend_from_slice(&one);
    let mut rubbish = vec![9; one.len()];
    rubbish[0] = 4;
    rubbish[1..4].fill(0);
    run.extend_from_slice(&rubbish);
    run.extend_from_slice(&initiation);
    let (mut opened, mut answers) = (Batch::new(), Datagrams::new());
    gateway.node.handle_run(
        &run,
        one.len(),
        device.address,
        Instant::now(),
        &mut opened,
        &mut answers,
    );
    assert_eq!(opened.len(), 2);
    assert_eq!(gateway.stats_of(&device).dropped.rejected, 1, "the copy");
    assert_eq!(gateway.node.drops().unknown_index, 1, "the rubbish");
    assert_eq!(answers.len(), 1, "the initiation is answered");
}

#[test]
fn segment_sizes_are_lowered_both_ways_and_follow_the_mtu() {
    let (mut device, mut gateway) = connected();
    for (mtu_out, mtu_in, expected) in [(1280, 1280, 1240), (1280, 1000, 960), (1000, 1280, 960)] {
        device.node.set_mtu(mtu_out);
        gateway.node.set_mtu(mtu_in);
        let flight = device.send(&syn(device.inner, gateway.inner, 1460));
        settle(&mut device, &mut gateway, flight);
        assert_eq!(announced(&gateway.received.pop().unwrap()), expected);
        let flight = gateway.send(&syn(gateway.inner, device.inner, 1460));
        settle(&mut gateway, &mut device, flight);
        assert_eq!(announced(&device.received.pop().unwrap()), expected);
    }
    let flight = device.send(&syn(device.inner, gateway.inner, 500));
    settle(&mut device, &mut gateway, flight);
    assert_eq!(announced(&gateway.received.pop().unwrap()), 500);
}

#[test]
fn segment_sizes_can_be_lowered_alone_and_larger_packets_still_pass() {
    let (mut device, mut gateway) = connected();
    device.node.set_mtu(1420);
    gateway.node.set_mtu(1420);
    device.node.set_segment_mtu(1280);
    let flight = device.send(&syn(device.inner, gateway.inner, 1460));
    settle(&mut device, &mut gateway, flight);
    assert_eq!(announced(&gateway.received.pop().unwrap()), 1240);
    let flight = gateway.send(&syn(gateway.inner, device.inner, 1460));
    settle(&mut gateway, &mut device, flight);
    assert_eq!(announced(&device.received.pop().unwrap()), 1240);
    let large = packet(device.inner, gateway.inner, 1300);
    let flight = device.send(&large);
    settle(&mut device, &mut gateway, flight);
    assert_eq!(gateway.received.pop(), Some(large));
}

#[test]
fn what_measures_the_path_passes_above_the_mtu_and_may_wait_for_a_session() {
    let (mut device, mut gateway) = (End::new(1), End::new(2));
    device.dials(&gateway);
    gateway.knows(&device);
    device.node.set_mtu(1000);
    let request = packet(device.inner, gateway.inner, 1420);
    let mut out = Datagrams::new();
    device.node.handle_measuring(&request, Instant::now(), &mut out);
    let flight = datagrams(&out);
    settle(&mut device, &mut gateway, flight);
    assert_eq!(gateway.received.pop().as_ref(), Some(&request), "it waited");
    let mut out = Datagrams::new();
    device.node.handle_measuring(&request, Instant::now(), &mut out);
    let lengths: Vec<usize> = out.iter().map(|(datagram, _)| datagram.len()).collect();
    assert_eq!(
        lengths,
        [request.len() + 32],
        "not padded beyond what is asked about"
    );
    assert!(device.send(&request).is_empty(), "and nothing else does");
}

#[test]
fn a_packet_that_is_too_big_is_answered_once_for_each_batch() {
    let (mut device, gateway) = connected();
    device.node.set_mtu(1000);
    let large = packet(device.inner, gateway.inner, 1100);
    let mut packets = Batch::new();
    for _ in 0..3 {
        packets.push(&large, ());
    }
    let mut out = Datagrams::new();
    for _ in 0..40 {
        device.node.handle_packets(&packets, Instant::now(), &mut out);
    }
    assert!(out.is_empty());
    assert_eq!(device.node.drops().too_big, 120);
    let answers: Vec<Vec<u8>> = std::iter::from_fn(|| device.node.poll_bounced()).collect();
    assert_eq!(answers.len(), 16, "one for each batch, and no more than are kept");
    assert_eq!(packet::destination(&answers[0]), Some(device.inner));
    assert_eq!(answers[0][26..28], [0x03, 0xe8]);
}
