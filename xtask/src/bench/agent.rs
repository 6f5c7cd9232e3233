//! The agent at rest.
//!
//! One optimised `orfe` runs as in the demo (joined, tunnel up, a provisioner connected through it), with the registry's
//! usual heartbeat of 15 s. After [`SETTLING`] its process is read from `/proc` at both ends of the given time:
//! resident memory, CPU time of all threads, voluntary context switches of all threads (each is a wake-up).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::proc::Process;
use crate::demo::artifacts::{self, Request};
use crate::demo::coder::CoderChoice;
use crate::demo::registry::Session;
use crate::demo::screen::Screen;
use crate::demo::stage::Stage;
use crate::demo::watch;
use crate::interrupt::Interrupts;

/// From healthy to the first reading: the start's own work is over.
const SETTLING: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// Measure a program that is built without optimisation: quicker, and good for nothing but the wake-ups
    #[arg(long)]
    unoptimised: bool,
}

/// Measures one row.
pub(super) async fn run(args: Args) -> Result<Vec<Map<String, Value>>> {
    let others = Request {
        packages: &["orfe-registry", "orfe-test-support"],
        release: false,
    };
    let measured = Request {
        packages: &["orfe"],
        release: !args.unoptimised,
    };
    let programs = artifacts::build(&others)
        .await?
        .with(artifacts::build(&measured).await?);
    let binary = std::fs::metadata(programs.path("orfe")?)
        .context("cannot look at the binary")?
        .len();

    let mut interrupts = Interrupts::listen()?;
    let mut screen = Screen::for_check();
    let choice = CoderChoice::from_flags(None, None, None, None)?;
    let mut stage = Stage::new(programs, choice, 1, false)?.with_session(Session::USUAL);
    let outcome = tokio::select! {
        outcome = measure(&mut stage, &mut screen, Duration::from_secs(args.seconds)) => outcome,
        () = interrupts.next() => Err(anyhow::anyhow!("interrupted")),
    };
    // Runs on every path, and a failure of its own does not hide the first error.
    let stopped = stage.stop(&mut screen, &mut interrupts).await;
    let mut row = outcome?;
    stopped?;
    row.insert("is_optimised".to_owned(), (!args.unoptimised).into());
    row.insert("binary_mib".to_owned(), rounded(mib(binary)));
    Ok(vec![row])
}

async fn measure(stage: &mut Stage, screen: &mut Screen, time: Duration) -> Result<Map<String, Value>> {
    let started = stage.start(screen).await?;
    let healthy_after = watch::until_healthy(stage, screen, started).await?;
    let process = Process(stage.pid("demo-1").context("the device's daemon is not there")?);
    tokio::time::sleep(SETTLING).await;
    let (begun, before) = (Instant::now(), process.read_with_helper()?);
    let before_by_thread = process.wakeups_by_thread()?;
    tokio::time::sleep(time).await;
    let (seconds, after) = (begun.elapsed().as_secs_f64(), process.read_with_helper()?);
    let by_thread: Map<String, Value> = process
        .wakeups_by_thread()?
        .into_iter()
        .map(|(name, wakeups)| {
            let earlier = before_by_thread.get(&name).copied().unwrap_or_default();
            (name, rounded(wakeups.saturating_sub(earlier) as f64 / seconds))
        })
        .collect();
    let tcp_stack = if process.helper().is_some() {
        "namespace"
    } else {
        "smoltcp"
    };
    let row = json!({
        "config": "idle, tunnel up, one provisioner connected, heartbeat 15 s",
        "mode": "userspace",
        "tcp_stack": tcp_stack,
        "seconds": rounded(seconds),
        "rss_mib": rounded(mib(after.rss_bytes)),
        "cpu_percent": rounded((after.cpu_ns - before.cpu_ns) as f64 / 1e7 / seconds),
        "wakeups_s": rounded((after.wakeups - before.wakeups) as f64 / seconds),
        "wakeups_s_by_thread": by_thread,
        "join_to_healthy_s": rounded(healthy_after),
    });
    match row {
        Value::Object(row) => Ok(row),
        _ => unreachable!("the literal above is an object"),
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// Three decimals are more than a run repeats.
fn rounded(value: f64) -> Value {
    ((value * 1000.0).round() / 1000.0).into()
}
