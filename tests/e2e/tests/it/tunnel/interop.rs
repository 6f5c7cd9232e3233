//! wireguard-go at the other end, and the real `wg` as a witness.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use orfe_test_support::lab::{Side, ends, wg};

use super::{GATEWAYS, Kind, PATIENCE, Pair, STACKS, skipped, wireguard_go};
use crate::programs;

const MEGABYTE: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wireguard_go_is_a_client_of_the_gateway() {
    let what = "wireguard-go as a client of the gateway";
    if skipped(what) {
        return;
    }
    let Some(wireguard_go) = wireguard_go(what) else {
        return;
    };
    for gateway in GATEWAYS {
        let pair = Pair::start(Kind::WireguardGo(&wireguard_go), Kind::Orfe(gateway), None).await;
        pair.echo(3, 3 * MEGABYTE, PATIENCE).await;
        let Some(shown) = shown(&pair, Side::Near, what) else {
            continue;
        };
        assert_eq!(shown.endpoint, Some(ends::far_endpoint()), "{gateway}");
        assert_eq!(shown.keepalive, Some(25), "{gateway}");
        assert_sane(&shown, 9 * MEGABYTE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wireguard_go_is_the_server_of_a_device() {
    let what = "wireguard-go as a server of the device";
    if skipped(what) {
        return;
    }
    let Some(wireguard_go) = wireguard_go(what) else {
        return;
    };
    for stack in STACKS {
        let pair = Pair::start(Kind::Orfe(stack), Kind::WireguardGo(&wireguard_go), None).await;
        pair.echo(3, 3 * MEGABYTE, PATIENCE).await;
        let Some(shown) = shown(&pair, Side::Far, what) else {
            continue;
        };
        assert_eq!(
            shown.endpoint.map(|endpoint| endpoint.ip()),
            Some(Side::Near.wire()),
            "{stack}"
        );
        assert_eq!(shown.keepalive, None, "{stack}: it waits for the device");
        assert_sane(&shown, 9 * MEGABYTE);
    }
}

/// What `wg` says of the side's peer; nothing, and said, where there is no `wg`.
fn shown(pair: &Pair, side: Side, what: &str) -> Option<wg::ShownPeer> {
    // `cargo xtask bench tunnel` unpacks one, for machines that have none of their own.
    let unpacked = programs::workspace_folder().join("target/bench/tools/debian/usr/bin/wg");
    let candidates = [PathBuf::from("wg"), unpacked];
    for candidate in &candidates {
        match wg::show(candidate, &pair.lab.device(side)) {
            Ok(shown) => return Some(shown),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("wg show: {error}"),
        }
    }
    eprintln!("SKIPPED: {what}: `wg show`: no `wg` (Debian package wireguard-tools)");
    None
}

fn assert_sane(shown: &wg::ShownPeer, bytes: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(
        (now - 60..=now + 1).contains(&shown.latest_handshake),
        "{} is not a moment before {now}",
        shown.latest_handshake
    );
    // Each byte crosses in both directions, with at most a tenth on top of it.
    for counted in [shown.received, shown.sent] {
        assert!((bytes..bytes * 13 / 10).contains(&counted), "{shown:?}");
    }
}
