//! Requests in absolute-form, with and without an upgrade.

use futures_util::{SinkExt as _, StreamExt as _};
use orfe_tunnel::proxy::{CloseReason, Event, Limits, Route, Routes, TunnelWanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::rig::{AUTHORIZATION, Rig, Server, ending, loopback, read_head, rest, within};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn a_websocket_opens_over_absolute_form() {
    let server = Server::start(|stream| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.expect("handshake");
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() {
                socket.send(message).await.expect("send");
            }
        }
    })
    .await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.client().await;
    let request = format!(
        "GET http://coder.demo.internal/serve?name=a HTTP/1.1\r\nHost: coder.demo.internal\r\n{UPGRADE}{AUTHORIZATION}\r\n"
    );
    client.write_all(request.as_bytes()).await.expect("write");
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The example of RFC 6455 §1.3.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert!(rig.proxy.connections()[0].established);

    let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let payload = vec![7; 300_000];
    socket.send(Message::binary(payload.clone())).await.expect("send");
    let back = within(socket.next()).await.expect("open").expect("message");
    assert_eq!(back.into_data(), payload);
    socket.close(None).await.expect("close");
    within(async { while let Some(Ok(_)) = socket.next().await {} }).await;
    drop(socket);
    let closed = rig.closed().await;
    assert!(
        matches!(
            closed,
            Event::Closed {
                route: Route::Tunnel,
                reason: CloseReason::Finished,
                ..
            }
        ),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_refused_upgrade_passes_untouched_and_the_next_request_is_not_forwarded() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nX-Odd:  spaced \r\n\r\nno");
        let served = answer.clone();
        let (more_tx, mut more) = mpsc::channel(1);
        let server = Server::start(move |mut stream| {
            let (served, more) = (served.clone(), more_tx.clone());
            async move {
                read_head(&mut stream).await;
                stream.write_all(served.as_bytes()).await.expect("write");
                // A server that keeps the connection, as HTTP/1.1 lets it.
                let mut late = Vec::new();
                let _ = stream.read_to_end(&mut late).await;
                more.send(late).await.expect("sent");
            }
        })
        .await;
        let mut rig = Rig::to(server.address).await;
        let mut client = rig.client().await;
        let request = format!(
            "GET http://coder.demo.internal/serve HTTP/1.1\r\nHost: coder.demo.internal\r\n{UPGRADE}{AUTHORIZATION}\r\n"
        );
        client.write_all(request.as_bytes()).await.expect("write");
        let mut got = vec![0; answer.len()];
        within(client.read_exact(&mut got)).await.expect("read");
        assert_eq!(String::from_utf8(got).expect("text"), answer);
        assert!(
            !rig.proxy.connections()[0].established,
            "no upgrade, no connection"
        );

        client.write_all(request.as_bytes()).await.expect("write");
        assert_eq!(
            ending(&mut client).await,
            Some(std::io::ErrorKind::ConnectionReset)
        );
        let closed = rig.closed().await;
        assert!(
            matches!(
                closed,
                Event::Closed {
                    reason: CloseReason::ProtocolViolation,
                    ..
                }
            ),
            "{closed:?}"
        );
        assert_eq!(
            within(more.recv()).await,
            Some(Vec::new()),
            "the credential went no further"
        );
    }
}

#[tokio::test]
async fn a_plain_request_is_rewritten_and_its_answer_is_not() {
    const ANSWER: &str = "HTTP/1.1 403 Forbidden\r\nSet-Cookie: a=b\r\nConnection: close\r\n\r\nnot licensed";
    let (server, heads) = Server::answering(ANSWER).await;
    let mut rig = Rig::to(server.address).await;
    let answer = rig
        .ask(format!(
            "GET http://Coder.Demo.Internal:80/api?x=1 HTTP/1.1\r\nHost: coder.demo.internal\r\nAccept: */*\r\n\
             Connection: keep-alive\r\nProxy-Connection: keep-alive\r\n{AUTHORIZATION}\r\n"
        ))
        .await;
    assert_eq!(answer, ANSWER);
    let want =
        "GET /api?x=1 HTTP/1.1\r\nHost: Coder.Demo.Internal:80\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    assert_eq!(*heads.lock().expect("lock"), [want]);
    let closed = rig.closed().await;
    let (up, down) = (want.len() as u64, ANSWER.len() as u64);
    assert!(
        matches!(closed, Event::Closed { bytes_up, bytes_down, .. } if (bytes_up, bytes_down) == (up, down)),
        "{closed:?}"
    );
}

