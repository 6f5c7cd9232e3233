//! A gateway of several threads.

use std::num::NonZeroU8;
use std::time::Duration;

use orfe_tunnel::dial::Dialer as _;
use orfe_tunnel::{
    Access, Admitted, Gateway, GatewayConfig, PrivateKey, PublicKey, Shards, TcpStack, Tunnel, TunnelConfig,
    TunnelPeer,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::support;
use crate::support::relay::Relay;
use crate::support::servers::Server;
use crate::support::{Device, PATIENCE, inner, logging, policy, until, up};

/// Four threads with the kernel's filter, and without: then most datagrams come to the wrong thread.
fn both_ways() -> [Shards; 2] {
    let four = Shards::new(NonZeroU8::new(4).unwrap());
    [four, four.without_steering()]
}

/// A gateway of four threads, or `None` where there can be only one, which is said.
fn start(key: &PrivateKey, server: &Server, shards: Shards) -> Option<Gateway> {
    logging();
    let config = GatewayConfig {
        private_key: key.clone(),
        listen: "127.0.0.1:0".parse().unwrap(),
        addresses: vec!["100.64.0.1".parse().unwrap()],
        mtu: 1280,
    };
    let gateway = support::start_sharded(config, policy(&[(443, server.address)]), shards);
    if gateway.shards() == 1 {
        eprintln!("SKIPPED: a gateway of several threads: the system spreads no datagrams over sockets");
        return None;
    }
    assert_eq!(gateway.shards(), 4);
    Some(gateway)
}

/// At least one device for each of the four threads, and some threads with several.
fn devices() -> Vec<Device> {
    let mut devices = Vec::new();
    let mut of_shard = [0; 4];
    while of_shard.contains(&0) || devices.len() < 8 {
        let device = Device::new(u8::try_from(devices.len() + 1).unwrap());
        let [a, b, c, d, ..] = *device.key.public_key().as_bytes();
        of_shard[u32::from_le_bytes([a, b, c, d]) as usize % 4] += 1;
        devices.push(device);
    }
    devices
}

fn admitted<'a>(devices: impl IntoIterator<Item = &'a Device>) -> Vec<Admitted> {
    let admit = |device: &Device| Admitted {
        peer: device.peer(),
        access: Access::Everything,
    };
    devices.into_iter().map(admit).collect()
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), what: &[u8]) {
    let mut answer = vec![0; what.len()];
    let both = async {
        stream.write_all(what).await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, both).await.expect("no answer");
    assert_eq!(answer, what);
}

