//! Bytes through dialer and gateway.

use std::time::Instant;

use orfe_tunnel::dial::{DialError, Dialer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::servers::{Server, nobody, pattern};
use crate::support::{connected, inner, until};

const TEN_MB: usize = 10_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_each_way_at_once() {
    let server = Server::echo().await;
    let (gateway, tunnel) = connected(&[(443, server.address)]).await;
    let sent = pattern(TEN_MB, 1);
    let stream = tunnel.dialer().dial(inner(443)).await.unwrap();
    let started = Instant::now();
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let ((), result) = tokio::join!(writing, read.read_to_end(&mut received));
    result.unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
    let mbit_s = (2 * TEN_MB * 8) as f64 / started.elapsed().as_secs_f64() / 1e6;
    eprintln!("echo of 10 MB: {mbit_s:.0} Mbit/s, both directions added");
    drop((read, write));

    until("the connection is forgotten at both ends", || {
        tunnel.status().borrow().connections == 0 && gateway.stats().connections == 0
    })
    .await;
    let peer = gateway.peers().remove(0);
    assert_eq!(
        (peer.forwarded, peer.refused, peer.failed, peer.connections),
        (1, 0, 0, 0)
    );
    assert!(peer.rx_bytes as usize > TEN_MB && peer.tx_bytes as usize > TEN_MB);
    tunnel.shutdown().await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_comes_after_the_half_close() {
    let server = Server::answer_after_fin().await;
    let (_gateway, tunnel) = connected(&[(443, server.address)]).await;
    let sent = pattern(TEN_MB, 2);
    let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
    let error = stream.write_all(b"more").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_end_may_close_first() {
    let (heard_sender, mut heard) = mpsc::channel(1);
    let server = Server::new(move |mut stream| {
        let heard_sender = heard_sender.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let result = stream.read_to_end(&mut rest).await;
            heard_sender.send(result.map(|_| rest)).await.unwrap();
        }
    })
    .await;
    let (gateway, tunnel) = connected(&[(80, server.address)]).await;
    let mut stream = tunnel.dialer().dial(inner(80)).await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"hello");
    stream.write_all(b"and good bye").await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    assert_eq!(heard.recv().await.unwrap().unwrap(), b"and good bye");
    until("closed cleanly", || gateway.stats().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policy_does_not_name_is_refused() {
    let server = Server::echo().await;
    let (gateway, tunnel) = connected(&[(443, server.address)]).await;
    let dialer = tunnel.dialer();
    // Another port of a name, another address, the gateway's own address, and the upstream's real one.
    let others = [
        inner(444),
        "100.127.0.2:443".parse().unwrap(),
        "100.127.255.254:1".parse().unwrap(),
    ];
    for destination in others {
        let error = dialer.dial(destination).await.map(drop).unwrap_err();
        assert!(
            matches!(error, DialError::Refused { destination: at } if at == destination),
            "{error}"
        );
    }
    until("refusals are counted", || gateway.peers()[0].refused == 3).await;
    assert_eq!(gateway.peers()[0].forwarded, 0);
    // Behind no peer of the tunnel, so no packet even leaves.
    let error = dialer
        .with_timeout(std::time::Duration::from_millis(300))
        .dial(server.address)
        .await
        .map(drop);
    // One stack tries, the other knows that loopback is behind no tunnel.
    assert!(
        matches!(error, Err(DialError::TimedOut { .. } | DialError::Io { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_upstream_is_a_refused_connection() {
    let (gateway, tunnel) = connected(&[(443, nobody().await)]).await;
    let error = tunnel.dialer().dial(inner(443)).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    until("the failure is counted", || gateway.peers()[0].failed == 1).await;
    assert_eq!(
        (gateway.peers()[0].connections, gateway.stats().connections),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_seen_as_a_reset_at_the_other_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_gateway, tunnel) = connected(&[(443, listener.local_addr().unwrap())]).await;
    let dialer = tunnel.dialer();

    let (stream, accepted) = tokio::join!(dialer.dial(inner(443)), listener.accept());
    let (mut stream, mut upstream) = (stream.unwrap(), accepted.unwrap().0);
    stream.write_all(b"half a request").await.unwrap();
    upstream.read_exact(&mut [0; 14]).await.unwrap();
    drop(stream);
    let error = upstream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let (stream, accepted) = tokio::join!(dialer.dial(inner(443)), listener.accept());
    let (mut stream, upstream) = (stream.unwrap(), accepted.unwrap().0);
    upstream.set_zero_linger().unwrap();
    drop(upstream);
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_at_once() {
    let server = Server::echo().await;
    let (gateway, tunnel) = connected(&[(443, server.address)]).await;
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for number in 0..200 {
        let dialer = tunnel.dialer();
        connections.spawn(async move {
            let mut stream = dialer.dial(inner(443)).await.unwrap();
            let sent = pattern(20_000, number);
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            assert!(received == sent, "connection {number} got what it sent");
        });
    }
    while let Some(result) = connections.join_next().await {
        result.unwrap();
    }
    eprintln!("200 connections with 20 kB each: {:?}", started.elapsed());
    until("all are forgotten", || {
        tunnel.status().borrow().connections == 0 && gateway.stats().connections == 0
    })
    .await;
    // A peer's counters are shown a moment later.
    until("all are counted", || gateway.peers()[0].forwarded == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_resets_what_is_open() {
    let server = Server::echo().await;
    let (gateway, tunnel) = connected(&[(443, server.address)]).await;
    let dialer = tunnel.dialer();
    let mut stream = dialer.dial(inner(443)).await.unwrap();
    let mut status = tunnel.status();
    tunnel.shutdown().await;
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let error = dialer.dial(inner(443)).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::TunnelDown { .. }), "{error}");
    status.mark_unchanged();
    assert!(
        status.changed().await.is_err(),
        "watchers see that the tunnel is gone"
    );
    until("the gateway heard of it", || gateway.stats().connections == 0).await;
    gateway.shutdown().await;
}
