//! The recordings held to a real `coder` binary, where there is one: what the stand-in is compared with must still be
//! what the real program does, and the real program must do it against the stand-in's server too.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::recordings;
use crate::runner::{self, World};

/// Names a real, full `coder` binary.
const VARIABLE: &str = "ORFE_REAL_CODER";
/// Cases in which no session comes about or its end is not waited for. The stand-in's server does not speak the
/// protocol inside a session, so a real program that is connected to it never finishes its shutdown; those cases (groups e,
/// h, l, n and some of f and g) need a real server.
const GROUPS: [char; 7] = ['a', 'b', 'c', 'd', 'f', 'g', 'k'];
/// Cases of these groups that cannot be held against the stand-in's server, and why.
const APART: [(&str, &str); 5] = [
    ("f01-connection-cut-and-restored", "a session is shut down"),
    ("f02-blackhole", "a session is shut down"),
    ("g01-key-connected", "a session is shut down"),
    (
        "g05-key-deleted-while-connected-then-cut",
        "a session is cut and its end looked at",
    ),
    (
        "k11-tls-to-a-plain-server",
        "the recorded server answered in something else than HTTP",
    ),
];
/// A recorded second takes a second: the real program cannot be told to hurry.
const REAL_TIME: f64 = 1.0;
/// Children at a time; they mostly wait.
const SIDE_BY_SIDE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_coder_still_does_what_was_recorded() {
    let Some(coder) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        crate::announce(&format!("SKIPPED: {VARIABLE} is not set; no real coder was run"));
        return;
    };
    let output = Command::new(&coder)
        .args(["version", "-o", "json"])
        .output()
        .unwrap();
    let version: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("real coder: {}", version["version"]);
    assert_eq!(
        (&version["slim"], &version["agpl"]),
        (&false.into(), &false.into()),
        "a full binary is needed"
    );
    let Some(folder) = recordings::folder() else {
        return;
    };
    let mut cases = recordings::cases(&folder, &GROUPS);
    for (name, reason) in APART {
        println!("{name:<45} left out: {reason}");
    }
    cases.retain(|case| APART.iter().all(|(name, _)| *name != case.name));
    let count = cases.len();
    assert!(count >= 30, "only {count} cases found");
    // The longest first, so that none of them is left for the end.
    cases.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    let room = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut running = JoinSet::new();
    for case in cases {
        let (room, coder) = (Arc::clone(&room), coder.clone());
        running.spawn(async move {
            let _one = room.acquire().await.unwrap();
            let world = World::build_at(&case, REAL_TIME).await;
            let outcome = runner::run_in(&case, &world, &coder).await;
            let verdict = if outcome.differences.is_empty() {
                "as recorded"
            } else {
                "DIFFERS"
            };
            println!("{:<45} {verdict}", outcome.case);
            outcome
        });
    }
    let mut outcomes = running.join_all().await;
    outcomes.sort_by(|one, other| one.case.cmp(&other.case));
    let mut differing = Vec::new();
    for outcome in &outcomes {
        if !outcome.differences.is_empty() {
            differing.push(format!(
                "{}\n  {}",
                outcome.case,
                outcome.differences.join("\n  ")
            ));
        }
    }
    crate::announce(&format!(
        "{} of {count} recorded cases are what the real coder does",
        count - differing.len()
    ));
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
