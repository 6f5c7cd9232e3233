//! What an end learns of its path, and what it makes of it; with each TCP stack.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use orfe_tunnel::dial::Dialer;
use orfe_tunnel::{AllowedIp, Gateway, GatewayConfig, Phase, PrivateKey, Tunnel, TunnelConfig, TunnelPeer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::support;
use crate::support::relay::Relay;
use crate::support::servers::{Server, pattern};
use crate::support::{Device, HELPER, PATIENCE, inner, logging, policy, tcp_stack, until, up};

/// The gateway inside the tunnel.
const GATEWAY: &str = "100.64.0.1";
/// What `WireGuard` puts around an inner packet.
const OVERHEAD: usize = 32;
/// A request is lost after 2 s, and a size after three of them; the rest is for a busy machine.
const MEASURED_WITHIN: Duration = Duration::from_secs(60);

fn wide_gateway(port: u16, upstream: SocketAddr) -> Gateway {
    logging();
    let config = GatewayConfig {
        private_key: PrivateKey::generate(),
        listen: "127.0.0.1:0".parse().unwrap(),
        addresses: vec![GATEWAY.parse().unwrap()],
        mtu: TunnelConfig::MEASURED_MTU,
    };
    support::start(config, policy(&[(port, upstream)]))
}

/// A device that may use the largest packets, if the path lets them through.
fn wide_tunnel(device: &Device, gateway: &Gateway, endpoint: SocketAddr) -> Tunnel {
    gateway.set_peers(vec![device.peer()]);
    let config = TunnelConfig {
        private_key: device.key.clone(),
        addresses: vec![device.address],
        peer: TunnelPeer {
            public_key: gateway.public_key(),
            preshared_key: None,
            endpoint: Some(endpoint),
            allowed_ips: ["100.127.0.0/16", "100.64.0.1/32"]
                .map(|ip| ip.parse::<AllowedIp>().unwrap())
                .into(),
            keepalive: Some(Duration::from_secs(25)),
        },
        mtu: TunnelConfig::MEASURED_MTU,
        bind: "127.0.0.1:0".parse().unwrap(),
        tcp_stack: tcp_stack(),
        helper: HELPER.into(),
    };
    Tunnel::start(config).unwrap()
}

fn gateway_address() -> Vec<IpAddr> {
    vec![GATEWAY.parse().unwrap()]
}

async fn measured(tunnel: &Tunnel, mtu: u16) {
    let mut path = tunnel.path();
    let wait = path.wait_for(|report| report.is_some_and(|report| report.mtu == mtu));
    let report = tokio::time::timeout(MEASURED_WITHIN, wait)
        .await
        .unwrap_or_else(|_| panic!("the MTU does not become {mtu}"))
        .unwrap()
        .unwrap();
    assert!(
        report.rtt > Duration::ZERO && report.rtt < Duration::from_secs(2),
        "{report:?}"
    );
    assert!((0.0..=100.0).contains(&report.loss_percent), "{report:?}");
}

/// Sends and gets back `len` bytes over a connection of its own.
async fn exchange(tunnel: &Tunnel, len: usize) {
    let sent = pattern(len, 3);
    let stream = tunnel.dialer().dial(inner(443)).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let mut received = Vec::new();
    let both = async {
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let ((), result) = tokio::join!(writing, read.read_to_end(&mut received));
        result.unwrap();
    };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("nothing passes");
    assert!(received == sent, "{} bytes came back", received.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_trip_loss_and_mtu_of_the_path_are_known_and_the_mtu_is_used() {
    let server = Server::echo().await;
    let gateway = wide_gateway(443, server.address);
    let relay = Relay::new(gateway.local_addr()).await;
    // The gateway pads what it sends to a multiple of 16 bytes: an answer of 1380 takes 1392, one of 1400 1408.
    relay.lose_longer_than(1392 + OVERHEAD);
    let tunnel = wide_tunnel(&Device::new(1), &gateway, relay.address);
    tunnel.measure_path(gateway_address());
    measured(&tunnel, 1380).await;
    // Packets of 1420 bytes, which the device takes, would not pass.
    exchange(&tunnel, 300_000).await;
    assert_eq!(tunnel.status().borrow().phase, Phase::Up);
    tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_measured_begins_with_what_passes_everywhere() {
    let server = Server::echo().await;
    let gateway = wide_gateway(443, server.address);
    let relay = Relay::new(gateway.local_addr()).await;
    relay.lose_longer_than(1280 + OVERHEAD);
    let tunnel = wide_tunnel(&Device::new(1), &gateway, relay.address);
    // Nobody is there to be asked: the MTU stays where it begins, and nothing is probed.
    tunnel.measure_path(Vec::new());
    up(&tunnel).await;
    exchange(&tunnel, 300_000).await;
    assert_eq!(*tunnel.path().borrow(), None);
    // Somebody is, and nothing larger passes.
    tunnel.measure_path(gateway_address());
    measured(&tunnel, 1280).await;
    exchange(&tunnel, 300_000).await;
    tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_path_is_measured_anew_and_new_connections_keep_to_it() {
    let server = Server::echo().await;
    let gateway = wide_gateway(443, server.address);
    let relay = Relay::new(gateway.local_addr()).await;
    let tunnel = wide_tunnel(&Device::new(1), &gateway, relay.address);
    tunnel.measure_path(gateway_address());
    measured(&tunnel, 1420).await;
    exchange(&tunnel, 300_000).await;
    relay.lose_longer_than(1300 + OVERHEAD);
    tunnel.measure_path(gateway_address());
    measured(&tunnel, 1280).await;
    exchange(&tunnel, 300_000).await;
    tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_port_carries_open_connections_on() {
    let server = Server::echo().await;
    let gateway = wide_gateway(443, server.address);
    let tunnel = wide_tunnel(&Device::new(1), &gateway, gateway.local_addr());
    up(&tunnel).await;
    let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
    for round in 0..4_u8 {
        let before = tunnel.local_addr();
        assert!(tunnel.rebind());
        tunnel.rehandshake();
        stream.write_all(&[round; 2000]).await.unwrap();
        let mut answer = [0; 2000];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer))
            .await
            .expect("no answer at the new port")
            .unwrap();
        assert_eq!(answer, [round; 2000]);
        assert_ne!(tunnel.local_addr(), before);
        // The old port is free again: nobody holds the socket.
        until("the old socket is closed", || {
            std::net::UdpSocket::bind(before).is_ok()
        })
        .await;
    }
    tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_middlebox_that_gives_another_port_does_not_end_a_connection() {
    let server = Server::echo().await;
    let gateway = wide_gateway(443, server.address);
    let (before, after) = (
        Relay::new(gateway.local_addr()).await,
        Relay::new(gateway.local_addr()).await,
    );
    let nat = Nat::new(before.address).await;
    let tunnel = wide_tunnel(&Device::new(1), &gateway, nat.address);
    up(&tunnel).await;
    let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
    // What the gateway shows of its peers lags behind.
    until("the device is known", || gateway.peers()[0].endpoint.is_some()).await;
    let source = gateway.peers()[0].endpoint;
    let sent = pattern(200_000, 9);
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut received = vec![0; sent.len()];
    let both = async {
        let writing = async {
            write.write_all(&sent[..100_000]).await.unwrap();
            // The same device, seen from outside at another port from here on.
            before.stop(true);
            nat.move_to(after.address);
            write.write_all(&sent[100_000..]).await.unwrap();
        };
        let ((), result) = tokio::join!(writing, read.read_exact(&mut received));
        result.unwrap();
    };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("nothing passes any more");
    assert!(received == sent);
    until("the gateway follows", || gateway.peers()[0].endpoint != source).await;
    tunnel.shutdown().await;
}

/// What the device sends to: passes datagrams on to one of several ways, which the device does not see.
struct Nat {
    address: SocketAddr,
    way: tokio::sync::watch::Sender<SocketAddr>,
    task: tokio::task::JoinHandle<()>,
}

impl Nat {
    async fn new(first: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (way, current) = tokio::sync::watch::channel(first);
        let task = tokio::spawn(async move {
            let mut ways = vec![first];
            let mut device = None;
            let mut buffer = vec![0; 65536];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let to = *current.borrow();
                if !ways.contains(&to) {
                    ways.push(to);
                }
                let to = if ways.contains(&from) {
                    device
                } else {
                    device = Some(from);
                    Some(to)
                };
                if let Some(to) = to {
                    // A full buffer loses it, as on any network.
                    let _ = socket.send_to(&buffer[..len], to).await;
                }
            }
        });
        Self { address, way, task }
    }

    fn move_to(&self, way: SocketAddr) {
        self.way.send_replace(way);
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.task.abort();
    }
}
