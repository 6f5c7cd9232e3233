//! UDP ASSOCIATE over real sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use orfe_tunnel::dial::{BoxFuture, BoxedDatagrams, BoxedStream, Datagrams, DialError, Dialer};
use orfe_tunnel::proxy::{CloseReason, Event, Filter, Limits, Route, Transport, TunnelWanted};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};

use super::rig::{
    CREDENTIAL, INNER, NAME, Rig, ending, loopback, rest, routes, socks_address, socks_login, socks_reply,
    socks_request, until, within,
};

/// A tunnel for datagrams that ends at one loopback server, whatever the inner port.
struct LoopbackDatagrams {
    server: SocketAddr,
}

struct Inside {
    socket: UdpSocket,
    server: SocketAddr,
    inner: SocketAddr,
}

impl Dialer for LoopbackDatagrams {
    fn dial(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedStream, DialError>> {
        Box::pin(async move { Err(DialError::Refused { destination }) })
    }

    fn bind_datagrams(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedDatagrams, DialError>> {
        Box::pin(async move {
            let socket = UdpSocket::bind(loopback()).await;
            let socket = socket.map_err(|source| DialError::Io { destination, source })?;
            let inside = Inside {
                socket,
                server: self.server,
                inner: destination,
            };
            Ok(Box::new(inside) as BoxedDatagrams)
        })
    }
}

impl Datagrams for Inside {
    fn send_to<'a>(&'a self, payload: &'a [u8], _: SocketAddr) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.socket.send_to(payload, self.server).await.map(|_| ()) })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let (length, from) = self.socket.recv_from(buffer).await?;
            // What another socket than the server sends keeps its own address.
            Ok((length, if from == self.server { self.inner } else { from }))
        })
    }
}

/// A client with an association.
struct Client {
    tcp: TcpStream,
    udp: UdpSocket,
    relay: SocketAddr,
}

impl Client {
    async fn associate(rig: &Rig, named: impl Fn(SocketAddr) -> String) -> Self {
        let mut tcp = rig.client().await;
        socks_login(&mut tcp, CREDENTIAL).await.expect("let in");
        let udp = UdpSocket::bind(loopback()).await.expect("bind");
        let request = socks_request(3, &named(udp.local_addr().expect("address")));
        tcp.write_all(&request).await.expect("write");
        let (code, relay) = socks_reply(&mut tcp).await;
        assert_eq!(code, 0);
        assert!(relay.ip().is_loopback() && relay.port() != 0);
        Self { tcp, udp, relay }
    }

    async fn start(rig: &Rig) -> Self {
        Self::associate(rig, |_| "0.0.0.0:0".to_owned()).await
    }

    async fn send(&self, target: &str, payload: &[u8]) {
        let datagram = datagram(0, target, payload);
        self.udp.send_to(&datagram, self.relay).await.expect("send");
    }

    /// Source and payload of the next answer.
    async fn receive(&self) -> (Vec<u8>, Vec<u8>) {
        let mut buffer = vec![0; 70_000];
        let (length, from) = within(self.udp.recv_from(&mut buffer)).await.expect("receive");
        assert_eq!(from, self.relay);
        assert_eq!(buffer[..3], [0, 0, 0]);
        assert_eq!(buffer[3], 1, "IPv4");
        (buffer[3..10].to_vec(), buffer[10..length].to_vec())
    }
}

fn datagram(fragment: u8, target: &str, payload: &[u8]) -> Vec<u8> {
    [vec![0, 0, fragment], socks_address(target), payload.to_vec()].concat()
}

/// A rig whose policy lets datagrams to port 53 of [`NAME`] through, and a server in the place of that.
async fn rig() -> (Rig, UdpSocket) {
    let server = UdpSocket::bind(loopback()).await.expect("bind");
    let mut table = routes(TunnelWanted::Wanted);
    table.allow_datagrams(NAME, [53]);
    let rig = Rig::with(Limits::default(), table).await;
    let dialer = LoopbackDatagrams {
        server: server.local_addr().expect("address"),
    };
    rig.dialer.send_replace(Some(Arc::new(dialer)));
    (rig, server)
}

async fn receive(server: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 70_000];
    let (length, from) = within(server.recv_from(&mut buffer)).await.expect("receive");
    (buffer[..length].to_vec(), from)
}

#[tokio::test]
async fn datagrams_to_a_policy_name_go_through_the_tunnel_and_back() {
    let (mut rig, server) = rig().await;
    let client = Client::start(&rig).await;
    client.send("CODER.demo.internal:53", b"query").await;
    let (query, from) = receive(&server).await;
    assert_eq!(query, b"query");
    server.send_to(b"answer", from).await.expect("send");
    let inner = SocketAddr::from((INNER, 53)).to_string();
    assert_eq!(
        client.receive().await,
        (socks_address(&inner), b"answer".to_vec())
    );

    let opened = rig.event().await;
    assert!(
        matches!(
            opened,
            Event::Opened {
                route: Route::Tunnel,
                ..
            }
        ),
        "{opened:?}"
    );
    let live = rig.proxy.connections().remove(0);
    assert_eq!(live.transport, Transport::Udp);
    assert_eq!((live.bytes_up, live.bytes_down, live.established), (5, 6, true));
    assert_eq!(
        rig.proxy.table().established(&live.target),
        0,
        "datagrams are no connection"
    );

    // A large one, and another spelling of the same place.
    let large = vec![7; 9000];
    client.send(&inner, &large).await;
    assert_eq!(receive(&server).await.0, large);
    drop(client);
    rig.until_empty().await;
}

