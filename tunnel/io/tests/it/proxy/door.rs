//! The door for workspace containers and the forwarder before it, by each way that there is between the two.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use orfe_tunnel::forwarder::{Agent, Forwarder, ForwarderConfig, Listen};
use orfe_tunnel::proxy::{Door, DoorError, Limits, Outlet, Place, Routes, TunnelWanted};
use secrecy::SecretString;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[cfg(target_os = "linux")]
use super::rig::may_open;
use super::rig::{
    CREDENTIAL, INNER, LoopbackDialer, NAME, Rig, Server, connect_request, ending, loopback, read_head, rest,
    within,
};

fn outlet(rig: &Rig) -> Outlet {
    let limits = Limits {
        head: Duration::from_millis(300),
        ..Limits::default()
    };
    outlet_with(rig, limits)
}

fn outlet_with(rig: &Rig, limits: Limits) -> Outlet {
    Outlet::new(limits, rig.routes.subscribe(), rig.dialer.subscribe())
}

async fn door(rig: &Rig) -> (Door, SocketAddr) {
    door_to(outlet(rig)).await
}

async fn door_to(outlet: Outlet) -> (Door, SocketAddr) {
    let credential = SecretString::from(CREDENTIAL);
    let opened = Door::at_port(&Place::Loopback, 0, &credential, outlet).await;
    let (door, port) = opened.expect("opened");
    (door, SocketAddr::new(loopback().ip(), port))
}

/// What the door answers, and how it ends.
async fn said(door: SocketAddr, request: &[u8]) -> (String, Option<std::io::ErrorKind>) {
    use tokio::io::AsyncReadExt as _;
    let mut client = TcpStream::connect(door).await.expect("connect");
    client.write_all(request).await.expect("write");
    let mut answer = Vec::new();
    let ended = within(client.read_to_end(&mut answer)).await;
    (
        String::from_utf8_lossy(&answer).into_owned(),
        ended.err().map(|error| error.kind()),
    )
}

#[tokio::test]
async fn a_port_serves_who_has_the_credential_and_says_not_one_byte_to_anybody_else() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let (door, address) = door(&rig).await;

    let mut client = TcpStream::connect(address).await.expect("connect");
    let request = connect_request("coder.demo.internal:443");
    client.write_all(request.as_bytes()).await.expect("write");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client.write_all(b"hello").await.expect("write");
    client.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut client).await, "hello");

    // Known, and told what is wrong: no name, no port, no method of the policy's or the door's.
    for (request, status) in [
        (connect_request("elsewhere.example.com:443"), "502"),
        (connect_request("coder.demo.internal:22"), "502"),
        (connect_request("100.127.0.1:443"), "502"),
        (connect_request("127.0.0.1:443"), "502"),
        (
            connect_request("coder.demo.internal:443").replace("CONNECT ", "GET http://"),
            "400",
        ),
    ] {
        let (answer, _) = said(address, request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }

    let stranger = "CONNECT coder.demo.internal:443 HTTP/1.1\r\nHost: coder.demo.internal:443\r\n";
    for request in [
        format!("{stranger}\r\n"),
        // One character less, one more, another scheme, another user.
        format!("{stranger}Proxy-Authorization: Basic b3JmZTphbi1leGFtcGxlLWNyZWRlbnRpYQ==\r\n\r\n"),
        format!("{stranger}Proxy-Authorization: Basic b3JmZTphbi1leGFtcGxlLWNyZWRlbnRpYWx4\r\n\r\n"),
        format!("{stranger}Proxy-Authorization: Bearer b3JmZTphbi1leGFtcGxlLWNyZWRlbnRpYWw=\r\n\r\n"),
        format!("{stranger}Authorization: Basic b3JmZTphbi1leGFtcGxlLWNyZWRlbnRpYWw=\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00".to_owned(),
        "\x05\x01\x00".to_owned(),
        "G".repeat(70_000),
        // Cut short, or slow: the head never ends.
        "CONNECT coder".to_owned(),
    ] {
        let (answer, _) = said(address, request.as_bytes()).await;
        assert_eq!(answer, "", "{}", &request[..request.len().min(99)]);
    }
    door.shutdown().await;
    assert!(TcpStream::connect(address).await.is_err(), "the port stayed open");
}

/// Whoever reaches the port may be there and say nothing, or stop in the middle of it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_silent_strangers_do_not_stand_in_the_way_of_the_credential() {
    const SILENT: usize = 2000;
    if !may_open(2 * SILENT) {
        return;
    }
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    // No head comes in time for this to matter.
    let limits = Limits {
        head: Duration::from_secs(600),
        ..Limits::default()
    };
    let (_door, address) = door_to(outlet_with(&rig, limits)).await;
    let request = connect_request("coder.demo.internal:443");
    let mut silent = Vec::with_capacity(SILENT);
    for number in 0..SILENT {
        let mut client = within(TcpStream::connect(address)).await.expect("connect");
        if number % 2 == 1 {
            // Who was pushed out already cannot write.
            let _ = client.write_all(&request.as_bytes()[..20]).await;
        }
        silent.push(client);
    }
    let mut client = within(TcpStream::connect(address)).await.expect("connect");
    client.write_all(request.as_bytes()).await.expect("write");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(rest(&mut silent[0]).await, "", "the oldest goes without a word");
    client.write_all(b"hello").await.expect("write");
    client.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut client).await, "hello");
}

