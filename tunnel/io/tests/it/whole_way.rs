//! The whole way of a provisioner's bytes: local proxy, tunnel, gateway, upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use data_encoding::BASE64;
use orfe_tunnel::dial::Dialer;
use orfe_tunnel::proxy::{Proxy, ProxyConfig, Routes, TunnelWanted};
use orfe_tunnel::{Gateway, Tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::servers::{Server, pattern};
use crate::support::{INNER, connected};

const TEN_MB: usize = 10_000_000;
const CREDENTIAL: &str = "a-credential-of-this-test";

struct Way {
    proxy: Proxy,
    tunnel: Tunnel,
    _gateway: Gateway,
    _routes: watch::Sender<Arc<Routes>>,
    _dialer: watch::Sender<Option<Arc<dyn Dialer>>>,
}

/// A proxy that knows `coder.test:443`, behind which `upstream` stands.
async fn way(upstream: SocketAddr) -> Way {
    let (gateway, tunnel) = connected(&[(443, upstream)]).await;
    let mut routes = Routes::new(TunnelWanted::Wanted);
    routes
        .add_name("coder.test", INNER.parse().unwrap(), [443])
        .unwrap();
    let dialer: Arc<dyn Dialer> = Arc::new(tunnel.dialer());
    let (routes, route_tables) = watch::channel(Arc::new(routes));
    let (dialer, dialers) = watch::channel(Some(dialer));
    let config = ProxyConfig::new("127.0.0.1:0".parse().unwrap(), CREDENTIAL.to_owned().into());
    let proxy = Proxy::start(config, route_tables, dialers).await.unwrap();
    Way {
        proxy,
        tunnel,
        _gateway: gateway,
        _routes: routes,
        _dialer: dialer,
    }
}

/// An open `CONNECT` to `target`, or the answer's status line.
async fn connect(proxy: SocketAddr, target: &str) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let credential = BASE64.encode(format!("orfe:{CREDENTIAL}").as_bytes());
    let request = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {credential}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    if head.starts_with("HTTP/1.1 200 ") {
        Ok(stream)
    } else {
        Err(head.lines().next().unwrap().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_each_way_through_proxy_and_tunnel() {
    let server = Server::echo().await;
    let way = way(server.address).await;
    let stream = connect(way.proxy.local_addr(), "coder.test:443").await.unwrap();
    let sent = pattern(TEN_MB, 7);
    let (mut read, mut write) = stream.into_split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let ((), result) = tokio::join!(writing, read.read_to_end(&mut received));
    result.unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
    way.proxy.shutdown().await;
    way.tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_close_goes_the_whole_way() {
    // The server answers only once it has seen the end of what the client sends.
    let server = Server::answer_after_fin().await;
    let way = way(server.address).await;
    let mut stream = connect(way.proxy.local_addr(), "coder.test:443").await.unwrap();
    let sent = pattern(TEN_MB, 8);
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policy_does_not_name_is_not_reached() {
    let server = Server::echo().await;
    let way = way(server.address).await;
    let proxy = way.proxy.local_addr();
    for target in [
        "coder.test:80",
        &format!("127.0.0.1:{}", server.address.port()),
        "100.127.0.1:22",
    ] {
        let answer = connect(proxy, target).await.unwrap_err();
        assert!(answer.starts_with("HTTP/1.1 502 "), "{target}: {answer}");
    }
}
