//! Every way in which the proxy says no, over the wire.

use std::time::Duration;

use orfe_tunnel::proxy::{Limits, TunnelWanted};
use tokio::io::AsyncWriteExt as _;

use super::rig::{AUTHORIZATION, Rig, Server, connect_request, rest, routes, until};

#[track_caller]
fn assert_refused(answer: &str, status: &str, code: &str) {
    assert!(!answer.starts_with("HTTP/1.1 403"), "never: {answer}");
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} Orfe proxy: ")),
        "{answer}"
    );
    assert!(
        answer.contains(&format!("\r\nOrfe-Proxy-Error: {code}\r\n")),
        "{answer}"
    );
    assert!(
        !answer.to_ascii_lowercase().contains("access-control"),
        "nothing for a browser: {answer}"
    );
}

#[tokio::test]
async fn without_the_credential_nothing_is_reached() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    for credential in [
        "",
        "Proxy-Authorization: Basic\r\n",
        "Proxy-Authorization: Basic \r\n",
        "Proxy-Authorization: Basic b3JmZTp3cm9uZw==\r\n",
        // The right password with another user, and the right pair under another scheme.
        "Proxy-Authorization: Basic cm9vdDphbi1leGFtcGxlLWNyZWRlbnRpYWw=\r\n",
        "Proxy-Authorization: Bearer b3JmZTphbi1leGFtcGxlLWNyZWRlbnRpYWw=\r\n",
        // For the destination, not for the proxy.
        "Authorization: Basic b3JmZTphbi1leGFtcGxlLWNyZWRlbnRpYWw=\r\n",
    ] {
        for request in [
            format!(
                "CONNECT coder.demo.internal:443 HTTP/1.1\r\nHost: coder.demo.internal:443\r\n{credential}\r\n"
            ),
            format!(
                "GET http://coder.demo.internal/ HTTP/1.1\r\nHost: coder.demo.internal\r\n{credential}\r\n"
            ),
            // What policy does not allow is not told to strangers either.
            format!(
                "CONNECT coder.demo.internal:22 HTTP/1.1\r\nHost: coder.demo.internal:22\r\n{credential}\r\n"
            ),
        ] {
            let answer = rig.ask(&request).await;
            assert_refused(&answer, "407", "credential");
            assert!(
                answer.contains("\r\nProxy-Authenticate: Basic realm="),
                "{answer}"
            );
        }
    }
    assert!(rig.proxy.connections().is_empty());
    let scheme_in_lower_case = connect_request("coder.demo.internal:443").replace("Basic", "basic");
    let mut client = rig.client().await;
    client
        .write_all(scheme_in_lower_case.as_bytes())
        .await
        .expect("write");
    client.shutdown().await.expect("half-close");
    until(|| rig.proxy.connections().is_empty()).await;
}

#[tokio::test]
async fn a_browser_learns_nothing() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let port = rig.proxy.local_addr().port();
    for request in [
        // DNS rebinding: the page's own name in `Host`, with and without what browsers add.
        format!("GET / HTTP/1.1\r\nHost: rebound.example:{port}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: rebound.example:{port}\r\nOrigin: http://rebound.example\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost.rebound.example:{port}\r\n{AUTHORIZATION}\r\n"),
        // From another page to the address itself.
        format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site\r\n\r\n"),
        format!(
            "GET /favicon.ico HTTP/1.1\r\nHost: localhost:{port}\r\nReferer: http://page.example/\r\n\r\n"
        ),
        format!(
            "OPTIONS / HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://page.example\r\n\
             Access-Control-Request-Method: CONNECT\r\nAccess-Control-Request-Private-Network: true\r\n\r\n"
        ),
        // A form's body that looks like a request is not read as one.
        format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: null\r\nContent-Length: 99\r\n\r\n{}",
            connect_request("coder.demo.internal:443")
        ),
        // A WebSocket, which no same-origin policy holds back.
        format!(
            "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://page.example\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        ),
        // A `Host` that names another host than the target, in either form.
        format!("GET http://coder.demo.internal/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{AUTHORIZATION}\r\n"),
        format!("CONNECT coder.demo.internal:443 HTTP/1.1\r\nHost: rebound.example\r\n{AUTHORIZATION}\r\n"),
    ] {
        assert_eq!(rig.ask(&request).await, "", "not one byte for {request}");
    }
    assert!(rig.proxy.connections().is_empty());
}

