//! The gateway role: who may reach what through it.

use std::net::SocketAddr;
use std::time::Duration;

use orfe_protocol::desired::{DesiredState, Tunnel as DesiredTunnel};
use orfe_protocol::message::FromRegistry;
use orfe_registry::config::PolicyEntry;
use orfe_tunnel::{AllowedIp, Phase, PublicKey, TcpStack, Tunnel, TunnelConfig, TunnelPeer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::agent::{Agent, Identity};
use crate::site::{PATIENCE, Site};

/// The device's end, as the desired state says.
pub(crate) fn start(identity: &Identity, desired: &DesiredTunnel) -> Tunnel {
    start_by(identity, desired, &desired.gateway.endpoints[0])
}

/// The same by this way to the gateway.
fn start_by(identity: &Identity, desired: &DesiredTunnel, endpoint: &str) -> Tunnel {
    let config = TunnelConfig {
        private_key: identity.wireguard_private.to_base64().parse().unwrap(),
        addresses: desired.addresses.clone(),
        peer: TunnelPeer {
            public_key: PublicKey::from(*desired.gateway.public_key.as_bytes()),
            preshared_key: None,
            endpoint: Some(endpoint.parse().unwrap()),
            allowed_ips: vec![AllowedIp::new("100.127.0.0".parse().unwrap(), 16).unwrap()],
            keepalive: Some(Duration::from_secs(u64::from(desired.keepalive_s))),
        },
        mtu: TunnelConfig::DEFAULT_MTU,
        bind: "127.0.0.1:0".parse().unwrap(),
        tcp_stack: TcpStack::Smoltcp,
        helper: TunnelConfig::this_program(),
    };
    Tunnel::start(config).unwrap()
}

#[tokio::test]
async fn a_device_reaches_what_policy_names_until_it_is_revoked() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let echo_address = upstream.local_addr().unwrap().to_string();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).await.unwrap();
        stream.write_all(&buffer).await.unwrap();
        stream
    });
    let site = Site::with(|config| {
        config.tunnel = true;
        let upstream = echo_address.parse().unwrap();
        let name = "coder.internal".parse().unwrap();
        config.policy = vec![PolicyEntry::of_name(name, &[443], Some(upstream))];
    })
    .await;
    let (mut agent, identity) = Agent::joined(&site).await;
    let FromRegistry::Desired(desired) = agent.hear().await else {
        panic!("no desired state")
    };
    let DesiredState {
        tunnel: Some(desired),
        ..
    } = *desired
    else {
        panic!("no tunnel")
    };
    let tunnel = start(&identity, &desired);
    let named = desired.names.values().next().unwrap();
    let destination = SocketAddr::new(named.address, named.ports[0]);

    let mut stream = tokio::time::timeout(PATIENCE, tunnel.dialer().connect(destination))
        .await
        .unwrap()
        .unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"hello");
    let refused = tunnel.dialer().connect(SocketAddr::new(named.address, 22)).await;
    assert!(refused.is_err(), "policy names no port 22");

    // The gateway's own view of the handshake reaches the list of devices; the device has said nothing of it.
    let fleet = site.registry.fleet();
    let mut changes = fleet.changes();
    let seen = async {
        while fleet.rows()[0].tunnel_handshake_at.is_none() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();

    let _upstream_end = echo.await.unwrap();
    site.cli(&["device", "revoke", "laptop"]).await.unwrap();
    let dialer = tunnel.dialer().with_timeout(Duration::from_secs(2));
    assert!(
        dialer.connect(destination).await.is_err(),
        "a revoked device reaches nothing"
    );
    tunnel.shutdown().await;
    site.registry.shutdown().await;
}

#[tokio::test]
async fn the_gateway_is_reached_at_its_further_ports_too() {
    let any = "127.0.0.1:0".parse().unwrap();
    let site = Site::with(|config| {
        config.tunnel = true;
        config.wireguard_also = vec![any, any];
    })
    .await;
    let (mut agent, identity) = Agent::joined(&site).await;
    let FromRegistry::Desired(desired) = agent.hear().await else {
        panic!("no desired state")
    };
    let desired = desired.tunnel.unwrap();
    let endpoints = &desired.gateway.endpoints;
    assert_eq!(endpoints.len(), 3, "{endpoints:?}");
    let shown = site.cli(&["gateway", "show"]).await.unwrap();
    for endpoint in endpoints {
        assert!(shown.contains(endpoint.as_str()), "{shown}");
        let tunnel = start_by(&identity, &desired, endpoint);
        let mut status = tunnel.status();
        let up = status.wait_for(|status| status.phase == Phase::Up);
        tokio::time::timeout(PATIENCE, up)
            .await
            .unwrap_or_else(|_| panic!("no tunnel by {endpoint}"))
            .unwrap();
        tunnel.shutdown().await;
    }
    site.registry.shutdown().await;
}

#[tokio::test]
async fn what_is_configured_is_said_of_further_ports() {
    let site = Site::with(|config| {
        config.tunnel = true;
        config.wireguard_also = vec!["127.0.0.1:0".parse().unwrap()];
        config.also_endpoints = Some(vec!["lb.example.com:443".parse().unwrap()]);
    })
    .await;
    let shown = site.cli(&["gateway", "show", "--json"]).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["also"][0], "lb.example.com:443", "{shown}");
    site.registry.shutdown().await;
}
