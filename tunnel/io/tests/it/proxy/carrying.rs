//! Bytes, both ways, in large numbers and at the ends.

use std::time::Duration;

use orfe_tunnel::proxy::{CloseReason, Event, Route, Target};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::rig::{Front, Rig, Server, connect_request, read_head, rest, within};

const MEGABYTES: usize = 10;

/// Byte `index` of every transfer: its period divides no buffer size, so a lost or repeated block shows.
fn pattern(index: usize) -> u8 {
    (index % 251) as u8
}

async fn send_pattern(writer: &mut (impl AsyncWrite + Unpin), length: usize) {
    let block: Vec<u8> = (0..251 * 260).map(pattern).collect();
    let mut left = length;
    while left > 0 {
        let take = left.min(block.len());
        writer.write_all(&block[..take]).await.expect("write");
        left -= take;
    }
}

async fn receive_pattern(reader: &mut (impl AsyncRead + Unpin), length: usize) {
    let mut buffer = vec![0; 64 * 1024];
    let mut got = 0;
    while got < length {
        let take = (length - got).min(buffer.len());
        let count = reader.read(&mut buffer[..take]).await.expect("read");
        assert!(count > 0, "the stream ended after {got} bytes");
        assert!(
            buffer[..count]
                .iter()
                .enumerate()
                .all(|(at, &byte)| byte == pattern(got + at)),
            "near {got}"
        );
        got += count;
    }
}

async fn assert_at_end(reader: &mut (impl AsyncRead + Unpin)) {
    assert_eq!(reader.read(&mut [0; 1]).await.expect("read"), 0, "nothing more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_each_way_at_once_then_the_client_closes_first() {
    for front in Front::BOTH {
        ten_megabytes_each_way_at_once_then_the_client_closes_first_by(front).await;
    }
}

async fn ten_megabytes_each_way_at_once_then_the_client_closes_first_by(front: Front) {
    let bytes = MEGABYTES * 1_000_000;
    let server = Server::start(move |mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        tokio::join!(
            send_pattern(&mut writer, bytes),
            receive_pattern(&mut reader, bytes)
        );
        assert_at_end(&mut reader).await;
        writer.write_all(b"after the client's end").await.expect("write");
    })
    .await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.connect_by(front, "coder.demo.internal:443").await;
    {
        let (mut reader, mut writer) = client.split();
        within(async {
            tokio::join!(
                send_pattern(&mut writer, bytes),
                receive_pattern(&mut reader, bytes)
            )
        })
        .await;
    }
    client.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut client).await, "after the client's end");

    let Event::Closed {
        target,
        route,
        bytes_up,
        bytes_down,
        reason,
        ..
    } = rig.closed().await
    else {
        panic!("closed")
    };
    assert_eq!(
        target,
        Target::parse("coder.demo.internal:443", None).expect("target")
    );
    assert_eq!((route, reason), (Route::Tunnel, CloseReason::Finished));
    assert_eq!((bytes_up, bytes_down), (bytes as u64, bytes as u64 + 22));
    assert!(rig.proxy.connections().is_empty());
}

#[tokio::test]
async fn a_destination_that_closes_first_still_hears_the_client() {
    for front in Front::BOTH {
        a_destination_that_closes_first_still_hears_the_client_by(front).await;
    }
}

async fn a_destination_that_closes_first_still_hears_the_client_by(front: Front) {
    let (heard_tx, mut heard) = mpsc::channel(1);
    let server = Server::start(move |mut stream| {
        let heard = heard_tx.clone();
        async move {
            stream.write_all(b"bye").await.expect("write");
            stream.shutdown().await.expect("half-close");
            let mut late = String::new();
            stream.read_to_string(&mut late).await.expect("read");
            heard.send(late).await.expect("sent");
        }
    })
    .await;
    let mut rig = Rig::to(server.address).await;
    let mut client = rig.connect_by(front, "coder.demo.internal:443").await;
    assert_eq!(rest(&mut client).await, "bye");
    client.write_all(b"late words").await.expect("write");
    client.shutdown().await.expect("half-close");
    assert_eq!(within(heard.recv()).await.as_deref(), Some("late words"));
    let closed = rig.closed().await;
    assert!(
        matches!(
            closed,
            Event::Closed {
                bytes_up: 10,
                bytes_down: 3,
                reason: CloseReason::Finished,
                ..
            }
        ),
        "{closed:?}"
    );
}

#[tokio::test]
async fn bytes_that_come_with_the_connect_are_not_lost() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let mut client = rig.client().await;
    let early = format!("{}early", connect_request("coder.demo.internal:443"));
    client.write_all(early.as_bytes()).await.expect("write");
    read_head(&mut client).await;
    client.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut client).await, "early");
}

#[tokio::test]
async fn a_client_that_never_reads_stops_the_destination() {
    for front in Front::BOTH {
        a_client_that_never_reads_stops_the_destination_by(front).await;
    }
}

async fn a_client_that_never_reads_stops_the_destination_by(front: Front) {
    const OFFERED: usize = 256 * 1024 * 1024;
    let (stalled_tx, mut stalled) = mpsc::channel(1);
    let server = Server::start(move |mut stream: TcpStream| {
        let stalled = stalled_tx.clone();
        async move {
            let block = vec![0; 64 * 1024];
            let mut taken = 0;
            while taken < OFFERED {
                // Nobody reads for a second: whatever takes bytes has taken all that it will.
                match tokio::time::timeout(Duration::from_secs(1), stream.write(&block)).await {
                    Ok(written) => taken += written.expect("write"),
                    Err(_) => break,
                }
            }
            stalled.send(taken).await.expect("sent");
            // Stay until the client goes.
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await;
    let rig = Rig::to(server.address).await;
    let client = rig.connect_by(front, "coder.demo.internal:443").await;
    let taken = within(stalled.recv()).await.expect("stalled");
    // What was taken lies in four kernel buffers and one buffer of the proxy.
    assert!(
        taken < 64 * 1024 * 1024,
        "{taken} bytes were taken though nobody reads"
    );
    let info = rig.proxy.connections().remove(0);
    assert!(
        info.bytes_down <= taken as u64 && taken as u64 - info.bytes_down < 32 * 1024 * 1024,
        "{info:?}"
    );
    drop(client);
    rig.until_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_one_after_the_other_and_side_by_side_leave_nothing() {
    for front in Front::BOTH {
        many_connections_one_after_the_other_and_side_by_side_leave_nothing_by(front).await;
    }
}

async fn many_connections_one_after_the_other_and_side_by_side_leave_nothing_by(front: Front) {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let exchange = async |number: u32| {
        let mut client = rig.connect_by(front, "coder.demo.internal:443").await;
        client.write_all(&number.to_be_bytes()).await.expect("write");
        client.shutdown().await.expect("half-close");
        assert_eq!(within(client.read_u32()).await.expect("read"), number);
        assert_at_end(&mut client).await;
    };
    for number in 0..1000 {
        exchange(number).await;
    }
    rig.until_empty().await;

    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(rig.connect_by(front, "coder.demo.internal:443").await);
    }
    let live = rig.proxy.connections();
    assert_eq!(live.len(), 200);
    assert!(live.iter().all(|connection| connection.established));
    assert!(live.is_sorted_by_key(|connection| connection.id));
    for client in &mut clients {
        client.write_all(b"side by side").await.expect("write");
    }
    for client in &mut clients {
        client.shutdown().await.expect("half-close");
        assert_eq!(rest(client).await, "side by side");
    }
    rig.until_empty().await;
}
