//! Addresses that change under a transfer.

use std::time::Duration;

use orfe_test_support::lab::Side;
use orfe_test_support::lab::ends::Mode;

use super::{GATEWAYS, Kind, Pair, STACKS, finish_echo, skipped};

/// On each of two streams: enough for some seconds of the slow link.
const BYTES: u64 = 12_000_000;
/// The same where nothing slows it down.
const MANY_BYTES: u64 = 60_000_000;
/// Bound on a whole transfer: it takes some seconds, and more where debug builds share a busy machine.
const WITHIN: Duration = Duration::from_mins(2);
/// A link slow enough that the transfer is under way when addresses change.
const SLOW: [&str; 2] = ["--rate-mbit-s", "100"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_when_the_nat_forgets_and_when_the_gateway_moves() {
    if skipped("roaming") {
        return;
    }
    for stack in STACKS {
        let mut pair = Pair::start(Kind::Orfe(stack), Kind::Orfe(Mode::Tun), Some(&SLOW)).await;
        let mut client = pair.begin_echo(2, BYTES).await;
        pair.until_served(BYTES / 4).await;
        pair.relay("move client").await;
        pair.until_served(BYTES).await;
        pair.relay("move target").await;
        let report = finish_echo(&mut client, 2, BYTES, WITHIN).await;
        eprintln!(
            "{stack}: two changes of address, {BYTES} bytes twice in {:.1} s",
            report.seconds
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_when_the_device_has_another_address() {
    if skipped("roaming") {
        return;
    }
    for stack in STACKS {
        for far in [&[Mode::Tun][..], &GATEWAYS].concat() {
            eprintln!("{stack} to {far}: another address");
            let mut pair = Pair::start(Kind::Orfe(stack), Kind::Orfe(far), None).await;
            let mut client = pair.begin_echo(2, MANY_BYTES).await;
            pair.until_served(MANY_BYTES / 8).await;
            // A new lease: the old address is gone, and with it what was sent to it.
            let old = format!("address del {}/24 dev wire", Side::Near.wire());
            pair.lab.ip(Side::Near, &old).unwrap();
            pair.lab
                .ip(Side::Near, "address add 198.18.0.77/24 dev wire")
                .unwrap();
            let report = finish_echo(&mut client, 2, MANY_BYTES, WITHIN).await;
            eprintln!(
                "{stack} to {far}: {MANY_BYTES} bytes twice in {:.1} s",
                report.seconds
            );
        }
    }
}
