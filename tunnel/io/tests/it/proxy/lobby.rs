//! Clients that have not shown the credential, and those who have beside them.

use std::time::Duration;

use orfe_tunnel::proxy::{Limits, TunnelWanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::rig::{
    CREDENTIAL, Front, Rig, Server, connect_request, ending, established, may_open, rest, routes,
    socks_login, socks_reply, socks_request, until, within,
};

const TARGET: &str = "coder.demo.internal:443";

/// No head comes in time for this to matter.
fn patient() -> Limits {
    Limits {
        head: Duration::from_secs(600),
        ..Limits::default()
    }
}

async fn rig(limits: Limits, server: &Server) -> Rig {
    let rig = Rig::with(limits, routes(TunnelWanted::Wanted)).await;
    rig.tunnel_to(server.address);
    rig
}

/// Sends something through an open connection and has it back.
async fn transfer(client: &mut TcpStream) {
    client.write_all(b"through").await.expect("write");
    let mut echo = [0; 7];
    within(client.read_exact(&mut echo)).await.expect("echo");
    assert_eq!(&echo, b"through");
}

/// Whether the proxy has closed it: at once, without waiting.
fn is_closed(client: &TcpStream) -> bool {
    match client.try_read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Silent from the first byte on, in the middle of a head, and after a SOCKS greeting: whatever they do, they have shown nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_silent_clients_do_not_stand_in_the_way() {
    const SILENT: usize = 2000;
    if !may_open(2 * SILENT) {
        return;
    }
    let server = Server::echo().await;
    let limits = patient();
    let places = limits.lobby;
    let rig = rig(limits, &server).await;
    let mut admitted_before = rig.connect_by(Front::Http, TARGET).await;
    let mut silent = Vec::with_capacity(SILENT);
    for number in 0..SILENT {
        let mut client = rig.client().await;
        let beginning: &[u8] = match number % 3 {
            0 => b"",
            1 => b"CONNECT coder.demo.internal:443 HTTP/1.1\r\n",
            _ => &[5, 1, 2],
        };
        // Who was pushed out already cannot write.
        let _ = client.write_all(beginning).await;
        silent.push(client);
    }
    for front in Front::BOTH {
        let mut client = rig.connect_by(front, TARGET).await;
        transfer(&mut client).await;
    }
    transfer(&mut admitted_before).await;
    // As many as there are places still stand; two of them had to go for the clients above.
    until(|| silent.iter().filter(|client| is_closed(client)).count() >= SILENT - places).await;
    let standing = silent.iter().filter(|client| !is_closed(client)).count();
    assert!((places - 2..=places).contains(&standing), "{standing} stand");
    assert!(!is_closed(&silent[SILENT - 1]), "the newest is one of them");
    // One that stands may still show its credential.
    let last = &mut silent[SILENT - 2];
    let rest_of_head = connect_request(TARGET);
    last.write_all(rest_of_head.as_bytes()).await.expect("write");
    transfer_after(Front::Http, last).await;
}

async fn transfer_after(front: Front, client: &mut TcpStream) {
    established(front, client).await;
    transfer(client).await;
}

#[tokio::test]
async fn the_oldest_silent_client_makes_room_and_hears_nothing() {
    let server = Server::echo().await;
    let limits = Limits {
        lobby: 2,
        ..patient()
    };
    let rig = rig(limits, &server).await;
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    let third = rig.client().await;
    assert_eq!(rest(&mut first).await, "", "closed without a word");
    assert!(!is_closed(&second) && !is_closed(&third));
    // Who has left or was let in makes room, too, and is not pushed out.
    let head = connect_request(TARGET);
    second.write_all(head.as_bytes()).await.expect("write");
    transfer_after(Front::Http, &mut second).await;
    let fourth = rig.client().await;
    transfer(&mut rig.connect_by(Front::Socks, TARGET).await).await;
    transfer(&mut second).await;
    assert!(!is_closed(&fourth));
}

/// A client that was refused waits in the lobby for as long as it listens to that.
#[tokio::test]
async fn a_wrong_credential_takes_no_place_of_the_served() {
    let server = Server::echo().await;
    let limits = Limits {
        lobby: 1,
        connections: 1,
        ..patient()
    };
    let rig = rig(limits, &server).await;
    for _ in 0..3 {
        let mut wrong = rig.client().await;
        assert_eq!(socks_login(&mut wrong, "not-the-credential").await, Err([1, 1]));
        let mut right = rig.connect_by(Front::Socks, TARGET).await;
        transfer(&mut right).await;
        assert_eq!(ending(&mut wrong).await, None);
        drop(right);
        rig.until_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_in_beyond_the_limit_is_told_so() {
    let server = Server::echo().await;
    let limits = patient();
    let places = limits.connections;
    if !may_open(4 * (places + 2)) {
        return;
    }
    let rig = rig(limits, &server).await;
    let mut served = Vec::with_capacity(places);
    for number in 0..places {
        served.push(rig.connect_by(Front::BOTH[number % 2], TARGET).await);
    }
    let answer = rig.ask(connect_request(TARGET)).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("Orfe-Proxy-Error: too-many-connections"),
        "{answer}"
    );
    let mut beyond = rig.begin(Front::Socks, TARGET).await;
    assert_eq!(socks_reply(&mut beyond).await.0, 1);
    assert_eq!(ending(&mut beyond).await, None);
    // Who has not shown the credential is not told how it stands.
    let mut stranger = rig.client().await;
    assert_eq!(
        socks_login(&mut stranger, "not-the-credential").await,
        Err([1, 1])
    );
    for client in [0, places - 1] {
        transfer(&mut served[client]).await;
    }
    drop(served.pop());
    until(|| rig.proxy.connections().len() < places).await;
    transfer(&mut rig.connect_by(Front::Http, TARGET).await).await;
}

/// As many at once as the lobby has places: none is pushed out, in whatever order and however late they show their credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_clients_with_the_credential_loses_none() {
    const BURST: usize = 300;
    if !may_open(4 * BURST) {
        return;
    }
    let server = Server::echo().await;
    let limits = Limits {
        lobby: BURST,
        ..patient()
    };
    let rig = rig(limits, &server).await;
    let address = rig.proxy.local_addr();
    let mut clients = JoinSet::new();
    for number in 0..BURST {
        clients.spawn(async move {
            let mut client = within(TcpStream::connect(address)).await.expect("connect");
            let front = Front::BOTH[number % 2];
            match front {
                Front::Http => {
                    let head = connect_request(TARGET);
                    client.write_all(head.as_bytes()).await.expect("write");
                }
                Front::Socks => {
                    socks_login(&mut client, CREDENTIAL).await.expect("let in");
                    let request = socks_request(1, TARGET);
                    client.write_all(&request).await.expect("write");
                }
            }
            transfer_after(front, &mut client).await;
            client
        });
    }
    let served = clients.join_all().await;
    assert_eq!(served.len(), BURST);
}