#[tokio::test]
async fn what_is_not_to_pass_is_dropped() {
    let (rig, server) = rig().await;
    let outside = UdpSocket::bind(loopback()).await.expect("bind");
    let client = Client::start(&rig).await;
    for dropped in [
        // Not in policy, this machine itself, fragments, no header, no port.
        datagram(0, "coder.demo.internal:54", b"x"),
        datagram(0, &outside.local_addr().expect("address").to_string(), b"x"),
        datagram(0, "localhost:53", b"x"),
        datagram(1, "coder.demo.internal:53", b"x"),
        datagram(0x81, "coder.demo.internal:53", b"x"),
        datagram(0, "coder.demo.internal:0", b"x"),
        vec![0, 0, 0],
        vec![],
    ] {
        client.udp.send_to(&dropped, client.relay).await.expect("send");
    }
    // Datagrams on loopback keep their order, so what arrives first tells that nothing came before.
    client.send("coder.demo.internal:53", b"first").await;
    assert_eq!(receive(&server).await.0, b"first");
    assert_eq!(
        outside.try_recv(&mut [0; 8]).map_err(|error| error.kind()),
        Err(io::ErrorKind::WouldBlock)
    );
}

#[tokio::test]
async fn nobody_else_uses_an_association() {
    let (rig, server) = rig().await;
    let stranger = UdpSocket::bind(loopback()).await.expect("bind");
    let query = datagram(0, "coder.demo.internal:53", b"stranger");
    // One that named its port is safe from the first moment, one that did not from its first datagram.
    let named = Client::associate(&rig, |own| own.to_string()).await;
    stranger.send_to(&query, named.relay).await.expect("send");
    named.send("coder.demo.internal:53", b"named").await;
    assert_eq!(receive(&server).await.0, b"named");

    let client = Client::start(&rig).await;
    client.send("coder.demo.internal:53", b"one").await;
    let (_, from) = receive(&server).await;
    stranger.send_to(&query, client.relay).await.expect("send");
    client.send("coder.demo.internal:53", b"two").await;
    assert_eq!(receive(&server).await.0, b"two");
    // From outside only those are heard that were sent to.
    stranger.send_to(b"uninvited", from).await.expect("send");
    server.send_to(b"invited", from).await.expect("send");
    assert_eq!(client.receive().await.1, b"invited");
}

#[tokio::test]
async fn without_a_tunnel_policys_own_ports_are_reached_directly() {
    let server = UdpSocket::bind(loopback()).await.expect("bind");
    let port = server.local_addr().expect("address").port();
    let mut table = routes(TunnelWanted::Off);
    table.add_name("localhost", INNER.into(), [port]).expect("name");
    table.allow_datagrams("localhost", [port]);
    let mut rig = Rig::with(Limits::default(), table).await;
    let client = Client::start(&rig).await;
    // By IPv4, which is what the server has: localhost may be [::1] first, and UDP tells nobody.
    client.send(&format!("localhost:{port}"), b"direct").await;
    let opened = rig.event().await;
    assert!(
        matches!(
            opened,
            Event::Opened {
                route: Route::Direct,
                ..
            }
        ),
        "{opened:?}"
    );
}

#[tokio::test]
async fn it_ends_with_its_connection_and_a_cut_ends_it() {
    let (mut rig, server) = rig().await;
    let mut client = Client::start(&rig).await;
    client.send("coder.demo.internal:53", b"query").await;
    receive(&server).await;
    client.tcp.shutdown().await.expect("end");
    assert_eq!(rest(&mut client.tcp).await, "");
    rig.until_empty().await;

    let mut client = Client::start(&rig).await;
    client.send("coder.demo.internal:53", b"query").await;
    receive(&server).await;
    until(|| rig.proxy.connections().len() == 1).await;
    assert_eq!(rig.proxy.cut(&Filter::All), 1);
    ending(&mut client.tcp).await;
    rig.closed().await;
    let closed = rig.closed().await;
    assert!(
        matches!(
            closed,
            Event::Closed {
                reason: CloseReason::Cut,
                ..
            }
        ),
        "{closed:?}"
    );
}

#[tokio::test]
async fn there_are_so_many_and_no_more() {
    let limits = Limits {
        associations: 1,
        ..Limits::default()
    };
    let rig = Rig::with(limits, routes(TunnelWanted::Wanted)).await;
    let first = Client::start(&rig).await;
    let mut second = rig.client().await;
    socks_login(&mut second, CREDENTIAL).await.expect("let in");
    let request = socks_request(3, "0.0.0.0:0");
    second.write_all(&request).await.expect("write");
    assert_eq!(socks_reply(&mut second).await.0, 1);
    drop(first);
}

#[tokio::test]
async fn a_tunnel_that_comes_up_later_is_used() {
    let (rig, server) = rig().await;
    let client = Client::start(&rig).await;
    rig.dialer.send_replace(None);
    // Lost where the tunnel is still down when it is read: datagrams are not held.
    client.send("coder.demo.internal:53", b"early").await;
    let dialer = LoopbackDatagrams {
        server: server.local_addr().expect("address"),
    };
    rig.dialer.send_replace(Some(Arc::new(dialer)));
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
    let mut buffer = [0; 16];
    let arrived = within(async {
        loop {
            tokio::select! {
                received = server.recv_from(&mut buffer) => break received.expect("receive").0,
                _ = ticks.tick() => client.send("coder.demo.internal:53", b"again").await,
            }
        }
    })
    .await;
    assert!(matches!(&buffer[..arrived], b"early" | b"again"));
}
