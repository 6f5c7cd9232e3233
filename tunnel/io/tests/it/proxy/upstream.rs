//! The machine owner's own proxy in between.

use std::sync::{Arc, Mutex};

use orfe_tunnel::proxy::{CloseReason, Event, Limits, Refusal, Route, TunnelWanted, UpstreamProxy};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::rig::{AUTHORIZATION, Rig, Server, connect_request, read_head, rest, routes};

/// A proxy's routes that go through `address` as user `owner` with password `pw`.
async fn rig_behind(address: std::net::SocketAddr) -> Rig {
    let url = SecretString::from(format!("http://owner:pw@{address}"));
    let mut routes = routes(TunnelWanted::Wanted);
    routes.set_upstream_proxy(Some(UpstreamProxy::parse(&url, "direct.example").expect("url")));
    Rig::with(Limits::default(), routes).await
}

#[tokio::test]
async fn connect_goes_through_with_the_owners_credential_and_not_ours() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let owner = Server::start(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let head = read_head(&mut stream).await;
            seen.lock().expect("lock").push(head);
            // The destination's first bytes may come in one piece with the proxy's answer.
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nVia: 1.1 owner\r\n\r\nhello ")
                .await
                .expect("write");
            let mut said = String::new();
            stream.read_to_string(&mut said).await.expect("read");
            stream.write_all(said.as_bytes()).await.expect("write");
        }
    })
    .await;
    let mut rig = rig_behind(owner.address).await;
    let mut client = rig.connect("releases.example:443").await;
    client.write_all(b"world").await.expect("write");
    client.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut client).await, "hello world");
    let want = "CONNECT releases.example:443 HTTP/1.1\r\nHost: releases.example:443\r\n\
                Proxy-Authorization: Basic b3duZXI6cHc=\r\n\r\n";
    assert_eq!(*heads.lock().expect("lock"), [want]);
    let closed = rig.closed().await;
    assert!(
        matches!(
            closed,
            Event::Closed {
                route: Route::Upstream,
                reason: CloseReason::Finished,
                ..
            }
        ),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_403_of_the_owners_proxy_does_not_reach_the_child() {
    for (answer, status, code) in [
        ("HTTP/1.1 403 Forbidden\r\n\r\n", 403, "upstream-proxy-refused"),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            407,
            "upstream-proxy-refused",
        ),
        ("nonsense\r\n\r\n", 0, "bad-answer"),
        ("", 0, "dial-failed"),
    ] {
        let (owner, _) = Server::answering(answer).await;
        let mut rig = rig_behind(owner.address).await;
        let got = rig.ask(connect_request("releases.example:443")).await;
        assert!(
            got.starts_with("HTTP/1.1 502 Orfe proxy: ") && got.contains(code),
            "{answer:?}: {got}"
        );
        let closed = rig.closed().await;
        let Event::Closed {
            reason: CloseReason::Refused(refusal),
            ..
        } = closed
        else {
            panic!("{closed:?}")
        };
        assert!(
            status == 0 || refusal == Refusal::UpstreamProxyRefused(status),
            "{refusal:?}"
        );
    }
}

#[tokio::test]
async fn an_absolute_form_is_passed_on_as_one() {
    let (owner, heads) = Server::answering("HTTP/1.1 200 OK\r\n\r\npage").await;
    let rig = rig_behind(owner.address).await;
    let answer = rig
        .ask(format!(
            "GET http://Releases.example/a?b HTTP/1.1\r\nHost: releases.example\r\n{AUTHORIZATION}\r\n"
        ))
        .await;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\npage");
    let want = "GET http://Releases.example/a?b HTTP/1.1\r\nHost: Releases.example\r\n\
                Proxy-Authorization: Basic b3duZXI6cHc=\r\nConnection: close\r\n\r\n";
    assert_eq!(*heads.lock().expect("lock"), [want]);
}

#[tokio::test]
async fn policy_names_go_around_it() {
    let (owner, heads) = Server::answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let inner = Server::echo().await;
    let rig = rig_behind(owner.address).await;
    rig.tunnel_to(inner.address);
    let mut client = rig.connect("coder.demo.internal:443").await;
    client.write_all(b"inside").await.expect("write");
    client.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut client).await, "inside");
    assert!(heads.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn a_proxy_that_would_go_through_itself_says_so() {
    let rig = Rig::start().await;
    let url = SecretString::from(format!("http://{}", rig.proxy.local_addr()));
    let mut round = routes(TunnelWanted::Wanted);
    round.set_upstream_proxy(Some(UpstreamProxy::parse(&url, "").expect("url")));
    rig.routes.send_replace(Arc::new(round));
    let answer = rig.ask(connect_request("releases.example:443")).await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("address-refused"),
        "{answer}"
    );
}
