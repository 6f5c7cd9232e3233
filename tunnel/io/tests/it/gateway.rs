//! What the gateway lets whom reach, and what it answers itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use orfe_tunnel::dial::{DialError, Dialer};
use orfe_tunnel::{
    Access, Admitted, Destination, DnsPolicy, Gateway, GatewayConfig, Policy, Ports, PrivateKey, PublicKey,
    Rule, TcpStack, Tunnel, TunnelConfig, TunnelPeer, Via,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use crate::raw::{RawPeer, datagram, echo_request};
use crate::support;
use crate::support::servers::Server;
use crate::support::{Device, PATIENCE, logging, until, up};

const OWN: [&str; 2] = ["100.127.0.1", "fd00::1"];

fn own(v6: bool) -> IpAddr {
    OWN[usize::from(v6)].parse().unwrap()
}

fn start(policy: Policy) -> Gateway {
    logging();
    let config = GatewayConfig {
        private_key: PrivateKey::generate(),
        listen: "127.0.0.1:0".parse().unwrap(),
        addresses: OWN.map(|address| address.parse().unwrap()).to_vec(),
        mtu: 1420,
    };
    support::start(config, policy)
}

fn named(name: &str, last: u8, upstream: SocketAddr, tcp: Ports, udp: Ports) -> Rule {
    Rule {
        name: name.to_owned(),
        destination: Destination::Name {
            addresses: vec![
                IpAddr::from([100, 127, 1, last]),
                format!("fd00:0:0:2::{last}").parse().unwrap(),
            ],
            via: Via::Upstream(upstream.to_string().parse().unwrap()),
        },
        tcp,
        udp,
    }
}

fn admitted(peer: orfe_tunnel::GatewayPeer, rules: &[bool]) -> Admitted {
    Admitted {
        peer,
        access: Access::Rules(rules.into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_reaches_what_its_access_names_and_a_change_holds_at_once() {
    let server = Server::echo().await;
    let rules = || {
        [1, 2].map(|last| {
            named(
                &format!("name-{last}"),
                last,
                server.address,
                443.into(),
                Ports::default(),
            )
        })
    };
    let policy = || Policy::of_rules(rules(), DnsPolicy::default()).unwrap();
    let gateway = start(policy());
    let (one, two) = (Device::new(1), Device::new(2));
    gateway.admit(vec![
        admitted(one.peer(), &[true, false]),
        admitted(two.peer(), &[false, true]),
    ]);
    let tunnel = one.tunnel(&gateway, gateway.local_addr());
    up(&tunnel).await;
    let (first, second) = (
        "100.127.1.1:443".parse().unwrap(),
        "100.127.1.2:443".parse().unwrap(),
    );
    let mut stream = tunnel.dialer().dial(first).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    let error = tunnel.dialer().dial(second).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    let refused = || {
        let peers = gateway.peers();
        peers.iter().find(|peer| *peer.name == *one.name).unwrap().refused
    };
    until("the refusal is counted for it", || refused() == 1).await;

    gateway.declare(
        policy(),
        vec![
            admitted(one.peer(), &[false, true]),
            admitted(two.peer(), &[false, true]),
        ],
    );
    let cut = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1]))
        .await
        .unwrap();
    assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    tunnel.dialer().dial(second).await.map(drop).unwrap();
    let error = tunnel.dialer().dial(first).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echo_requests_are_answered_at_the_gateways_own_addresses_only() {
    let gateway = start(Policy::default());
    let mut peer = RawPeer::new(1, &gateway);
    gateway.set_peers(vec![peer.peer()]);
    for v6 in [false, true] {
        let request = echo_request(peer.addresses[usize::from(v6)], own(v6), &[5; 1000]);
        let reply_type = if v6 { 129 } else { 0 };
        let header = if v6 { 40 } else { 20 };
        let reply = peer.ask(&request, |packet| {
            (packet.len() > header && packet[header] == reply_type).then(|| packet.to_vec())
        });
        assert_eq!(reply.len(), request.len());
        assert_eq!(reply[header + 4..], request[header + 4..]);
    }
    // One that goes elsewhere is answered by nobody: the next answer is the one to the request behind it.
    let elsewhere = echo_request(peer.addresses[0], "100.127.0.2".parse().unwrap(), b"elsewhere");
    peer.tell(&elsewhere);
    let last = echo_request(peer.addresses[0], own(false), b"last");
    let answer = peer.ask(&last, |packet| Some(packet.to_vec()));
    assert!(answer.ends_with(b"last"), "{answer:02x?}");
    until("the other request is counted", || {
        gateway.peers()[0].drops.unsupported == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_pass_to_ports_that_policy_names_and_others_are_refused() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let echo = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = server.recv_from(&mut buffer).await {
            server.send_to(&buffer[..len], from).await.unwrap();
        }
    });
    let rule = named("udp.internal", 1, address, Ports::default(), 5000.into());
    let gateway = start(Policy::of_rules([rule], DnsPolicy::default()).unwrap());
    let mut peer = RawPeer::new(1, &gateway);
    gateway.admit(vec![admitted(peer.peer(), &[true])]);
    for v6 in [false, true] {
        let from = SocketAddr::new(peer.addresses[usize::from(v6)], 40_000);
        let name: IpAddr = if v6 { "fd00:0:0:2::1" } else { "100.127.1.1" }.parse().unwrap();
        let payload = [b"payload".as_slice(), &[u8::from(v6)]].concat();
        let sent = datagram(from, SocketAddr::new(name, 5000), &payload);
        peer.ask(&sent, |packet| packet.ends_with(&payload).then_some(()));

        let refused = datagram(from, SocketAddr::new(name, 5001), b"no");
        let (header, kind) = if v6 { (40, [1, 1]) } else { (20, [3, 13]) };
        peer.ask(&refused, |packet| {
            (packet[header..header + 2] == kind).then_some(())
        });
    }
    until("both are counted", || {
        let peer = &gateway.peers()[0];
        (peer.flows, peer.forwarded) == (2, 2) && peer.refused >= 2
    })
    .await;
    gateway.admit(vec![admitted(peer.peer(), &[false])]);
    until("its flows end with its access", || gateway.peers()[0].flows == 0).await;
    echo.abort();
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name.parse().unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// A resolver that knows one answer to everything.
async fn resolver() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..len]).unwrap();
            message.metadata.message_type = MessageType::Response;
            let name = message.queries[0].name.clone();
            let data = RData::from(std::net::Ipv4Addr::new(10, 9, 8, 7));
            message.add_answer(Record::from_rdata(name, 5, data));
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_answered_over_udp_and_tcp() {
    let (resolver, task) = resolver().await;
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let rule = |name, last| named(name, last, nowhere, 443.into(), Ports::default());
    let dns = DnsPolicy {
        suffixes: vec!["svc.cluster.local".to_owned()],
        resolver: Some(resolver),
    };
    let rules = [rule("coder.internal", 1), rule("hidden.internal", 2)];
    let gateway = start(Policy::of_rules(rules, dns).unwrap());
    let mut peer = RawPeer::new(1, &gateway);
    let device = Device::new(1);
    gateway.admit(vec![
        admitted(peer.peer(), &[true]),
        admitted(device.peer(), &[true]),
    ]);
    let from = SocketAddr::new(peer.addresses[0], 40_000);
    let at = SocketAddr::new(own(false), 53);
    for (id, name, expected) in [
        (1, "coder.internal.", Ok("100.127.1.1")),
        (2, "hidden.internal.", Err(ResponseCode::NXDomain)),
        (3, "example.com.", Err(ResponseCode::Refused)),
        (4, "a.svc.cluster.local.", Ok("10.9.8.7")),
    ] {
        let answer = peer.ask(&datagram(from, at, &question(id, name)), |packet| {
            let message = Message::from_vec(packet.get(28..)?).ok()?;
            (message.metadata.id == id).then_some(message)
        });
        match expected {
            Ok(address) => assert_eq!(answer.answers[0].data.to_string(), address, "{name}"),
            Err(code) => assert_eq!(answer.metadata.response_code, code, "{name}"),
        }
    }

    let tunnel = device.tunnel(&gateway, gateway.local_addr());
    up(&tunnel).await;
    let mut stream = tunnel.dialer().dial(at).await.unwrap();
    for id in [5, 6] {
        let asked = question(id, "coder.internal.");
        let framed = [&u16::try_from(asked.len()).unwrap().to_be_bytes()[..], &asked].concat();
        stream.write_all(&framed).await.unwrap();
        let exchange = async {
            let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut answer).await.unwrap();
            answer
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), exchange)
            .await
            .unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id, id);
        assert_eq!(answer.answers[0].data.to_string(), "100.127.1.1");
    }
    task.abort();
}

