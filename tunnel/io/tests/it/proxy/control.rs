//! What the owner of the proxy sees and does: the table, the events, cutting, stopping.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use orfe_tunnel::proxy::{CloseReason, Event, Filter, Route, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::rig::{AUTHORIZATION, Front, Rig, Server, connect_request, ending, read_head, until, within};

/// Within this a cut has to be felt: the child's own redial takes up to 0.1 s more.
const AT_ONCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn the_table_and_the_events_tell_the_same_story() {
    for front in Front::BOTH {
        the_table_and_the_events_tell_the_same_story_by(front).await;
    }
}

async fn the_table_and_the_events_tell_the_same_story_by(front: Front) {
    let server = Server::echo().await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.connect_by(front, "CODER.demo.internal:443").await;
    let own = client.local_addr().expect("address");
    let target = Target::parse("coder.demo.internal:443", None).expect("target");

    let Event::Opened {
        id,
        client: from,
        target: to,
        route,
    } = rig.event().await
    else {
        panic!("opened first")
    };
    assert_eq!((from, &to, route), (own, &target, Route::Tunnel));
    let established = rig.event().await;
    assert!(
        matches!(established, Event::Established { id: same, .. } if same == id),
        "{established:?}"
    );

    client.write_all(b"ping").await.expect("write");
    within(client.read_exact(&mut [0; 4])).await.expect("read");
    until(|| rig.proxy.connections()[0].bytes_down == 4).await;
    let info = rig.proxy.connections().remove(0);
    assert_eq!(
        (info.id, info.client, &info.target, info.route),
        (id, own, &target, Route::Tunnel)
    );
    assert_eq!((info.bytes_up, info.bytes_down, info.established), (4, 4, true));
    assert!(info.opened_at <= Instant::now());

    drop(client);
    let closed = rig.event().await;
    assert!(
        matches!(closed, Event::Closed { id: same, .. } if same == id),
        "{closed:?}"
    );
    assert!(rig.proxy.connections().is_empty());
}

#[tokio::test]
async fn a_cut_is_a_reset_for_the_client_and_an_end_for_the_destination() {
    for front in Front::BOTH {
        a_cut_is_a_reset_for_the_client_and_an_end_for_the_destination_by(front).await;
    }
}

async fn a_cut_is_a_reset_for_the_client_and_an_end_for_the_destination_by(front: Front) {
    let (gone_tx, mut gone) = mpsc::channel(1);
    let server = Server::start(move |mut stream| {
        let gone = gone_tx.clone();
        async move {
            // However the end looks, it has come.
            let _ = stream.read(&mut [0; 1]).await;
            gone.send(()).await.expect("sent");
        }
    })
    .await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.connect_by(front, "coder.demo.internal:443").await;
    let mut other = rig.connect_by(front, "coder.demo.internal:80").await;

    let started = Instant::now();
    let filter = Filter::Client(client.local_addr().expect("address"));
    assert_eq!(rig.proxy.cut(&filter), 1);
    assert_eq!(ending(&mut client).await, Some(ErrorKind::ConnectionReset));
    within(gone.recv()).await.expect("the destination noticed");
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
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

    assert_eq!(rig.proxy.connections().len(), 1, "the other one is untouched");
    assert_eq!(rig.proxy.cut(&Filter::Route(Route::Direct)), 0);
    assert_eq!(rig.proxy.cut(&Filter::All), 1);
    assert_eq!(ending(&mut other).await, Some(ErrorKind::ConnectionReset));
    rig.until_empty().await;
    rig.connect_by(front, "coder.demo.internal:443").await;
}

#[tokio::test]
async fn a_connection_that_is_stuck_in_a_full_buffer_can_be_cut() {
    for front in Front::BOTH {
        a_connection_that_is_stuck_in_a_full_buffer_can_be_cut_by(front).await;
    }
}

async fn a_connection_that_is_stuck_in_a_full_buffer_can_be_cut_by(front: Front) {
    let server = Server::start(|mut stream| async move {
        let block = vec![0; 64 * 1024];
        while stream.write_all(&block).await.is_ok() {}
    })
    .await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.connect_by(front, "coder.demo.internal:443").await;
    until(|| rig.proxy.connections()[0].bytes_down > 0).await;
    assert_eq!(rig.proxy.cut(&Filter::All), 1);
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
    assert_eq!(ending(&mut client).await, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn an_upgrade_that_is_never_answered_is_seen_and_can_be_cut_or_left() {
    let (heard_tx, mut heard) = mpsc::channel(2);
    let server = Server::start(move |mut stream| {
        let heard = heard_tx.clone();
        async move {
            heard.send(read_head(&mut stream).await).await.expect("sent");
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await;
    let mut rig = Rig::to(server.address).await;
    let request = format!(
        "GET http://coder.demo.internal/serve HTTP/1.1\r\nHost: coder.demo.internal\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\n{AUTHORIZATION}\r\n"
    );
    for cut in [true, false] {
        let mut client = rig.client().await;
        client.write_all(request.as_bytes()).await.expect("write");
        within(heard.recv()).await.expect("it reached the destination");
        let info = rig.proxy.connections().remove(0);
        assert!(!info.established, "{info:?}");
        let reason = if cut {
            assert_eq!(rig.proxy.cut(&Filter::Id(info.id)), 1);
            assert_eq!(ending(&mut client).await, Some(ErrorKind::ConnectionReset));
            CloseReason::Cut
        } else {
            drop(client);
            CloseReason::ClientGone
        };
        let closed = rig.closed().await;
        assert!(
            matches!(closed, Event::Closed { reason: why, .. } if why == reason),
            "{closed:?}"
        );
    }
}

#[tokio::test]
async fn a_destination_that_resets_is_not_mistaken_for_an_end() {
    let server = Server::start(|mut stream: TcpStream| async move {
        stream.write_all(b"half an ans").await.expect("write");
        stream.read_u8().await.expect("read");
        stream.set_zero_linger().expect("linger");
    })
    .await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.connect("coder.demo.internal:443").await;
    within(client.read_exact(&mut [0; 11])).await.expect("read");
    client.write_all(b"!").await.expect("write");
    assert_eq!(ending(&mut client).await, Some(ErrorKind::ConnectionReset));
    let closed = rig.closed().await;
    assert!(
        matches!(
            closed,
            Event::Closed {
                reason: CloseReason::DestinationFailed,
                ..
            }
        ),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_shutdown_ends_every_connection_and_the_listening() {
    let server = Server::echo().await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.connect("coder.demo.internal:443").await;
    // One that is still being held, and one that has said nothing yet.
    rig.dialer.send_replace(None);
    let mut held = rig.client().await;
    held.write_all(connect_request("coder.demo.internal:443").as_bytes())
        .await
        .expect("write");
    let mut silent = rig.client().await;
    until(|| rig.proxy.connections().len() == 2).await;

    let address = rig.proxy.local_addr();
    within(rig.proxy.shutdown()).await;
    for stream in [&mut client, &mut held, &mut silent] {
        ending(stream).await;
    }
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    let mut reasons = Vec::new();
    while let Ok(event) = rig.events.try_recv() {
        if let Event::Closed { reason, .. } = event {
            reasons.push(reason);
        }
    }
    assert_eq!(reasons, [CloseReason::Shutdown; 2]);
}