#[tokio::test]
async fn a_person_who_tries_the_port_out_is_told_what_it_is() {
    let rig = Rig::start().await;
    let port = rig.proxy.local_addr().port();
    for request in [
        format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n{AUTHORIZATION}\r\n"),
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c".to_owned(),
        "GET / HTTP/1.1\n\n".to_owned(),
    ] {
        assert_refused(&rig.ask(&request).await, "400", "bad-request");
    }
}

#[tokio::test]
async fn what_policy_or_the_address_forbids_is_a_502() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let loopback = server.address;
    for (target, code) in [
        ("coder.demo.internal:22".to_owned(), "port-not-in-policy"),
        ("100.127.0.1:22".to_owned(), "port-not-in-policy"),
        (loopback.to_string(), "address-refused"),
        (format!("localhost:{}", loopback.port()), "address-refused"),
        (
            format!("[::ffff:127.0.0.1]:{}", loopback.port()),
            "address-refused",
        ),
        ("169.254.169.254:80".to_owned(), "address-refused"),
        ("no-such-name.invalid:443".to_owned(), "name-not-resolved"),
    ] {
        assert_refused(&rig.ask(connect_request(&target)).await, "502", code);
    }
    rig.until_empty().await;
}

#[tokio::test]
async fn a_bad_target_is_a_400() {
    let rig = Rig::start().await;
    for target in [
        "coder.demo.internal",
        "127.1:80",
        "coder.demo.internal:0",
        "user@coder.demo.internal:443",
    ] {
        assert_refused(&rig.ask(connect_request(target)).await, "400", "bad-target");
    }
}

#[tokio::test]
async fn a_head_that_trickles_is_given_up() {
    let limits = Limits {
        head: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = Rig::with(limits, routes(TunnelWanted::Wanted)).await;
    // One that sends a little now and then, one that sends nothing.
    let mut trickling = rig.client().await;
    let mut silent = rig.client().await;
    let (mut reader, mut writer) = trickling.split();
    let trickle = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while writer.write_all(b"C").await.is_ok() {
            ticks.tick().await;
        }
    };
    let answer = async {
        let mut answer = String::new();
        // The client that goes on sending may see a reset behind the answer.
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut answer).await;
        answer
    };
    tokio::pin!(trickle, answer);
    let answer = super::rig::within(async {
        tokio::select! {
            answer = &mut answer => answer,
            () = &mut trickle => answer.await,
        }
    })
    .await;
    assert_refused(&answer, "408", "head-timeout");
    assert_refused(&rest(&mut silent).await, "408", "head-timeout");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_431() {
    let rig = Rig::start().await;
    let filler = "x".repeat(70 * 1024);
    let long = format!(
        "GET http://coder.demo.internal/ HTTP/1.1\r\nHost: coder.demo.internal\r\nX: {filler}\r\n\r\n"
    );
    assert_refused(&rig.ask(&long).await, "431", "head-too-large");
    let many = format!(
        "GET http://coder.demo.internal/ HTTP/1.1\r\nHost: coder.demo.internal\r\n{}\r\n",
        "X: y\r\n".repeat(100)
    );
    assert_refused(&rig.ask(&many).await, "431", "head-too-large");
}

#[tokio::test]
async fn a_client_beyond_the_limit_is_told_and_the_others_go_on() {
    let server = Server::echo().await;
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let rig = Rig::with(limits, routes(TunnelWanted::Wanted)).await;
    rig.tunnel_to(server.address);
    let mut first = rig.connect("coder.demo.internal:443").await;
    let second = rig.connect("coder.demo.internal:443").await;
    assert_refused(
        &rig.ask(connect_request("coder.demo.internal:443")).await,
        "503",
        "too-many-connections",
    );
    first.write_all(b"still here").await.expect("write");
    first.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut first).await, "still here");
    drop((first, second));
    rig.until_empty().await;
}
