//! Connections that break the contract: each is ended with a code, and the registry goes on.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use orfe_protocol::close;
use orfe_protocol::desired::{Coder, Credential};
use orfe_protocol::envelope;
use orfe_protocol::id::Revision;
use orfe_protocol::message::{FromAgent, Heartbeat};
use orfe_protocol::noise::FRAME_MAX;
use orfe_protocol::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

use crate::agent::{Agent, Identity, closed_with, hello, open, tls};
use crate::site::{PATIENCE, Site};

#[tokio::test]
async fn frames_that_are_no_session_are_closed_with_their_code() {
    let site = Site::new().await;
    let address = site.registry.ready().https;
    for (frame, code) in [
        (Message::text("hello"), close::OVERFLOW),
        (Message::binary(vec![0; 96]), close::NOT_AUTHENTICATED),
        (Message::binary(Vec::new()), close::NOT_AUTHENTICATED),
        (Message::binary(vec![0; FRAME_MAX + 1]), close::OVERFLOW),
        (Message::binary(vec![0; 1024 * 1024]), close::OVERFLOW),
    ] {
        let shown = format!("{} bytes", frame.len());
        let mut socket = open(&site.data(), address, None).await;
        // The registry may be through with it before all of it is sent.
        let _ = socket.send(frame).await;
        assert_eq!(closed_with(&mut socket).await, code, "{shown}");
    }
    // And a good device is served as before.
    Agent::joined(&site).await;
    site.registry.shutdown().await;
}

/// Bytes that are no frame of an agent: each is told what was wrong with it.
#[tokio::test]
async fn a_close_frame_says_what_was_wrong() {
    let site = Site::new().await;
    let mut large = vec![0x82, 0xff];
    large.extend((FRAME_MAX as u64 + 1).to_be_bytes());
    large.extend([0; 4]);
    for (bytes, reason) in [
        // Without a mask; an opcode that is reserved; a ping in parts.
        (vec![0x82, 0x01, 0x00], "malformed frame"),
        (vec![0x83, 0x80, 0, 0, 0, 0], "malformed frame"),
        (vec![0x09, 0x80, 0, 0, 0, 0], "malformed frame"),
        (large, "frame too large"),
    ] {
        let mut socket = open(&site.data(), site.registry.ready().https, None).await;
        socket.get_mut().write_all(&bytes).await.unwrap();
        let farewell = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
        let Some(Ok(Message::Close(Some(farewell)))) = farewell else {
            panic!("{bytes:x?}: {farewell:?}");
        };
        assert_eq!(
            (u16::from(farewell.code), farewell.reason.as_str()),
            (close::OVERFLOW, reason),
            "{bytes:x?}"
        );
    }
    site.registry.shutdown().await;
}

/// Something done to the frames of one direction.
type Attack = fn(Vec<Vec<u8>>) -> Vec<Vec<u8>>;

/// What somebody who terminates TLS in between could do to a session.
#[tokio::test]
async fn altered_repeated_dropped_and_reordered_frames_end_the_session() {
    let site = Site::new().await;
    let attacks: [Attack; 5] = [
        |mut frames| {
            frames[0][5] ^= 1;
            frames
        },
        |frames| vec![frames[0].clone(), frames[0].clone()],
        |frames| vec![frames[1].clone()],
        |frames| vec![frames[1].clone(), frames[0].clone()],
        |mut frames| {
            frames[0].pop();
            frames
        },
    ];
    for (index, attack) in attacks.into_iter().enumerate() {
        let (mut agent, _) = Agent::joined(&site).await;
        let seal = |agent: &mut Agent, seq| {
            let json = envelope::encode(seq, &FromAgent::Heartbeat(Heartbeat {})).unwrap();
            agent.channel.seal(&json).unwrap().remove(0)
        };
        let frames = vec![seal(&mut agent, 10), seal(&mut agent, 11)];
        for frame in attack(frames) {
            agent.socket.send(Message::binary(frame)).await.unwrap();
        }
        assert_eq!(agent.closed_with().await, close::OVERFLOW, "attack {index}");
    }
    site.registry.shutdown().await;
}