#[tokio::test]
async fn the_places_behind_a_port_are_taken_by_the_credential_alone() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let limits = Limits {
        lobby: 1,
        connections: 1,
        ..Limits::default()
    };
    let (_door, address) = door_to(outlet_with(&rig, limits)).await;
    let request = connect_request("coder.demo.internal:443");
    let stranger = b"CONNECT coder.demo.internal:443 HTTP/1.1\r\nHost: coder.demo.internal:443\r\n\r\n";
    assert_eq!(said(address, stranger).await.0, "");
    let mut served = TcpStream::connect(address).await.expect("connect");
    served.write_all(request.as_bytes()).await.expect("write");
    let head = read_head(&mut served).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    // One too many is told so, if it is known.
    let (answer, _) = said(address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(said(address, stranger).await.0, "");
    served.write_all(b"hello").await.expect("write");
    served.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut served).await, "hello");
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_credential_that_is_none_are_told() {
    let rig = Rig::start().await;
    let (_door, address) = door(&rig).await;
    let credential = SecretString::from(CREDENTIAL);
    let taken = Door::at_port(&Place::Loopback, address.port(), &credential, outlet(&rig)).await;
    assert!(matches!(taken, Err(DoorError::Port { .. })), "{taken:?}");
    for weak in ["", "short", "with a space in it, but long"] {
        let weak = SecretString::from(weak);
        let opened = Door::at_port(&Place::Loopback, 0, &weak, outlet(&rig)).await;
        assert!(matches!(opened, Err(DoorError::Credential)), "{opened:?}");
    }
}

/// A client from another loopback address than the usual one.
async fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind(SocketAddr::from((source, 0))).expect("bind");
    within(socket.connect(to)).await.expect("connect")
}

/// A forwarder with one port, which policy names and which leads to `server`.
async fn forwarder(
    rig: &Rig,
    server: SocketAddr,
    agent: Agent,
) -> (SocketAddr, JoinHandle<()>, CancellationToken) {
    let forwarder = Forwarder::bind(ForwarderConfig {
        listen: Listen::Everywhere,
        ports: vec![0],
        agent,
        from: vec!["127.0.0.0/8".parse().expect("network")],
        except: vec!["127.0.0.9".parse().expect("address")],
    });
    let forwarder = forwarder.await.expect("listens");
    let port = forwarder.ports().next().expect("one port");
    let mut routes = Routes::new(TunnelWanted::Wanted);
    routes.add_name(NAME, INNER.into(), [port]).expect("name");
    rig.routes.send_replace(Arc::new(routes));
    let inner = SocketAddr::from((INNER, port));
    rig.dialer
        .send_replace(Some(LoopbackDialer::between([(inner, server)])));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(forwarder.serve(stop.clone()));
    (SocketAddr::new(loopback().ip(), port), serving, stop)
}

