//! Bounds on memory and connections.

use std::time::Duration;

use orfe_tunnel::TcpStack;
use orfe_tunnel::dial::{DialError, Dialer};
use tokio::io::AsyncWriteExt;

use crate::support::servers::{Server, pattern};
use crate::support::{connected, inner, tcp_stack, until};

/// What one connection may hold at one end: the largest window, or what is in flight and waits before it.
const PER_CONNECTION: usize = 8 << 20;
/// What waits to be taken by the thread when nothing moves.
const RING: usize = 128 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_stops_its_writer() {
    let server = Server::deaf().await;
    let (gateway, tunnel) = connected(&[(443, server.address)]).await;
    let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
    let chunk = pattern(64 << 10, 3);
    let mut taken = 0;
    // The kernel's own buffers before the server come on top, and have a bound as well.
    while let Ok(result) = tokio::time::timeout(Duration::from_secs(1), stream.write(&chunk)).await {
        taken += result.unwrap();
        assert!(taken < 64 << 20, "the writer is never stopped");
    }
    if tcp_stack() == TcpStack::Smoltcp {
        until("the buffers are full", || {
            tunnel.status().borrow().buffered_bytes >= RING
        })
        .await;
    }
    let (device, at_gateway) = (
        tunnel.status().borrow().buffered_bytes,
        gateway.stats().buffered_bytes,
    );
    eprintln!("taken {taken}, waiting at the device {device}, at the gateway {at_gateway}");
    if tcp_stack() == TcpStack::Namespace {
        until("what the kernel holds is seen", || {
            gateway.stats().buffered_bytes > 0
        })
        .await;
    }
    assert!(device <= PER_CONNECTION, "{device} bytes at the device");
    assert!(at_gateway <= PER_CONNECTION, "{at_gateway} bytes at the gateway");

    // Others are not held up by it.
    let mut other = tunnel.dialer().dial(inner(443)).await.unwrap();
    other.write_all(b"hello").await.unwrap();
    drop(stream);
    until("the stalled connection is gone", || {
        tunnel.status().borrow().connections == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_have_a_limit_and_come_back() {
    let server = Server::deaf().await;
    let (gateway, tunnel) = connected(&[(443, server.address)]).await;
    let dialer = tunnel.dialer();
    let mut held = Vec::new();
    let error = loop {
        match dialer.dial(inner(443)).await {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DialError::TooMany { limit: 1024, .. }), "{error}");
    assert_eq!(held.len(), 1024);
    held.clear();
    until("all are forgotten", || {
        tunnel.status().borrow().connections == 0 && gateway.stats().connections == 0
    })
    .await;
    dialer.dial(inner(443)).await.map(drop).unwrap();
}