/// Answers with the body that it was sent.
async fn body_echo() -> Server {
    Server::start(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let end: &[u8] = if head.contains("chunked") {
            b"0\r\n\r\n"
        } else {
            b"end"
        };
        let mut body = Vec::new();
        while !body.ends_with(end) {
            body.push(stream.read_u8().await.expect("read"));
        }
        let answer = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", body.as_slice()].concat();
        stream.write_all(&answer).await.expect("write");
    })
    .await
}

#[tokio::test]
async fn bodies_pass_in_either_coding_as_they_are() {
    let server = body_echo().await;
    let rig = Rig::to(server.address).await;
    let chunked = "5;x=y\r\nhello\r\n0\r\n\r\n";
    for (header, body) in [
        ("Content-Length: 8", "the end".replace(' ', "  ").as_str()),
        ("Transfer-Encoding: chunked", chunked),
    ]
    .map(|(header, body)| (header, body.to_owned()))
    {
        let request = format!(
            "POST http://coder.demo.internal/ HTTP/1.1\r\nHost: coder.demo.internal\r\n{header}\r\n{AUTHORIZATION}\r\n{body}"
        );
        let answer = rig.ask(request).await;
        assert_eq!(
            answer,
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}")
        );
    }
    rig.until_empty().await;
}

#[tokio::test]
async fn a_client_that_half_closes_after_its_request_gets_the_answer() {
    let server = Server::start(|mut stream| async move {
        let mut all = String::new();
        stream.read_to_string(&mut all).await.expect("read until the end");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\n\r\nafter the end")
            .await
            .expect("write");
    })
    .await;
    let rig = Rig::to(server.address).await;
    let mut client = rig.client().await;
    let request = format!(
        "GET http://coder.demo.internal/ HTTP/1.1\r\nHost: coder.demo.internal\r\n{AUTHORIZATION}\r\n"
    );
    client.write_all(request.as_bytes()).await.expect("write");
    client.shutdown().await.expect("half-close");
    assert!(rest(&mut client).await.ends_with("after the end"));
}

#[tokio::test]
async fn a_destination_that_does_not_speak_http_is_a_502_for_an_upgrade() {
    for (nonsense, code) in [
        ("SSH-2.0-x\r\n\r\n", "bad-answer"),
        ("\u{1}\r\n\r\n", "bad-answer"),
        ("", "dial-failed"),
    ] {
        let (server, _) = Server::answering(nonsense).await;
        let rig = Rig::to(server.address).await;
        let answer = rig
            .ask(format!(
                "GET http://coder.demo.internal/ HTTP/1.1\r\nHost: coder.demo.internal\r\n{UPGRADE}{AUTHORIZATION}\r\n"
            ))
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains(code),
            "{nonsense:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn without_a_tunnel_a_policy_name_is_resolved_and_dialled_directly() {
    // `localhost` resolves everywhere, to ::1 first where there is one: nobody listens there, so the next is tried.
    let (server, heads) = Server::answering("HTTP/1.1 200 OK\r\n\r\ndirect").await;
    let mut routes = Routes::new(TunnelWanted::Off);
    routes
        .add_name("localhost", loopback().ip(), [server.address.port()])
        .expect("name");
    let mut rig = Rig::with(Limits::default(), routes).await;
    let host = format!("localhost:{}", server.address.port());
    let answer = rig
        .ask(format!(
            "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{AUTHORIZATION}\r\n"
        ))
        .await;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\ndirect");
    assert_eq!(heads.lock().expect("lock").len(), 1);
    let closed = rig.closed().await;
    assert!(
        matches!(
            closed,
            Event::Closed {
                route: Route::Direct,
                ..
            }
        ),
        "{closed:?}"
    );
}
