//! `cargo xtask test`: every check that a change must pass.
//!
//! The checks are stages, run one after the other in the order of their cost. A stage that this
//! machine cannot run is skipped with its reason, and so is a test that says `SKIPPED: reason`; both
//! are counted in the last lines, and neither counts as passed. A failed stage does not keep the next
//! ones from running.
//!
//! In continuous integration (`CI=true`, as root, on a system with apt) what the stages need is
//! installed first ([`provision`]).

mod fuzz;
mod provision;
mod stage;
mod summary;
mod tally;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

pub(crate) use self::provision::{Environment, attempt, install_packages, say};
use self::stage::Stage;
use self::summary::{Summary, Verdict};
use crate::interrupt::Interrupts;

/// Exit code of a run that was interrupted, as shells report SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run this stage alone (may be given more than once)
    #[arg(long, value_name = "STAGE")]
    only: Vec<Stage>,
    /// Name the stages and end
    #[arg(long)]
    list: bool,
}

/// Runs the stages and sums them up.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut out = std::io::stdout();
    if args.list {
        for stage in Stage::ALL {
            writeln!(out, "{:<8} {}", stage.name(), stage.describe())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut interrupts = Interrupts::listen()?;
    let chosen = |stage: &Stage| args.only.is_empty() || args.only.contains(stage);
    let stages: Vec<Stage> = Stage::ALL.into_iter().filter(chosen).collect();
    tokio::select! {
        summary = run_stages(&stages) => {
            let summary = summary?;
            write!(out, "{summary}")?;
            Ok(if summary.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        () = interrupts.next() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// Looks for what `cargo xtask check-cross` needs, and installs it where that is wanted.
pub(crate) async fn prepare_for_cross() -> Environment {
    provision::prepare(&[Stage::Cross]).await
}

async fn run_stages(stages: &[Stage]) -> Result<Summary> {
    let environment = provision::prepare(stages).await;
    let mut summary = Summary::default();
    for &stage in stages {
        writeln!(std::io::stdout(), "\n── {} · {}", stage.name(), stage.describe())?;
        let begun = Instant::now();
        let verdict = match stage.obstacle(&environment) {
            Some(reason) => {
                writeln!(std::io::stdout(), "SKIPPED: {reason}")?;
                Verdict::Skipped(reason)
            }
            None => stage.run(&environment).await?,
        };
        summary.add(stage.name(), begun.elapsed(), verdict);
    }
    Ok(summary)
}
