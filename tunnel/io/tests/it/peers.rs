//! Who is let in.

use std::time::Duration;

use orfe_tunnel::dial::{DialError, Dialer};
use orfe_tunnel::{Phase, PresharedKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::servers::Server;
use crate::support::{Device, gateway, inner, policy, until, up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_gateway_does_not_know_gets_nothing() {
    let server = Server::echo().await;
    let gateway = gateway(&[(443, server.address)]);
    gateway.set_peers(vec![Device::new(1).peer()]);
    let stranger = Device::new(1);
    let tunnel = stranger.tunnel(&gateway, gateway.local_addr());
    until("its handshake is dropped", || gateway.stats().dropped > 0).await;
    let dialer = tunnel.dialer().with_timeout(Duration::from_millis(500));
    let error = dialer.dial(inner(443)).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::TunnelDown { .. }), "{error}");
    let status = tunnel.status().borrow().clone();
    assert_eq!((status.phase, status.rx_bytes), (Phase::Connecting, 0));
    assert_eq!(gateway.peers()[0].rx_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_loses_access_and_others_do_not() {
    let server = Server::echo().await;
    let gateway = gateway(&[(443, server.address)]);
    let (removed, kept) = (Device::new(1), Device::new(2));
    gateway.set_peers(vec![removed.peer(), kept.peer()]);
    let removed_tunnel = removed.tunnel(&gateway, gateway.local_addr());
    let kept_tunnel = kept.tunnel(&gateway, gateway.local_addr());
    up(&removed_tunnel).await;
    up(&kept_tunnel).await;
    let mut removed_stream = removed_tunnel.dialer().dial(inner(443)).await.unwrap();
    let mut kept_stream = kept_tunnel.dialer().dial(inner(443)).await.unwrap();
    echo(&mut removed_stream).await;
    echo(&mut kept_stream).await;
    let handshake = || {
        let peers = gateway.peers();
        let peer = peers.iter().find(|peer| *peer.name == *kept.name);
        peer.unwrap().last_handshake
    };
    until("its handshake is shown", || handshake().is_some()).await;
    let handshake = handshake();

    gateway.set_peers(vec![kept.peer()]);
    until("its connection is gone", || gateway.stats().connections == 1).await;
    removed_stream.write_all(b"are you there?").await.unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(500), removed_stream.read(&mut [0; 1])).await;
    assert!(answer.is_err(), "nothing comes back: {answer:?}");
    let dialer = removed_tunnel.dialer().with_timeout(Duration::from_millis(500));
    let error = dialer.dial(inner(443)).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::TimedOut { .. }), "{error}");

    echo(&mut kept_stream).await;
    kept_tunnel.dialer().dial(inner(443)).await.map(drop).unwrap();
    let peers = gateway.peers();
    assert_eq!(
        (peers.len(), peers[0].last_handshake),
        (1, handshake),
        "its session was not touched"
    );

    gateway.set_peers(vec![kept.peer(), removed.peer()]);
    removed_tunnel.rehandshake();
    let mut again = removed_tunnel.dialer().dial(inner(443)).await.unwrap();
    echo(&mut again).await;
    echo(&mut kept_stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_do_not_reach_each_other() {
    let server = Server::echo().await;
    let gateway = gateway(&[(443, server.address)]);
    let (one, other) = (Device::new(1), Device::new(2));
    gateway.set_peers(vec![one.peer(), other.peer()]);
    let tunnel = one.tunnel_to_everything(&gateway);
    let other_tunnel = other.tunnel(&gateway, gateway.local_addr());
    up(&tunnel).await;
    up(&other_tunnel).await;
    let before = other_tunnel.status().borrow().rx_bytes;
    for port in [22, 443] {
        let error = tunnel
            .dialer()
            .dial((other.address, port).into())
            .await
            .map(drop)
            .unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
    }
    assert_eq!(other_tunnel.status().borrow().rx_bytes, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_may_change_while_connections_are_open() {
    let (first, second) = (Server::echo().await, Server::echo().await);
    let gateway = gateway(&[(443, first.address), (80, second.address)]);
    let device = Device::new(1);
    gateway.set_peers(vec![device.peer()]);
    let tunnel = device.tunnel(&gateway, gateway.local_addr());
    up(&tunnel).await;
    let mut cut = tunnel.dialer().dial(inner(443)).await.unwrap();
    let mut stays = tunnel.dialer().dial(inner(80)).await.unwrap();
    echo(&mut cut).await;
    echo(&mut stays).await;

    gateway.set_policy(policy(&[(80, second.address)]));
    let error = cut.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    echo(&mut stays).await;
    let error = tunnel.dialer().dial(inner(443)).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preshared_key_must_match() {
    let server = Server::echo().await;
    let gateway = gateway(&[(443, server.address)]);
    let device = Device::new(1);
    let mut peer = device.peer();
    peer.preshared_key = Some(PresharedKey::generate());
    gateway.set_peers(vec![peer.clone()]);
    let without = device.tunnel(&gateway, gateway.local_addr());
    until("its answer is dropped", || without.status().borrow().dropped > 0).await;
    assert_eq!(without.status().borrow().phase, Phase::Connecting);
    without.shutdown().await;
    let with = device.tunnel_with(&gateway, peer.preshared_key);
    up(&with).await;
    echo(&mut with.dialer().dial(inner(443)).await.unwrap()).await;
}

async fn echo(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    let exchange = async {
        stream.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
    };
    tokio::time::timeout(crate::support::PATIENCE, exchange)
        .await
        .expect("no echo");
}
