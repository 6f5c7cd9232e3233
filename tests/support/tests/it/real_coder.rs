//! The recordings held to a real `coder` binary, where there is one: what the stand-in is compared with must still be
//! what the real program does.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::recordings;
use crate::runner::{self, World};

/// Names a real, full `coder` binary.
const VARIABLE: &str = "ORFE_REAL_CODER";
/// Cases without a server of Coder's.
const CASES: [&str; 7] = [
    "a01-no-url",
    "a02-no-credential",
    "a03-psk-and-key",
    "a06-tag-without-equals",
    "a08-name-underscore",
    "a10-key-server-down",
    "a11-unknown-flag",
];

#[tokio::test]
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
    let cases = recordings::cases(&folder, &['a']);
    for name in CASES {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let outcome = runner::run_in(case, &World::build(case).await, &coder).await;
        println!(
            "{name}: {}",
            if outcome.differences.is_empty() {
                "as recorded"
            } else {
                "DIFFERS"
            }
        );
        assert!(
            outcome.differences.is_empty(),
            "{name}: {}",
            outcome.differences.join("\n")
        );
    }
}
