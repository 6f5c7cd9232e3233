//! SOCKS over the wire: who is let in, and every reply that is not success.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use orfe_tunnel::dial::DialError;
use orfe_tunnel::proxy::{CloseReason, Event, Limits, Route, TunnelWanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::rig::{
    CREDENTIAL, FailingDialer, Front, Rig, Server, established, rest, routes, socks_login, socks_reply,
    socks_request, within,
};

#[tokio::test]
async fn without_the_credential_there_is_no_way_in() {
    let rig = Rig::start().await;
    // No method that carries one.
    for greeting in [&[5, 1, 0][..], &[5, 0], &[5, 3, 0, 1, 0x80]] {
        let mut client = rig.client().await;
        client.write_all(greeting).await.expect("write");
        let mut answer = Vec::new();
        within(client.read_to_end(&mut answer)).await.expect("end");
        assert_eq!(answer, [5, 0xff], "{greeting:?}");
    }
    // A wrong one: of the same length, of others, none.
    let same_length = CREDENTIAL.replace('a', "b");
    for wrong in [same_length.as_str(), "x", ""] {
        let mut client = rig.client().await;
        assert_eq!(socks_login(&mut client, wrong).await, Err([1, 1]));
        assert_eq!(rest(&mut client).await, "");
    }
    assert!(rig.proxy.connections().is_empty());
}

#[tokio::test]
async fn a_name_is_resolved_by_the_policys_table() {
    let server = Server::echo().await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.connect_by(Front::Socks, "CODER.demo.internal:443").await;
    let opened = rig.event().await;
    assert!(
        matches!(opened, Event::Opened { ref target, route: Route::Tunnel, .. } if target.to_string() == "coder.demo.internal:443"),
        "{opened:?}"
    );
    client.write_all(b"through").await.expect("write");
    client.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut client).await, "through");
}

/// A client that others wrote, both ways of it.
#[tokio::test]
async fn curl_gets_through_both_front_ends() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nthrough";
    let (server, _) = Server::answering(answer).await;
    let rig = Rig::to(server.address).await;
    let urls = [rig.proxy.url(), rig.proxy.socks_url()];
    for url in urls {
        for tunnelled in [&[][..], &["--proxytunnel"]] {
            let mut curl = tokio::process::Command::new("curl");
            curl.args([
                "--silent",
                "--show-error",
                "--max-time",
                "10",
                "--noproxy",
                "",
                "--proxy",
            ])
            .arg(secrecy::ExposeSecret::expose_secret(&url))
            .args(tunnelled)
            .arg("http://CODER.demo.internal/healthz");
            let output = match within(curl.output()).await {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    eprintln!("SKIPPED: curl is not installed");
                    return;
                }
                output => output.expect("curl"),
            };
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.stdout, b"through", "{error}");
        }
    }
}

#[tokio::test]
async fn bytes_in_one_segment_and_byte_by_byte_are_the_same() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let login = [
        b"\x05\x01\x02\x01\x04orfe".as_slice(),
        &[u8::try_from(CREDENTIAL.len()).expect("short")],
        CREDENTIAL.as_bytes(),
    ]
    .concat();
    let all = [
        login,
        socks_request(1, "coder.demo.internal:443"),
        b"early".to_vec(),
    ]
    .concat();
    for piece in [1, 7, all.len()] {
        let mut client = rig.client().await;
        for part in all.chunks(piece) {
            client.write_all(part).await.expect("write");
            client.flush().await.expect("flush");
        }
        let mut answers = [0; 4];
        within(client.read_exact(&mut answers)).await.expect("answers");
        assert_eq!(answers, [5, 2, 1, 0]);
        established(Front::Socks, &mut client).await;
        client.shutdown().await.expect("half-close");
        assert_eq!(rest(&mut client).await, "early");
    }
}

/// How a dial fails.
type Failure = fn(SocketAddr) -> DialError;

#[tokio::test]
async fn every_refusal_has_its_reply() {
    let server = Server::echo().await;
    let mut rig = Rig::to(server.address).await;
    for (command, target, code) in [
        (1, "coder.demo.internal:22", 2),
        (1, "100.127.0.1:22", 2),
        (1, "127.0.0.1:80", 2),
        (1, "[::1]:80", 2),
        (1, "localhost:80", 2),
        (1, "169.254.169.254:80", 2),
        (1, "no-such-name.invalid:443", 4),
        (2, "coder.demo.internal:443", 7),
        (9, "coder.demo.internal:443", 7),
        (1, "127.1:80", 8),
        (1, "bad name:80", 8),
        (1, "coder.demo.internal:0", 8),
    ] {
        let mut client = rig.client().await;
        socks_login(&mut client, CREDENTIAL).await.expect("let in");
        let request = socks_request(command, target);
        client.write_all(&request).await.expect("write");
        assert_eq!(socks_reply(&mut client).await.0, code, "{command} {target}");
        assert_eq!(rest(&mut client).await, "");
    }
    let failures: [(Failure, u8); 3] = [
        (|destination| DialError::Refused { destination }, 5),
        (
            |destination| DialError::TimedOut {
                destination,
                after: Duration::from_secs(1),
            },
            6,
        ),
        (
            |destination| DialError::TooMany {
                destination,
                limit: 1,
            },
            1,
        ),
    ];
    for (failure, code) in failures {
        rig.dialer.send_replace(Some(Arc::new(FailingDialer(failure))));
        let mut client = rig.begin(Front::Socks, "coder.demo.internal:443").await;
        assert_eq!(socks_reply(&mut client).await.0, code);
        let closed = rig.closed().await;
        assert!(
            matches!(
                closed,
                Event::Closed {
                    reason: CloseReason::Refused(_),
                    ..
                }
            ),
            "{closed:?}"
        );
    }
}

#[tokio::test]
async fn a_tunnel_that_does_not_rise_in_time_is_an_unreachable_network() {
    let limits = Limits {
        hold: Duration::from_millis(200),
        ..Limits::default()
    };
    let rig = Rig::with(limits, routes(TunnelWanted::Wanted)).await;
    let mut client = rig.begin(Front::Socks, "coder.demo.internal:443").await;
    assert_eq!(socks_reply(&mut client).await.0, 3);
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_is_given_up() {
    let limits = Limits {
        head: Duration::from_millis(200),
        ..Limits::default()
    };
    let rig = Rig::with(limits, routes(TunnelWanted::Wanted)).await;
    let mut client = rig.client().await;
    client.write_all(&[5, 9, 0]).await.expect("write");
    assert_eq!(rest(&mut client).await, "", "closed without an answer");
}
