use std::net::UdpSocket;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Data of `WireGuard`, as far as can be seen from outside.
fn datagram(number: usize, len: usize) -> Vec<u8> {
    let mut datagram = vec![7; len];
    datagram[..4].copy_from_slice(&[4, 0, 0, 0]);
    datagram[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    datagram
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (len, source) = socket.recv_from(&mut buffer).expect("it arrives");
    (buffer[..len].to_vec(), source)
}

#[test]
fn each_remote_has_an_end_of_its_own_at_the_gateway() {
    let gateway = socket("0.0.0.0:0");
    let relay = UdpRelay::start("127.0.0.1:0".parse().unwrap(), gateway.local_addr().unwrap()).unwrap();
    let remotes = [
        socket("127.0.0.1:0"),
        socket("127.0.0.1:0"),
        socket("127.0.0.2:0"),
    ];
    let sources: Vec<SocketAddr> = remotes
        .iter()
        .enumerate()
        .map(|(number, remote)| {
            remote.send_to(&datagram(number, 64), relay.local_addr()).unwrap();
            let (arrived, source) = receive(&gateway);
            assert_eq!(arrived, datagram(number, 64));
            source
        })
        .collect();
    assert_ne!(sources[0], sources[1]);
    if cfg!(target_os = "linux") {
        assert_eq!(sources[0].ip(), sources[1].ip(), "the ports of one address");
        assert_ne!(sources[0].ip(), sources[2].ip(), "two addresses");
    }
    for (number, (remote, source)) in remotes.iter().zip(&sources).enumerate() {
        gateway.send_to(&datagram(100 + number, 1400), source).unwrap();
        assert_eq!(
            receive(remote),
            (datagram(100 + number, 1400), relay.local_addr())
        );
        remote.send_to(&datagram(number, 64), relay.local_addr()).unwrap();
        assert_eq!(receive(&gateway).1, *source, "it keeps its end");
    }
}

#[test]
fn who_is_only_asked_for_a_cookie_makes_room() {
    let gateway = socket("127.0.0.1:0");
    let relay =
        UdpRelay::with_room(4, "127.0.0.1:0".parse().unwrap(), gateway.local_addr().unwrap()).unwrap();
    let known = socket("127.0.0.1:0");
    known.send_to(&datagram(0, 64), relay.local_addr()).unwrap();
    let (_, known_at) = receive(&gateway);
    gateway.send_to(&datagram(0, 64), known_at).unwrap();
    receive(&known);
    let mut cookie = datagram(1, 64);
    cookie[0] = 3;
    for number in 1..10 {
        let stranger = socket("127.0.0.1:0");
        stranger
            .send_to(&datagram(number, 148), relay.local_addr())
            .unwrap();
        let (arrived, source) = receive(&gateway);
        assert_eq!(arrived, datagram(number, 148));
        gateway.send_to(&cookie, source).unwrap();
        // It came through, so the relay has dealt with it.
        assert_eq!(receive(&stranger).0, cookie);
    }
    known.send_to(&datagram(10, 64), relay.local_addr()).unwrap();
    assert_eq!(
        receive(&gateway),
        (datagram(10, 64), known_at),
        "it keeps its end"
    );
}

#[test]
fn what_cannot_be_wireguards_begins_nothing() {
    let gateway = socket("127.0.0.1:0");
    let relay = UdpRelay::start("127.0.0.1:0".parse().unwrap(), gateway.local_addr().unwrap()).unwrap();
    let remote = socket("127.0.0.1:0");
    for stray in [
        &b""[..],
        b"\xc0\0\0\0\x01 QUIC, which lives at port 443",
        &[4; 3000],
    ] {
        remote.send_to(stray, relay.local_addr()).unwrap();
    }
    remote.send_to(&datagram(1, 32), relay.local_addr()).unwrap();
    assert_eq!(receive(&gateway).0, datagram(1, 32));
}

#[test]
fn whole_runs_pass_in_order_and_without_loss() {
    let gateway = socket("127.0.0.1:0");
    let relay = UdpRelay::start("127.0.0.1:0".parse().unwrap(), gateway.local_addr().unwrap()).unwrap();
    let port = UdpPort::bind(&UdpOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    // Few enough for the receiver's buffer, and more than one system call takes.
    let (count, len) = (100, 300);
    let bytes: Vec<u8> = (0..count).flat_map(|number| datagram(number, len)).collect();
    for bytes in bytes.chunks(MAX_RUN_DATAGRAMS * len) {
        let run = Run {
            destination: relay.local_addr(),
            bytes,
            segment: len,
        };
        port.send_run(run, &mut 0).unwrap();
    }
    for number in 0..count {
        assert_eq!(receive(&gateway).0, datagram(number, len));
    }
}

#[test]
fn a_taken_port_is_refused_and_an_ended_relay_gives_its_port_back() {
    let gateway = "127.0.0.1:9".parse().unwrap();
    let taken = socket("127.0.0.1:0");
    let error = UdpRelay::start(taken.local_addr().unwrap(), gateway).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let relay = UdpRelay::start("127.0.0.1:0".parse().unwrap(), gateway).unwrap();
    let address = relay.local_addr();
    drop(relay);
    UdpRelay::start(address, gateway).unwrap();
}
