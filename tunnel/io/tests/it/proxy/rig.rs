//! A proxy with its surroundings, and clients that speak raw HTTP to it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orfe_tunnel::dial::{BoxFuture, BoxedStream, DialError, Dialer};
use orfe_tunnel::proxy::{Event, Limits, Proxy, ProxyConfig, Routes, TunnelWanted};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

pub(crate) const CREDENTIAL: &str = "an-example-credential";
/// `orfe:an-example-credential`
pub(crate) const AUTHORIZATION: &str = "Proxy-Authorization: Basic b3JmZTphbi1leGFtcGxlLWNyZWRlbnRpYWw=\r\n";
/// The name that policy holds, and its inner address.
pub(crate) const NAME: &str = "coder.demo.internal";
pub(crate) const INNER: [u8; 4] = [100, 127, 0, 1];
/// Far longer than anything here takes; a wait that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The two ways to ask one port for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    Http,
    Socks,
}

impl Front {
    pub(crate) const BOTH: [Self; 2] = [Self::Http, Self::Socks];
}

/// Waits, but not for ever.
#[track_caller]
pub(crate) fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        let output = tokio::time::timeout(PATIENCE, future).await;
        output.unwrap_or_else(|_| panic!("nothing happened within {PATIENCE:?} at {caller}"))
    }
}

pub(crate) struct Rig {
    pub(crate) proxy: Proxy,
    pub(crate) routes: watch::Sender<Arc<Routes>>,
    pub(crate) dialer: watch::Sender<Option<Arc<dyn Dialer>>>,
    pub(crate) events: broadcast::Receiver<Event>,
}

/// Policy names [`NAME`] with ports 443 and 80.
pub(crate) fn routes(tunnel: TunnelWanted) -> Routes {
    let mut routes = Routes::new(tunnel);
    routes.add_name(NAME, INNER.into(), [443, 80]).expect("name");
    routes
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default(), routes(TunnelWanted::Wanted)).await
    }

    pub(crate) async fn with(limits: Limits, routes: Routes) -> Self {
        let config = ProxyConfig {
            limits,
            ..ProxyConfig::new(loopback(), SecretString::from(CREDENTIAL))
        };
        let (routes, routes_seen) = watch::channel(Arc::new(routes));
        let (dialer, dialer_seen) = watch::channel(None);
        let proxy = Proxy::start(config, routes_seen, dialer_seen)
            .await
            .expect("started");
        let events = proxy.subscribe();
        Self {
            proxy,
            routes,
            dialer,
            events,
        }
    }

    /// A proxy whose tunnel ends at `server` for every port.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let rig = Self::start().await;
        rig.tunnel_to(server);
        rig
    }

    pub(crate) fn tunnel_to(&self, server: SocketAddr) {
        self.dialer.send_replace(Some(LoopbackDialer::to(server)));
    }

    pub(crate) async fn client(&self) -> TcpStream {
        within(TcpStream::connect(self.proxy.local_addr()))
            .await
            .expect("connect")
    }

    /// Sends `request` and reads the answer to its end.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut client = self.client().await;
        client.write_all(request.as_ref()).await.expect("write");
        rest(&mut client).await
    }

    /// Asks for a connection and does not wait for the answer.
    pub(crate) async fn begin(&self, front: Front, target: &str) -> TcpStream {
        let mut client = self.client().await;
        match front {
            Front::Http => {
                let request = connect_request(target);
                client.write_all(request.as_bytes()).await.expect("write");
            }
            Front::Socks => {
                socks_login(&mut client, CREDENTIAL).await.expect("let in");
                let request = socks_request(1, target);
                client.write_all(&request).await.expect("write");
            }
        }
        client
    }

    /// Opens a connection one way or the other.
    pub(crate) async fn connect_by(&self, front: Front, target: &str) -> TcpStream {
        let mut client = self.begin(front, target).await;
        established(front, &mut client).await;
        client
    }

    /// Opens a tunnel with `CONNECT`.
    pub(crate) async fn connect(&self, target: &str) -> TcpStream {
        let mut client = self.client().await;
        client
            .write_all(connect_request(target).as_bytes())
            .await
            .expect("write");
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        client
    }

    pub(crate) async fn event(&mut self) -> Event {
        within(self.events.recv()).await.expect("event")
    }

    /// The next `Closed`.
    pub(crate) async fn closed(&mut self) -> Event {
        loop {
            let event = self.event().await;
            if matches!(event, Event::Closed { .. }) {
                return event;
            }
        }
    }

    pub(crate) async fn until_empty(&self) {
        until(|| self.proxy.connections().is_empty()).await;
    }
}

/// Whether a test may have so many sockets; says that it is skipped where not.
#[cfg(target_os = "linux")]
pub(crate) fn may_open(sockets: usize) -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let mut lines = limits.lines();
    let line = lines.find(|line| line.starts_with("Max open files"));
    let soft = line
        .and_then(|line| line.split_whitespace().nth(3))
        .expect("figure");
    let allowed = soft.parse().unwrap_or(usize::MAX);
    // Other tests run beside this one.
    let needed = sockets + 200;
    if allowed < needed {
        eprintln!("SKIPPED: it needs {needed} open files, {allowed} are allowed");
    }
    allowed >= needed
}

