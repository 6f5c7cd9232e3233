//! Poor paths: loss, reordering, repetition, delay. Slow they may be, wrong never.

use std::time::Duration;

use orfe_test_support::lab::ends::Mode;

use super::{Kind, Pair, STACKS, skipped};

/// A path: its name, the relay's arguments, and as many bytes as it carries in some seconds.
const PATHS: [(&str, &[&str], u64); 4] = [
    ("1 % loss", &["--loss-percent", "1"], 2_000_000),
    ("5 % loss", &["--loss-percent", "5"], 300_000),
    ("20 % loss", &["--loss-percent", "20"], 30_000),
    (
        "50 ms there and back, a tenth out of order, some twice",
        &[
            "--delay-ms",
            "25",
            "--reorder-percent",
            "10",
            "--duplicate-percent",
            "2",
        ],
        1_000_000,
    ),
];
/// One lost segment after the other doubles TCP's patience; a test that needs this long has failed.
const WITHIN: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_on_a_poor_path_arrives_as_it_was() {
    if skipped("poor paths") {
        return;
    }
    for stack in STACKS {
        for (name, arguments, bytes) in PATHS {
            let mut pair = Pair::start(Kind::Orfe(stack), Kind::Orfe(Mode::Tun), Some(arguments)).await;
            let report = pair.echo(2, bytes, WITHIN).await;
            let counts = pair.relay("counts").await;
            eprintln!(
                "{stack}, {name}: {bytes} bytes there and back in {:.1} s, twice at once",
                report.seconds
            );
            let (lost, reordered) = (&counts["up"]["lost"], &counts["up"]["reordered"]);
            assert!(
                lost.as_u64() > Some(0) || reordered.as_u64() > Some(0),
                "{stack}, {name}: the path was as poor as it should be: {counts}"
            );
        }
    }
}