/// The end of a device that knows the gateway by another key than the one it was started with.
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
async fn both_keys_are_good_while_they_change() {
    let server = Server::echo().await;
    let rule = named("name", 1, server.address, 443.into(), Ports::default());
    let old = PrivateKey::generate();
    let config = GatewayConfig {
        private_key: old.clone(),
        listen: "127.0.0.1:0".parse().unwrap(),
        addresses: OWN.map(|address| address.parse().unwrap()).to_vec(),
        mtu: 1420,
    };
    let gateway = support::start(config, Policy::of_rules([rule], DnsPolicy::default()).unwrap());
    let (stays, moves) = (Device::new(1), Device::new(2));
    let admitted = || vec![admitted(stays.peer(), &[true]), admitted(moves.peer(), &[true])];
    gateway.admit(admitted());
    let at = "100.127.1.1:443".parse().unwrap();
    let staying = stays.tunnel(&gateway, gateway.local_addr());
    let moving = moves.tunnel(&gateway, gateway.local_addr());
    up(&staying).await;
    up(&moving).await;
    let mut stream = staying.dialer().dial(at).await.unwrap();
    moving.dialer().dial(at).await.map(drop).unwrap();
    moving.shutdown().await;

    let new = PrivateKey::generate();
    gateway.set_keys(new.clone(), Some(old.clone()), admitted());
    let moved = tunnel_to_key(&moves, &gateway, new.public_key());
    up(&moved).await;
    let mut moved_stream = moved.dialer().dial(at).await.unwrap();
    for stream in [&mut stream, &mut moved_stream] {
        stream.write_all(b"ping").await.unwrap();
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut [0; 4]))
            .await
            .unwrap()
            .unwrap();
    }
    // A handshake on the old key is answered, too.
    staying.rehandshake();
    staying.dialer().dial(at).await.map(drop).unwrap();
    let key_of = |name: &str| {
        let peers = gateway.peers();
        peers.iter().find(|peer| &*peer.name == name).unwrap().gateway_key
    };
    until("each is at its key", || {
        key_of(&stays.name) == old.public_key() && key_of(&moves.name) == new.public_key()
    })
    .await;

    gateway.set_keys(new, None, admitted());
    moved_stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    let answered = tokio::time::timeout(PATIENCE, moved_stream.read_exact(&mut answer));
    answered.await.unwrap().unwrap();
    moved.dialer().dial(at).await.map(drop).unwrap();
    let dialer = staying.dialer().with_timeout(Duration::from_secs(1));
    assert!(dialer.dial(at).await.is_err(), "the old key is good no more");
}