fn tunnel_to_key(device: &Device, gateway: &Gateway, public_key: PublicKey) -> Tunnel {
    let peer = TunnelPeer {
        public_key,
        preshared_key: None,
        endpoint: Some(gateway.local_addr()),
        allowed_ips: vec!["100.127.0.0/16".parse().unwrap()],
        keepalive: Some(Duration::from_secs(25)),
    };
    let config = TunnelConfig {
        private_key: device.key.clone(),
        addresses: vec![device.address],
        peer,
        mtu: TunnelConfig::DEFAULT_MTU,
        bind: "127.0.0.1:0".parse().unwrap(),
        tcp_stack: TcpStack::Smoltcp,
        helper: TunnelConfig::this_program(),
    };
    Tunnel::start(config).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_all_threads_connect_from_wherever_and_are_counted_together() {
    let server = Server::echo().await;
    for shards in both_ways() {
        let Some(gateway) = start(&PrivateKey::generate(), &server, shards) else {
            return;
        };
        let devices = devices();
        gateway.admit(admitted(&devices));
        until("all are shown", || gateway.peers().len() == devices.len()).await;
        let mut held = Vec::new();
        for device in &devices {
            let tunnel = device.tunnel(&gateway, gateway.local_addr());
            up(&tunnel).await;
            let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
            exchange(&mut stream, &vec![7; 50_000]).await;
            held.push((tunnel, stream));
        }
        until("all are counted", || {
            let peers = gateway.peers();
            let is_counted = |device: &Device| {
                let key = device.key.public_key();
                let peer = gateway.view().peer(&key).unwrap();
                peer.connections == 1 && peer.forwarded == 1 && peer.rx_bytes > 50_000
            };
            peers.len() == devices.len()
                && devices.iter().all(is_counted)
                && gateway.stats().connections == devices.len()
        })
        .await;
        gateway.shutdown().await;
        for (_, stream) in &mut held {
            let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
            assert!(end.expect("it ends").is_err(), "every thread resets what it held");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roam_under_load_keeps_the_connection() {
    let server = Server::echo().await;
    for shards in both_ways() {
        let Some(gateway) = start(&PrivateKey::generate(), &server, shards) else {
            return;
        };
        let device = Device::new(1);
        gateway.admit(admitted([&device]));
        // Each relay has an address of its own, and so a socket of its own if the kernel picks by address.
        let mut relays = Vec::new();
        for _ in 0..6 {
            relays.push(Relay::new(gateway.local_addr()).await);
        }
        let tunnel = device.tunnel(&gateway, relays[0].address);
        up(&tunnel).await;
        let stream = tunnel.dialer().dial(inner(443)).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..2_000_000_u32).map(|number| (number / 7) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut received = vec![0; expected.len()];
        let part = expected.len() / relays.len();
        let transfer = async {
            for (relay, part) in relays.iter().zip(received.chunks_mut(part)) {
                tunnel.set_endpoint(relay.address);
                read.read_exact(part).await.unwrap();
            }
            let rest = &mut received[part * relays.len()..];
            read.read_exact(rest).await.unwrap();
            writing.await.unwrap();
        };
        tokio::time::timeout(2 * PATIENCE, transfer)
            .await
            .expect("too slow");
        assert!(received == expected, "what came back is what was sent");
        // Which of the later ones carried something depends on how much waits on the way.
        let carried = relays.iter().filter(|relay| relay.counts().0 > 0).count();
        assert!(carried > 1, "more than one relay carried a part");
        // Counters are shown a moment later than what they count.
        until("the connection is counted", || gateway.peers()[0].forwarded > 0).await;
        assert_eq!(
            gateway.peers()[0].forwarded,
            1,
            "it is one connection all the time"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_come_and_go_without_touching_those_of_any_thread() {
    let server = Server::echo().await;
    for shards in both_ways() {
        let Some(gateway) = start(&PrivateKey::generate(), &server, shards) else {
            return;
        };
        let devices = devices();
        gateway.admit(admitted(&devices));
        let mut held = Vec::new();
        for device in &devices {
            let tunnel = device.tunnel(&gateway, gateway.local_addr());
            up(&tunnel).await;
            let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
            exchange(&mut stream, b"before").await;
            held.push((tunnel, stream));
        }
        let kept: Vec<&Device> = devices.iter().step_by(2).collect();
        gateway.admit(admitted(kept.iter().copied()));
        until("only those are shown", || gateway.peers().len() == kept.len()).await;
        until("the others' connections are gone", || {
            gateway.stats().connections == kept.len()
        })
        .await;
        for (tunnel, stream) in held.iter_mut().step_by(2) {
            exchange(stream, b"after").await;
            tunnel.dialer().dial(inner(443)).await.map(drop).unwrap();
        }
        for (tunnel, _) in held.iter().skip(1).step_by(2) {
            let dialer = tunnel.dialer().with_timeout(Duration::from_millis(100));
            assert!(dialer.dial(inner(443)).await.is_err(), "it was removed");
        }

        // A policy that leads elsewhere cuts the connections of all threads.
        gateway.set_policy(policy(&[]));
        for (_, stream) in held.iter_mut().step_by(2) {
            let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
            let kind = end.expect("it is cut").unwrap_err().kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_belongs_to_one_peer_of_all_threads() {
    let server = Server::echo().await;
    let [shards, _] = both_ways();
    let Some(gateway) = start(&PrivateKey::generate(), &server, shards) else {
        return;
    };
    let devices = devices();
    gateway.admit(admitted(&devices));
    let (first, rest) = devices.split_first().unwrap();
    let tunnel = first.tunnel(&gateway, gateway.local_addr());
    up(&tunnel).await;
    tunnel.dialer().dial(inner(443)).await.map(drop).unwrap();
    // Every other device, whichever its thread, takes the first one's address in turn: the latter of two has it.
    for thief in rest {
        let mut peers = admitted([first, thief]);
        peers[1].peer.allowed_ips = peers[0].peer.allowed_ips.clone();
        gateway.admit(peers);
        let dialer = tunnel.dialer().with_timeout(Duration::from_millis(50));
        assert!(dialer.dial(inner(443)).await.is_err(), "it is another's now");
        until("what it sends is dropped as spoofed", || {
            let peer = gateway.view().peer(&first.key.public_key());
            peer.is_some_and(|peer| peer.drops.spoofed_source > 0)
        })
        .await;
    }
    gateway.admit(admitted([first]));
    tunnel.dialer().dial(inner(443)).await.map(drop).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_keys_are_good_at_all_threads_while_they_change() {
    let server = Server::echo().await;
    for shards in both_ways() {
        let old = PrivateKey::generate();
        let Some(gateway) = start(&old, &server, shards) else {
            return;
        };
        let devices = devices();
        gateway.admit(admitted(&devices));
        let mut staying = Vec::new();
        for device in devices.iter().step_by(2) {
            let tunnel = device.tunnel(&gateway, gateway.local_addr());
            up(&tunnel).await;
            let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
            exchange(&mut stream, b"old").await;
            staying.push((tunnel, stream));
        }
        let new = PrivateKey::generate();
        gateway.set_keys(new.clone(), Some(old.clone()), admitted(&devices));
        let mut moved = Vec::new();
        for device in devices.iter().skip(1).step_by(2) {
            let tunnel = tunnel_to_key(device, &gateway, new.public_key());
            up(&tunnel).await;
            let mut stream = tunnel.dialer().dial(inner(443)).await.unwrap();
            exchange(&mut stream, b"new").await;
            moved.push((tunnel, stream));
        }
        for (tunnel, stream) in &mut staying {
            tunnel.rehandshake();
            exchange(stream, b"still the old").await;
        }
        gateway.set_keys(new, None, admitted(&devices));
        for (tunnel, stream) in &mut moved {
            exchange(stream, b"the only one").await;
            tunnel.dialer().dial(inner(443)).await.map(drop).unwrap();
        }
        for (tunnel, _) in &staying {
            let dialer = tunnel.dialer().with_timeout(Duration::from_millis(100));
            assert!(
                dialer.dial(inner(443)).await.is_err(),
                "the old key is good no more"
            );
        }
    }
}
