//! A poor path, and none.

use std::time::{Duration, Instant};

use orfe_tunnel::dial::{DialError, Dialer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::relay::Relay;
use crate::support::servers::{Server, pattern};
use crate::support::{Device, gateway, inner, until, up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_and_reordering_are_survived() {
    let server = Server::echo().await;
    let gateway = gateway(&[(443, server.address)]);
    let device = Device::new(1);
    gateway.set_peers(vec![device.peer()]);
    let relay = Relay::new(gateway.local_addr()).await;
    let tunnel = device.tunnel(&gateway, relay.address);
    up(&tunnel).await;
    relay.impair(50, 50);
    let sent = pattern(100_000, 4);
    let started = Instant::now();
    let stream = tunnel.dialer().dial(inner(443)).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let mut received = Vec::new();
    let exchange = async {
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let ((), result) = tokio::join!(writing, read.read_to_end(&mut received));
        result.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(180), exchange)
        .await
        .expect("too slow");
    assert!(received == sent, "{} bytes came back", received.len());
    let (passed, lost) = relay.counts();
    eprintln!(
        "100 kB there and back at 5 % loss: {:?}, {passed} datagrams passed, {lost} lost",
        started.elapsed()
    );
    assert!(lost * 100 > passed * 3, "the path was as poor as it should be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_path_dials_fail_and_with_it_they_work_again() {
    let server = Server::echo().await;
    let gateway = gateway(&[(443, server.address)]);
    let device = Device::new(1);
    gateway.set_peers(vec![device.peer()]);
    let relay = Relay::new(gateway.local_addr()).await;
    relay.stop(true);
    let tunnel = device.tunnel(&gateway, relay.address);
    let dialer = tunnel.dialer().with_timeout(Duration::from_millis(500));
    let error = dialer.dial(inner(443)).await.map(drop).unwrap_err();
    assert!(
        matches!(error, DialError::TunnelDown { .. }),
        "before the first handshake: {error}"
    );

    relay.stop(false);
    tunnel.rehandshake();
    up(&tunnel).await;
    tunnel.dialer().dial(inner(443)).await.map(drop).unwrap();

    relay.stop(true);
    let error = dialer.dial(inner(443)).await.map(drop).unwrap_err();
    assert!(
        matches!(error, DialError::TimedOut { .. }),
        "in the middle of a session: {error}"
    );
    relay.stop(false);
    tunnel.dialer().dial(inner(443)).await.map(drop).unwrap();
    until("nothing is left of the dials", || {
        tunnel.status().borrow().connections == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_follows_a_device_to_another_address() {
    let server = Server::echo().await;
    let gateway = gateway(&[(443, server.address)]);
    let device = Device::new(1);
    gateway.set_peers(vec![device.peer()]);
    let (first, second) = (
        Relay::new(gateway.local_addr()).await,
        Relay::new(gateway.local_addr()).await,
    );
    let tunnel = device.tunnel(&gateway, first.address);
    up(&tunnel).await;
    let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
    let before = gateway.peers()[0].endpoint;
    first.stop(true);
    tunnel.set_endpoint(second.address);
    stream.write_all(b"still here").await.unwrap();
    let mut answer = [0; 10];
    let read = stream.read_exact(&mut answer);
    tokio::time::timeout(crate::support::PATIENCE, read)
        .await
        .expect("no answer on the new path")
        .unwrap();
    assert_eq!(&answer, b"still here");
    until("the endpoint moved", || gateway.peers()[0].endpoint != before).await;
}
