//! IPv4 and IPv6: outside, inside, and behind the gateway, in every combination.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use orfe_tunnel::dial::{DialError, Dialer};
use orfe_tunnel::{
    AllowedIp, Gateway, GatewayConfig, GatewayPeer, Policy, PolicyEntry, PolicyPort, PrivateKey, Tunnel,
    TunnelConfig, TunnelPeer, Upstream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support;
use crate::support::servers::{Server, nobody, pattern};
use crate::support::{HELPER, PATIENCE, logging, tcp_stack, until, up};

/// What policy names, once in each family.
const NAMED: [&str; 2] = ["100.127.1.1", "fd00:0:0:2::1"];
/// The device, in each family.
const OWN: [&str; 2] = ["100.64.1.1", "fd00:0:0:1::1"];
/// Connections at once.
const MANY: usize = 40;

fn addresses(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().unwrap())
}

/// Port 443 leads to `v4`, 444 to `v6`, and 445 to nobody; for both of [`NAMED`].
async fn policy(v4: &Server, v6: &Server) -> Policy {
    let nobody = nobody().await;
    let entry = |address| PolicyEntry {
        name: format!("service-{address}"),
        address,
        ports: [(443, v4.address), (444, v6.address), (445, nobody)]
            .map(|(port, upstream)| PolicyPort {
                port,
                upstream: Upstream::Address(upstream),
            })
            .to_vec(),
    };
    Policy::new(addresses(NAMED).map(entry)).unwrap()
}

/// A gateway that listens at `outer`, and a device on it with an address of each family.
async fn connect(outer: &str, policy: Policy) -> (Gateway, Tunnel) {
    let config = GatewayConfig {
        private_key: PrivateKey::generate(),
        listen: outer.parse().unwrap(),
        addresses: vec!["100.127.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        mtu: 1420,
    };
    let gateway = support::start(config, policy);
    let key = PrivateKey::generate();
    gateway.set_peers(vec![GatewayPeer {
        public_key: key.public_key(),
        preshared_key: None,
        allowed_ips: addresses(OWN).map(AllowedIp::host).to_vec(),
        name: "device".to_owned(),
    }]);
    let tunnel = Tunnel::start(TunnelConfig {
        private_key: key,
        addresses: addresses(OWN).to_vec(),
        peer: TunnelPeer {
            public_key: gateway.public_key(),
            preshared_key: None,
            endpoint: Some(gateway.local_addr()),
            allowed_ips: vec!["100.127.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()],
            keepalive: Some(Duration::from_secs(25)),
        },
        mtu: TunnelConfig::DEFAULT_MTU,
        bind: outer.parse().unwrap(),
        tcp_stack: tcp_stack(),
        helper: HELPER.into(),
    })
    .unwrap();
    up(&tunnel).await;
    (gateway, tunnel)
}

/// Sends bytes, half-closes, and has them back with the end behind them.
async fn exchange(tunnel: &Tunnel, destination: SocketAddr, seed: usize) {
    let mut stream = tunnel.dialer().dial(destination).await.unwrap();
    let sent = pattern(100_000, seed);
    let mut received = Vec::new();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let both = async {
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(read.read_to_end(&mut received), writing);
        read.unwrap();
    };
    tokio::time::timeout(PATIENCE, both).await.expect("no answer");
    assert!(received == sent, "{destination}: {} bytes came", received.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_family_inside_reaches_every_family_behind_over_every_family_outside() {
    logging();
    if let Err(error) = UdpSocket::bind("[::1]:0") {
        eprintln!("SKIPPED: IPv6 in and around the tunnel: this system has none: {error}");
        return;
    }
    let (v4, v6) = (Server::echo().await, Server::echo_at("[::1]:0").await);
    for outer in ["127.0.0.1:0", "[::1]:0"] {
        let (gateway, tunnel) = connect(outer, policy(&v4, &v6).await).await;
        for (seed, address) in addresses(NAMED).into_iter().enumerate() {
            for port in [443, 444] {
                exchange(&tunnel, SocketAddr::new(address, port), seed).await;
            }
            // Nobody listens there, and policy names no such port.
            for port in [445, 446] {
                let refused = tunnel.dialer().dial(SocketAddr::new(address, port)).await;
                let error = refused.map(drop).unwrap_err();
                assert!(matches!(error, DialError::Refused { .. }), "{error}");
            }
        }
        until("all is over", || gateway.stats().connections == 0).await;
        tunnel.shutdown().await;
        gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_both_families_do_not_meet() {
    logging();
    let (v4, other) = (Server::echo().await, Server::echo().await);
    let (_gateway, tunnel) = connect("127.0.0.1:0", policy(&v4, &other).await).await;
    let all = (0..MANY).map(|number| {
        let address = addresses(NAMED)[number % 2];
        exchange(&tunnel, SocketAddr::new(address, 443), number)
    });
    futures_util::future::join_all(all).await;
}
