//! The stage that fuzzes: every target for some seconds, from the committed corpus.
//!
//! With a nightly compiler and cargo-fuzz, which nothing else needs, it is libFuzzer that looks; without them, a search by mutation
//! with the ordinary compiler. The corpus itself is replayed by the ordinary tests. What is found lies in `tests/fuzz/artifacts`; mended, it belongs into the corpus under a name that says what it is.

use std::process::Command as Blocking;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::Command;
use tokio::time::timeout;

use super::provision::{Environment, say};
use super::tally::Tally;
use crate::cargo;

/// How long one target runs, in seconds: enough for what a change breaks near the corpus, short enough for every run of
/// the stages. Longer runs are started by hand (CONTRIBUTING.md).
const SECONDS: u32 = 15;
/// A target that needs more memory than this has found something.
const MEMORY_MIB: u32 = 512;
const FOLDER: &str = "tests/fuzz";
const TARGETS: [&str; 10] = [
    "proxy_http",
    "proxy_socks",
    "core_datagram",
    "core_node",
    "gateway_dns",
    "stack_pair",
    "stack_peer",
    "tun_offload",
    "kernel_packet",
    "forwarder_sniff",
];

/// How long a search without libFuzzer may take beyond its time, in seconds: it is compiled first, and one that hangs has found
/// something.
const GRACE: u64 = 300;

/// Why there is no libFuzzer here, if there is none.
fn obstacle(environment: &Environment) -> Option<&'static str> {
    if !environment.has("cargo-fuzz") {
        return Some("cargo-fuzz is not installed (`cargo install cargo-fuzz`)");
    }
    let nightly = Blocking::new("rustup")
        .args(["run", "nightly", "rustc", "--version"])
        .env("PATH", environment.path())
        .output();
    match nightly {
        Ok(output) if output.status.success() => None,
        _ => Some("there is no nightly compiler (`rustup toolchain install nightly`)"),
    }
}

/// Runs every target; each counts as one test.
pub(super) async fn run(environment: &Environment) -> Result<Tally> {
    let mut tally = Tally::default();
    let obstacle = obstacle(environment);
    if let Some(reason) = obstacle {
        say(&format!(
            "{reason}: inputs near the corpus instead, without coverage"
        ));
    }
    for target in TARGETS {
        let found_nothing = match obstacle {
            None => fuzz(environment, target).await?,
            Some(_) => mutate(environment, target).await?,
        };
        if found_nothing {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    Ok(tally)
}

/// Whether a search with the ordinary compiler found nothing.
async fn mutate(environment: &Environment, target: &str) -> Result<bool> {
    let mut command = cargo::command()?;
    command
        .args([
            "run",
            "--quiet",
            "--package",
            "orfe-replay",
            "--bin",
            "mutate",
            "--",
            target,
        ])
        .arg(SECONDS.to_string())
        .env("PATH", environment.path());
    let within = Duration::from_secs(u64::from(SECONDS) + GRACE);
    match timeout(within, command.status()).await {
        Ok(status) => Ok(status.context("cannot run cargo")?.success()),
        Err(_elapsed) => {
            say(&format!("{target}: an input takes for ever"));
            Ok(false)
        }
    }
}

/// Whether libFuzzer found nothing.
async fn fuzz(environment: &Environment, target: &str) -> Result<bool> {
    let root = cargo::workspace_root()?;
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
    Ok(command.status().await.context("cannot run cargo-fuzz")?.success())
}
