//! The stage that fuzzes: every target for some seconds, from the committed corpus.
//!
//! It needs a nightly compiler and cargo-fuzz, which nothing else does; the corpus itself is replayed by the ordinary tests.
//! What is found lies in `tests/fuzz/artifacts`; mended, it belongs into the corpus under a name that says what it is.

use std::process::Command as Blocking;

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::provision::Environment;
use super::tally::Tally;
use crate::cargo;

/// How long one target runs, in seconds: enough for what a change breaks near the corpus, short enough for every run of
/// the stages. Longer runs are started by hand (CONTRIBUTING.md).
const SECONDS: u32 = 20;
/// A target that needs more memory than this has found something.
const MEMORY_MIB: u32 = 512;
const FOLDER: &str = "tests/fuzz";
const TARGETS: [&str; 5] = [
    "proxy_http",
    "proxy_socks",
    "core_datagram",
    "core_node",
    "gateway_dns",
];

/// Why it cannot run here, if it cannot.
pub(super) fn obstacle(environment: &Environment) -> Option<String> {
    if !environment.has("cargo-fuzz") {
        return Some("cargo-fuzz is not installed (`cargo install cargo-fuzz`)".to_owned());
    }
    let nightly = Blocking::new("rustup")
        .args(["run", "nightly", "rustc", "--version"])
        .env("PATH", environment.path())
        .output();
    match nightly {
        Ok(output) if output.status.success() => None,
        _ => Some("there is no nightly compiler (`rustup toolchain install nightly`)".to_owned()),
    }
}

/// Runs every target; each counts as one test.
pub(super) async fn run(environment: &Environment) -> Result<Tally> {
    let root = cargo::workspace_root()?;
    let mut tally = Tally::default();
    for target in TARGETS {
        // New inputs go into a folder of their own, so that a run leaves the committed corpus as it is.
        let found = root.join("target/fuzz-corpus").join(target);
        std::fs::create_dir_all(&found).context("no folder for new inputs")?;
        let mut command = Command::new("rustup");
        command
            .args([
                "run",
                "nightly",
                "cargo",
                "fuzz",
                "run",
                "--fuzz-dir",
                FOLDER,
                target,
            ])
            .arg(&found)
            .arg(root.join(FOLDER).join("corpus").join(target))
            .arg("--")
            .arg(format!("-max_total_time={SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .current_dir(root)
            .env("PATH", environment.path())
            // The toolchain that runs us would win over the one that is asked for.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO")
            .kill_on_drop(true);
        let status = command.status().await.context("cannot run cargo-fuzz")?;
        if status.success() {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    Ok(tally)
}