#[tokio::test]
async fn messages_that_do_not_fit_end_the_session() {
    let site = Site::new().await;
    let (mut agent, _) = Agent::joined(&site).await;
    agent.say(&hello(Revision::default())).await;
    assert_eq!(agent.closed_with().await, close::OVERFLOW);

    let (mut agent, _) = Agent::joined(&site).await;
    for frame in agent
        .channel
        .seal(b"{\"v\":1,\"t\":\"observed\",\"b\":{}}")
        .unwrap()
    {
        agent.socket.send(Message::binary(frame)).await.unwrap();
    }
    assert_eq!(agent.closed_with().await, close::OVERFLOW);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_device_that_floods_is_closed() {
    let site = Site::new().await;
    let (mut agent, _) = Agent::joined(&site).await;
    for _ in 0..400 {
        if agent.try_say(&FromAgent::Heartbeat(Heartbeat {})).await.is_err() {
            break;
        }
    }
    assert_eq!(agent.closed_with().await, close::OVERFLOW);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_device_that_takes_no_frames_is_dropped() {
    let site = Site::with(|config| {
        config.session.send_timeout = Duration::from_millis(300);
        config.session.hold_down = Duration::from_millis(100);
        // Large, so that a few desired states fill what the kernel holds for the device.
        config.coder = Some(Coder {
            url: "https://coder.internal".parse().unwrap(),
            credential: Credential::Psk(Secret::new("0".into())),
            ca_pem: Some("x".repeat(200_000)),
        });
    })
    .await;
    let identity = Identity::new();
    let code = site.join_code(&[]).await;
    Agent::connect(&site, &identity)
        .await
        .claim(&identity, &code)
        .await
        .unwrap();

    let mut slow = open(&site.data(), site.registry.ready().https, Some(4096)).await;
    let (initiator, first) =
        orfe_protocol::noise::Initiator::start(&identity.noise, &code.registry_key).unwrap();
    slow.send(Message::binary(first)).await.unwrap();
    let answer = crate::agent::frame(&mut slow).await.unwrap();
    let mut channel = initiator.finish(&answer).unwrap();
    let json = envelope::encode(1, &hello(Revision::default())).unwrap();
    slow.send(Message::binary(channel.seal(&json).unwrap().remove(0)))
        .await
        .unwrap();
    site.until_state("starting").await;

    // From here on it reads nothing, while something new is desired of it again and again.
    let fleet = site.registry.fleet();
    let dropped = async {
        for round in 0.. {
            let mut config = site.config.clone();
            config.coder.as_mut().unwrap().credential = Credential::Psk(Secret::new(round.to_string()));
            site.registry.reconfigure(&config);
            // The session's turn; it and this test share one thread.
            tokio::task::yield_now().await;
            if fleet.sessions() == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, dropped)
        .await
        .expect("the slow device is still there");
    site.until_state("offline").await;
    site.registry.shutdown().await;
}

async fn http(site: &Site, request: &str) -> String {
    let address = site.registry.ready().https;
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = TlsConnector::from(tls(&site.data()))
        .connect(address.ip().into(), stream)
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    // A peer that hangs up without a farewell is none of this test's business.
    drop(read);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn other_requests_get_their_answers() {
    let site = Site::new().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = http(&site, &get("/healthz")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
        "{answer}"
    );
    let answer = http(&site, &get("/readyz")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"),
        "{answer}"
    );
    assert!(http(&site, &get("/")).await.starts_with("HTTP/1.1 404"));
    assert!(
        http(&site, &get("/agent/v1/connect"))
            .await
            .starts_with("HTTP/1.1 4")
    );

    let upgrade = "GET /agent/v1/connect HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        sec-websocket-protocol: orfe.agent.v9\r\n\r\n";
    let answer = http(
        &site,
        &format!("{upgrade}GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 426") && answer.contains("orfe.agent.v1"),
        "{answer}"
    );

    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    assert!(http(&site, &long).await.starts_with("HTTP/1.1 431"));
    site.registry.shutdown().await;
}