/// Waits for a condition that nothing announces.
#[track_caller]
pub(crate) fn until(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    within(async move {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}

/// Reads the answer that says that the destination is reached.
pub(crate) async fn established(front: Front, client: &mut TcpStream) {
    match front {
        Front::Http => {
            let head = read_head(client).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
        Front::Socks => assert_eq!(socks_reply(client).await.0, 0, "reached"),
    }
}

/// Greets and shows a credential for `orfe`; an error holds what the proxy did not like.
pub(crate) async fn socks_login(client: &mut TcpStream, password: &str) -> Result<(), [u8; 2]> {
    let mut answer = [0; 2];
    client.write_all(&[5, 2, 0, 2]).await.expect("write");
    within(client.read_exact(&mut answer)).await.expect("method");
    assert_eq!(answer, [5, 2], "user name and password");
    let length = u8::try_from(password.len()).expect("short");
    let credential = [b"\x01\x04orfe".as_slice(), &[length], password.as_bytes()].concat();
    client.write_all(&credential).await.expect("write");
    within(client.read_exact(&mut answer)).await.expect("answer");
    if answer == [1, 0] { Ok(()) } else { Err(answer) }
}

/// A SOCKS request; a target that is no address is sent as a name.
pub(crate) fn socks_request(command: u8, target: &str) -> Vec<u8> {
    [vec![5, command, 0], socks_address(target)].concat()
}

pub(crate) fn socks_address(target: &str) -> Vec<u8> {
    match target.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(address)) => {
            [&[1][..], &address.ip().octets(), &address.port().to_be_bytes()].concat()
        }
        Ok(SocketAddr::V6(address)) => {
            [&[4][..], &address.ip().octets(), &address.port().to_be_bytes()].concat()
        }
        Err(_) => {
            let (name, port) = target.rsplit_once(':').expect("port");
            let port: u16 = port.parse().expect("port");
            let length = u8::try_from(name.len()).expect("short");
            [&[3, length][..], name.as_bytes(), &port.to_be_bytes()].concat()
        }
    }
}

/// Reads a SOCKS reply: its code and address.
pub(crate) async fn socks_reply(client: &mut TcpStream) -> (u8, SocketAddr) {
    let mut head = [0; 4];
    within(client.read_exact(&mut head)).await.expect("reply");
    assert_eq!((head[0], head[2]), (5, 0));
    let ip = match head[3] {
        1 => IpAddr::from(within(client.read_u32()).await.expect("address").to_be_bytes()),
        4 => IpAddr::from(within(client.read_u128()).await.expect("address").to_be_bytes()),
        kind => panic!("address of kind {kind}"),
    };
    let port = within(client.read_u16()).await.expect("port");
    (head[1], SocketAddr::new(ip, port))
}

pub(crate) fn connect_request(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{AUTHORIZATION}\r\n")
}

/// Reads one head, byte by byte so that nothing behind it is taken.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match within(stream.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).expect("text")
}

pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.expect("read");
    String::from_utf8(answer).expect("text")
}

/// Reads until the connection ends and says how: `None` for an ordinary end.
pub(crate) async fn ending(stream: &mut TcpStream) -> Option<io::ErrorKind> {
    let mut sink = Vec::new();
    within(stream.read_to_end(&mut sink))
        .await
        .err()
        .map(|error| error.kind())
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A server that handles each connection with `handle`, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start<F, H>(handle: H) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        H: Fn(TcpStream) -> F + Send + 'static,
    {
        let listener = TcpListener::bind(loopback()).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("accept");
                        connections.spawn(handle(stream));
                    }
                    Some(ended) = connections.join_next() => ended.expect("no panic in the server"),
                }
            }
        });
        Self { address, accepting }
    }

    /// Sends back what comes, and its end.
    pub(crate) async fn echo() -> Self {
        Self::start(|mut stream| async move {
            let (mut reader, mut writer) = stream.split();
            // A client that is cut in the middle is part of some tests.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        })
        .await
    }

    /// Reads one head, answers with `answer` and closes; the heads it has read are in the list.
    pub(crate) async fn answering(answer: &'static str) -> (Self, Arc<Mutex<Vec<String>>>) {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let server = Self::start(move |mut stream| {
            let seen = Arc::clone(&seen);
            async move {
                let head = read_head(&mut stream).await;
                seen.lock().expect("lock").push(head);
                stream.write_all(answer.as_bytes()).await.expect("write");
            }
        })
        .await;
        (server, heads)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Dials a loopback server for each inner address.
pub(crate) struct LoopbackDialer {
    servers: HashMap<SocketAddr, SocketAddr>,
}

impl LoopbackDialer {
    pub(crate) fn to(server: SocketAddr) -> Arc<Self> {
        let https = SocketAddr::from((INNER, 443));
        let http = SocketAddr::from((INNER, 80));
        Self::between([(https, server), (http, server)])
    }

    /// Pairs of an inner address and the loopback server that stands for it.
    pub(crate) fn between(servers: impl IntoIterator<Item = (SocketAddr, SocketAddr)>) -> Arc<Self> {
        Arc::new(Self {
            servers: servers.into_iter().collect(),
        })
    }
}

impl Dialer for LoopbackDialer {
    fn dial(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedStream, DialError>> {
        Box::pin(async move {
            let server = *self
                .servers
                .get(&destination)
                .ok_or(DialError::Refused { destination })?;
            let stream = TcpStream::connect(server)
                .await
                .map_err(|_| DialError::Refused { destination })?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

/// Answers every dial with one kind of error.
pub(crate) struct FailingDialer(pub(crate) fn(SocketAddr) -> DialError);

impl Dialer for FailingDialer {
    fn dial(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedStream, DialError>> {
        Box::pin(async move { Err((self.0)(destination)) })
    }
}
