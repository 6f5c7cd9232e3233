//! Memory under clients that ask for much and read nothing.

use orfe_tunnel::proxy::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::rig::{Front, Rig, Server, may_open, until};

/// Pages that this process has in memory, in MiB; what the kernel holds in socket buffers is not among them.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    let kib = line.split_whitespace().nth(1).expect("figure");
    kib.parse::<u64>().expect("number") / 1024
}

/// 1000 clients beside each other, each offered as much as it takes and reading nothing: the proxy holds two buffers of 32
/// KiB for each and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_never_read_cost_their_buffers_and_no_more() {
    const CLIENTS: usize = 1000;
    // For each: 64 KiB of copying buffers, 16 KiB of readers, 16 KiB of this test's server, and the tasks, which are large in
    // a debug build. Without a bound it would be what the server offers, which has no end.
    const ALLOWED_MIB: u64 = 192 * CLIENTS as u64 / 1024;
    // A client, its proxy's two ends and the server's end are all in this process.
    if !may_open(4 * CLIENTS) {
        return;
    }
    let server = Server::start(|mut stream| async move {
        let block = [0; 16 * 1024];
        while stream.write_all(&block).await.is_ok() {}
    })
    .await;
    let rig = Rig::to(server.address).await;
    assert!(Limits::default().connections >= CLIENTS);
    let before = resident_mib();
    let mut clients = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        let front = Front::BOTH[number % 2];
        clients.push(rig.connect_by(front, "coder.demo.internal:443").await);
    }
    until(|| {
        let live = rig.proxy.connections();
        live.len() == CLIENTS && live.iter().all(|connection| connection.bytes_down > 0)
    })
    .await;
    // Every buffer on the way fills; when nothing moves any more, this is the most.
    let mut moved = u64::MAX;
    until(|| {
        let now: u64 = rig
            .proxy
            .connections()
            .iter()
            .map(|connection| connection.bytes_down)
            .sum();
        std::mem::replace(&mut moved, now) == now
    })
    .await;
    let grown = resident_mib().saturating_sub(before);
    eprintln!("{CLIENTS} clients that never read: {grown} MiB more");
    assert!(grown < ALLOWED_MIB, "{grown} MiB for {CLIENTS} clients");
    // The port is still open to others.
    let mut one_more = rig.connect_by(Front::Socks, "coder.demo.internal:443").await;
    one_more.read_u8().await.expect("served");
    drop((clients, one_more));
    rig.until_empty().await;
}
