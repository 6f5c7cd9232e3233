use std::time::Duration;

use super::*;

fn port(bind: &str) -> UdpPort {
    UdpPort::bind(&UdpOptions::new(bind.parse().unwrap())).unwrap()
}

fn to_v4(port: &UdpPort) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.local_addr().unwrap().port()))
}

/// Datagrams until `count` have come, with their sources.
fn receive(port: &mut UdpPort, count: usize) -> Vec<(Vec<u8>, SocketAddr)> {
    let mut poll = mio::Poll::new().unwrap();
    port.register(poll.registry(), Token(0)).unwrap();
    let mut events = mio::Events::with_capacity(4);
    let mut buffers = port.receive_buffers();
    let mut all = Vec::new();
    while all.len() < count {
        match port.receive(&mut buffers) {
            Ok(()) => {
                for run in buffers.iter() {
                    all.extend(
                        run.bytes
                            .chunks(run.stride)
                            .map(|bytes| (bytes.to_vec(), run.source)),
                    );
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
                assert!(!events.is_empty(), "only {} of {count} came", all.len());
            }
        }
    }
    all
}

fn three_runs(destination: SocketAddr) -> Datagrams {
    let mut out = Datagrams::new();
    for (number, len) in [1200, 1200, 1200, 700, 900, 900, 1100].into_iter().enumerate() {
        out.push(&vec![number as u8; len], destination);
    }
    assert_eq!(out.runs().count(), 3);
    out
}

fn assert_whole(received: &[(Vec<u8>, SocketAddr)], source: SocketAddr) {
    let shape: Vec<(u8, usize)> = received
        .iter()
        .map(|(bytes, _)| (bytes[0], bytes.len()))
        .collect();
    assert_eq!(
        shape,
        [
            (0, 1200),
            (1, 1200),
            (2, 1200),
            (3, 700),
            (4, 900),
            (5, 900),
            (6, 1100)
        ]
    );
    assert!(received.iter().all(|(_, from)| *from == source));
}

#[test]
fn runs_arrive_as_the_datagrams_they_are_with_and_without_segmentation() {
    for segmentation in [true, false] {
        let mut receiver = port("127.0.0.1:0");
        let options = UdpOptions {
            segmentation,
            ..UdpOptions::new("127.0.0.1:0".parse().unwrap())
        };
        let sender = UdpPort::bind(&options).unwrap();
        let out = three_runs(to_v4(&receiver));
        let mut sent = Sent::default();
        sender.send(&out, &mut sent).unwrap();
        assert_eq!(sent, Sent { runs: 3, bytes: 0 });
        assert_whole(&receive(&mut receiver, 7), to_v4(&sender));
    }
}

#[test]
fn a_v6_socket_speaks_to_v4_and_shows_v4_addresses() {
    let mut both = port("[::]:0");
    if both.local_addr().unwrap().is_ipv4() {
        eprintln!("SKIPPED: no IPv6 here");
        return;
    }
    let mut other = port("127.0.0.1:0");
    both.send(&three_runs(to_v4(&other)), &mut Sent::default())
        .unwrap();
    assert_whole(&receive(&mut other, 7), to_v4(&both));
    other
        .send(&three_runs(to_v4(&both)), &mut Sent::default())
        .unwrap();
    assert_whole(&receive(&mut both, 7), to_v4(&other));
}

#[test]
fn a_pinned_answer_comes_from_the_address_that_was_asked() {
    let options = UdpOptions {
        pin_source: true,
        ..UdpOptions::new("0.0.0.0:0".parse().unwrap())
    };
    let mut gateway = UdpPort::bind(&options).unwrap();
    let mut device = port("127.0.0.1:0");
    let asked = SocketAddr::from(([127, 0, 0, 77], gateway.local_addr().unwrap().port()));
    device.send(&three_runs(asked), &mut Sent::default()).unwrap();
    let source = receive(&mut gateway, 7)[0].1;
    gateway.send(&three_runs(source), &mut Sent::default()).unwrap();
    if cfg!(target_os = "linux") {
        assert_whole(&receive(&mut device, 7), asked);
    }
}

#[test]
fn what_cannot_be_sent_does_not_hold_up_the_rest() {
    let mut receiver = port("127.0.0.1:0");
    let sender = port("127.0.0.1:0");
    let mut out = Datagrams::new();
    // A socket bound to IPv4 reaches no IPv6 address.
    out.push(b"lost", "[2001:db8::1]:9".parse().unwrap());
    out.push(b"kept", to_v4(&receiver));
    sender.send(&out, &mut Sent::default()).unwrap();
    assert_eq!(receive(&mut receiver, 1)[0].0, b"kept");
}
