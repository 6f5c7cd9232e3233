//! The tunnel's datagrams over the registry's WebSocket.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use orfe_protocol::message::FromRegistry;
use orfe_protocol::{TUNNEL_PATH, TUNNEL_SUBPROTOCOL};
use orfe_registry::config::PolicyEntry;
use orfe_tunnel::carrier::Bridge;
use orfe_tunnel::{AllowedIp, Phase, PublicKey, TcpStack, Tunnel, TunnelConfig, TunnelPeer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio_tungstenite::tungstenite::Message;

use crate::agent::{Agent, closed_with, open_path};
use crate::site::{PATIENCE, Site};

async fn site_with_echo() -> (Site, tokio::task::JoinHandle<()>) {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let echo = tokio::spawn(async move {
        while let Ok((mut stream, _)) = upstream.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    let site = Site::with(|config| {
        config.tunnel = true;
        config.policy = vec![PolicyEntry::of_name(
            "coder.internal".parse().unwrap(),
            &[443],
            Some(address.parse().unwrap()),
        )];
    })
    .await;
    (site, echo)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_without_udp_reaches_what_policy_names() {
    let (site, _echo) = site_with_echo().await;
    let (mut agent, identity) = Agent::joined(&site).await;
    let FromRegistry::Desired(desired) = agent.hear().await else {
        panic!("no desired state")
    };
    let desired = desired.tunnel.unwrap();
    let url = desired.gateway.websocket.clone().unwrap();
    let https = site.registry.ready().https;
    assert_eq!(url.as_str(), format!("wss://{https}{TUNNEL_PATH}"));

    // The endpoint is a socket that never answers: the device finds no UDP. Then it is given the bridge.
    let black_hole = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tunnel = Tunnel::start(TunnelConfig {
        private_key: identity.wireguard_private.to_base64().parse().unwrap(),
        addresses: desired.addresses.clone(),
        peer: TunnelPeer {
            public_key: PublicKey::from(*desired.gateway.public_key.as_bytes()),
            preshared_key: None,
            endpoint: Some(black_hole.local_addr().unwrap()),
            allowed_ips: vec![AllowedIp::new("100.127.0.0".parse().unwrap(), 16).unwrap()],
            keepalive: Some(Duration::from_secs(25)),
        },
        mtu: TunnelConfig::DEFAULT_MTU,
        bind: "127.0.0.1:0".parse().unwrap(),
        tcp_stack: TcpStack::Smoltcp,
        helper: TunnelConfig::this_program(),
    })
    .unwrap();
    let data = site.data();
    let opened = std::sync::Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let bridge = Bridge::start(tunnel.local_addr().port(), move || {
        let data = data.clone();
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let socket = open_path(&data, https, None, TUNNEL_PATH, TUNNEL_SUBPROTOCOL).await;
            let messages = socket
                .with(|datagram| {
                    ready(Ok::<_, tokio_tungstenite::tungstenite::Error>(Message::Binary(
                        datagram,
                    )))
                })
                .filter_map(|message| {
                    ready(match message {
                        Ok(Message::Binary(datagram)) => Some(Ok(datagram)),
                        Ok(_) => None,
                        Err(error) => Some(Err(error)),
                    })
                });
            Ok::<_, tokio_tungstenite::tungstenite::Error>(messages)
        }
    })
    .await
    .unwrap();
    assert_eq!(tunnel.status().borrow().phase, Phase::Connecting);
    tunnel.set_endpoint(bridge.address());

    let named = desired.names.values().next().unwrap();
    let destination = SocketAddr::new(named.address, named.ports[0]);
    let mut stream = tokio::time::timeout(PATIENCE, tunnel.dialer().connect(destination))
        .await
        .unwrap()
        .unwrap();
    let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mut received = vec![0; sent.len()];
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let exchange = async {
        tokio::join!(async { writer.write_all(&sent).await.unwrap() }, async {
            reader.read_exact(&mut received).await.unwrap()
        })
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("it hangs");
    assert!(received == sent);
    assert_eq!(opened.load(Ordering::SeqCst), 1);
    // It is shown a moment after it is so.
    let mut status = tunnel.status();
    let up = status.wait_for(|status| status.phase == Phase::Up);
    tokio::time::timeout(PATIENCE, up)
        .await
        .expect("it is up")
        .unwrap();
    tunnel.shutdown().await;
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_stranger_is_answered_nothing_and_other_messages_do_no_harm() {
    let (site, _echo) = site_with_echo().await;
    let https = site.registry.ready().https;
    let mut socket = open_path(&site.data(), https, None, TUNNEL_PATH, TUNNEL_SUBPROTOCOL).await;
    let mut initiation = vec![7; 148];
    initiation[..4].copy_from_slice(&[1, 0, 0, 0]);
    for message in [
        Message::text("hello"),
        Message::binary(Vec::new()),
        Message::binary(b"neither this".to_vec()),
        Message::binary(initiation),
    ] {
        socket.send(message).await.unwrap();
    }
    let answer = tokio::time::timeout(Duration::from_millis(500), socket.next()).await;
    assert!(answer.is_err(), "{answer:?}");
    // One that is too large ends the connection.
    socket.send(Message::binary(vec![4; 4096])).await.unwrap();
    closed_with(&mut socket).await;
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_registry_without_a_tunnel_carries_nothing() {
    let site = Site::new().await;
    let https = site.registry.ready().https;
    let stream = tokio::net::TcpStream::connect(https).await.unwrap();
    let tls = tokio_rustls::TlsConnector::from(crate::agent::tls(&site.data()));
    let mut stream = tls.connect(https.ip().into(), stream).await.unwrap();
    let request = format!(
        "GET {TUNNEL_PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: {TUNNEL_SUBPROTOCOL}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 404");
    site.registry.shutdown().await;
}
