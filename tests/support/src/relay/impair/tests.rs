use std::net::UdpSocket;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn relay(target: &UdpSocket, path: Path) -> ImpairedRelay {
    ImpairedRelay::start("127.0.0.1:0".parse().unwrap(), target.local_addr().unwrap(), path).unwrap()
}

fn exchange(client: &UdpSocket, relay: &ImpairedRelay, target: &UdpSocket, text: &[u8]) -> SocketAddr {
    let mut buffer = [0; 2048];
    client.send_to(text, relay.address()).unwrap();
    let (len, seen) = target.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], text);
    target.send_to(text, seen).unwrap();
    let (len, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], text);
    seen
}

#[test]
fn passes_both_ways_and_an_end_that_moves_is_seen_elsewhere() {
    let (client, target) = (bound(), bound());
    let relay = relay(&target, Path::default());
    let before = exchange(&client, &relay, &target, b"one");
    assert_eq!(exchange(&client, &relay, &target, b"two"), before);
    relay.move_end(End::Client);
    let after = exchange_until(&client, &relay, &target, |seen| seen != before);
    assert_eq!(after.ip(), before.ip());

    let front = relay.address();
    relay.move_end(End::Target);
    crate::wait::wait_for_blocking("another address", PATIENCE, || match relay.address() {
        address if address == front => Err("the old one".to_owned()),
        _ => Ok(()),
    })
    .unwrap();
    exchange(&client, &relay, &target, b"three");
}

/// Exchanges until the target sees the client where `there` says.
fn exchange_until(
    client: &UdpSocket,
    relay: &ImpairedRelay,
    target: &UdpSocket,
    there: impl Fn(SocketAddr) -> bool,
) -> SocketAddr {
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 16];
    let seen = crate::wait::wait_for_blocking("the other address", PATIENCE, || {
        client.send_to(b"where", relay.address()).unwrap();
        match target.recv_from(&mut buffer) {
            Ok((_, seen)) if there(seen) => Ok(seen),
            Ok((_, seen)) => Err(seen.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    seen
}

#[test]
fn a_path_takes_its_time_there_and_back() {
    let (client, target) = (bound(), bound());
    let path = Path::symmetric(
        Impairment {
            delay: Duration::from_millis(20),
            ..Impairment::default()
        },
        1,
    );
    let relay = relay(&target, path);
    let started = Instant::now();
    exchange(&client, &relay, &target, b"slow");
    assert!(
        started.elapsed() >= Duration::from_millis(40),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn what_is_lost_repeats_by_seed_and_the_rest_arrives_whole() {
    let arrived = |seed: u64| {
        let (client, target) = (bound(), bound());
        let loss = Impairment {
            loss: Share::from_percent(20.0).unwrap(),
            ..Impairment::default()
        };
        let relay = relay(&target, Path::symmetric(loss, seed));
        let mut numbers = Vec::new();
        let mut buffer = [0; 2048];
        // Few enough for the smallest socket buffer; the last, which always passes, ends the series.
        for number in 0..100_u8 {
            client.send_to(&[number; 500], relay.address()).unwrap();
        }
        crate::wait::wait_for_blocking("all to be decided", PATIENCE, || {
            let up = relay.counts().up;
            match up.passed + up.lost {
                100 => Ok(()),
                other => Err(format!("{other} were")),
            }
        })
        .unwrap();
        for _ in 0..relay.counts().up.passed {
            let (len, _) = target.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..len], [buffer[0]; 500]);
            numbers.push(buffer[0]);
        }
        numbers
    };
    let first = arrived(3);
    assert!((60..95).contains(&first.len()), "{}", first.len());
    assert_eq!(arrived(3), first);
}

#[test]
fn a_blocked_path_passes_nothing_until_it_is_open_again() {
    let (client, target) = (bound(), bound());
    let relay = relay(&target, Path::default());
    exchange(&client, &relay, &target, b"before");
    relay.block(true);
    crate::wait::wait_for_blocking("a datagram to be thrown away", PATIENCE, || {
        client.send_to(b"lost", relay.address()).unwrap();
        match relay.counts().up.blocked {
            0 => Err("none was".to_owned()),
            _ => Ok(()),
        }
    })
    .unwrap();
    relay.block(false);
    let after = relay.counts().up.passed;
    crate::wait::wait_for_blocking("a datagram to pass", PATIENCE, || {
        client.send_to(b"again", relay.address()).unwrap();
        if relay.counts().up.passed > after {
            Ok(())
        } else {
            Err("none did".to_owned())
        }
    })
    .unwrap();
}