#[tokio::test]
async fn a_forwarder_reaches_the_agent_by_socket_by_port_and_in_its_own_process() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("door.sock");
    let _at_socket = Door::at_socket(&path, outlet(&rig)).expect("opened");
    let (_at_port, address) = door(&rig).await;
    let port = |credential: &str| Agent::Port {
        host: "localhost".to_owned(),
        port: address.port(),
        credential: credential.to_owned().into(),
    };
    for agent in [Agent::Socket(path), port(CREDENTIAL), Agent::Here(outlet(&rig))] {
        let way = format!("{agent:?}");
        assert!(!way.contains(CREDENTIAL), "{way}");
        let (address, serving, stop) = forwarder(&rig, server.address, agent).await;
        let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}:{}\r\n\r\n", address.port());

        let mut client = TcpStream::connect(address).await.expect("connect");
        client.write_all(request(NAME).as_bytes()).await.expect("write");
        client.write_all(b" and more").await.expect("write");
        client.shutdown().await.expect("half-close");
        assert_eq!(
            rest(&mut client).await,
            format!("{} and more", request(NAME)),
            "{way}"
        );

        // Plain HTTP is told; bytes that are neither TLS nor HTTP end in a reset.
        let (answer, _) = said(address, request("elsewhere.example.com").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{way}: {answer}");
        assert!(
            answer.ends_with("no name and port of the policy\n"),
            "{way}: {answer}"
        );
        let (answer, ended) = said(address, b"\x05\x01\x00").await;
        assert_eq!(
            (answer.as_str(), ended),
            ("", Some(std::io::ErrorKind::ConnectionReset)),
            "{way}"
        );
        // Who comes from an address that is no container's.
        let mut outsider = connect_from([127, 0, 0, 9], address).await;
        assert_eq!(
            ending(&mut outsider).await,
            Some(std::io::ErrorKind::ConnectionReset),
            "{way}"
        );

        // A connection that is open ends with the forwarder.
        let mut open = TcpStream::connect(address).await.expect("connect");
        open.write_all(request(NAME).as_bytes()).await.expect("write");
        assert_eq!(read_head(&mut open).await, request(NAME));
        stop.cancel();
        within(serving).await.expect("ended");
        // With a reset where the kernel still holds bytes for it.
        ending(&mut open).await;
    }
    // With another credential nothing is answered, and the client is reset.
    let (address, _serving, _stop) = forwarder(&rig, server.address, port("another-credential")).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    let (answer, ended) = said(address, request.as_bytes()).await;
    assert_eq!(
        (answer.as_str(), ended),
        ("", Some(std::io::ErrorKind::ConnectionReset))
    );
}

/// One container must not lock out the others, whatever it does.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_with_more_connections_than_there_are_places_leaves_some_to_another() {
    const SILENT: usize = 1500;
    if !may_open(2 * SILENT) {
        return;
    }
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let (address, _serving, _stop) = forwarder(&rig, server.address, Agent::Here(outlet(&rig))).await;
    let mut silent = Vec::with_capacity(SILENT);
    for _ in 0..SILENT {
        // The reset of one that is too many may be here before the connection is.
        silent.extend(within(TcpStream::connect(address)).await);
    }
    let mut other = connect_from([127, 0, 0, 2], address).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}:{}\r\n\r\n", address.port());
    other.write_all(request.as_bytes()).await.expect("write");
    assert_eq!(read_head(&mut other).await, request);
    if let Ok(mut beyond) = within(TcpStream::connect(address)).await {
        assert_eq!(
            ending(&mut beyond).await,
            Some(std::io::ErrorKind::ConnectionReset)
        );
    }
    drop(silent);
}
