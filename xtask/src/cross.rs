//! `cargo xtask check-cross`: what is written for macOS and Windows compiles there, and has no warning.
//!
//! For each target the crates are checked by clippy, which includes the compiler's own checks; where there is a linker, the
//! unit tests of some crates are linked, too, and run when cargo is told by what ([`RUNNER`]; wine 10 can). What a target
//! lacks ([`toolchain`]) is skipped with its reason, never passed.
//!
//! An error fails. A warning is shown and counted, and does not: the compiler is not the pinned one, and its clippy may know
//! rows that ours does not.

mod table;
mod toolchain;

use std::io::Write as _;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use self::table::{Outcome, Row, Table};
pub(crate) use self::toolchain::{install, obstacle};
use crate::interrupt::Interrupts;
use crate::test::{Environment, INTERRUPTED};

/// The libraries that an agent on another system is made of.
const LIBRARIES: [&str; 7] = [
    "orfe-protocol",
    "orfe-platform",
    "orfe-tunnel-core",
    "orfe-tunnel",
    "orfe-core",
    "orfe-supervisor",
    "orfe-hardware",
];
/// The agent's program, for the systems that it is written for.
const PROGRAM: &str = "orfe";
/// Crates whose unit tests run on Windows: those without I/O, and the data plane with its TUN mode, which has a stand-in for the
/// driver.
const TESTED: [&str; 4] = ["orfe-protocol", "orfe-tunnel-core", "orfe-core", "orfe-tunnel"];
/// Tests that wine cannot run: it has no UDP sockets of IPv4 such as quinn-udp wants (`IPV6_V6ONLY` is refused), and no resolver.
const BEYOND_WINE: [&str; 4] = [
    "carrier::relay::",
    "gateway::upstream::",
    "tun::tests::",
    "udp::tests::",
];
/// Cargo's own variable for the program that runs Windows programs.
const RUNNER: &str = "CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER";
/// One check builds the standard library and all dependencies: three minutes on two cores.
const CHECK_WITHIN: Duration = Duration::from_mins(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    #[value(name = "aarch64-apple-darwin")]
    MacArm,
    #[value(name = "x86_64-apple-darwin")]
    MacIntel,
    #[value(name = "x86_64-pc-windows-gnu")]
    Windows,
}

impl Target {
    const ALL: [Self; 3] = [Self::MacArm, Self::MacIntel, Self::Windows];
    /// One for each system: what differs between two processors of one system is in none of our crates.
    const SYSTEMS: [Self; 2] = [Self::MacArm, Self::Windows];

    const fn triple(self) -> &'static str {
        match self {
            Self::MacArm => "aarch64-apple-darwin",
            Self::MacIntel => "x86_64-apple-darwin",
            Self::Windows => "x86_64-pc-windows-gnu",
        }
    }

    const fn is_mac(self) -> bool {
        matches!(self, Self::MacArm | Self::MacIntel)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Lint,
    /// Without the frameworks of macOS there is nothing to link with, so this is for Windows alone.
    Link,
    /// The same, and what was linked is run.
    Run,
}

impl Check {
    fn describe(self, target: Target) -> String {
        match self {
            Self::Lint if target.is_mac() => format!("clippy: {} libraries, {PROGRAM}", LIBRARIES.len()),
            Self::Lint => format!("clippy: {} libraries", LIBRARIES.len()),
            Self::Link => format!("link: tests of {} crates", TESTED.len()),
            Self::Run => format!("run: tests of {} crates", TESTED.len()),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Check for this target alone (may be given more than once)
    #[arg(long, value_name = "TARGET")]
    target: Vec<Target>,
}

/// The command: every target, every check.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    let targets = if args.target.is_empty() {
        Target::ALL.to_vec()
    } else {
        args.target
    };
    let checks: Vec<(Target, Check)> = targets
        .into_iter()
        .flat_map(|target| {
            let tests = match std::env::var_os(RUNNER) {
                Some(_) => Check::Run,
                None => Check::Link,
            };
            let tests = (target == Target::Windows).then_some((target, tests));
            [(target, Check::Lint)].into_iter().chain(tests)
        })
        .collect();
    let all = async {
        let environment = crate::test::prepare_for_cross().await;
        check_all(&environment, &checks).await
    };
    tokio::select! {
        table = all => {
            let table = table?;
            write!(std::io::stdout(), "\n{table}")?;
            Ok(if table.failed() == 0 && table.passed() > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        () = interrupts.next() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// The stage of `cargo xtask test`: one target for each system, without linking.
pub(crate) async fn check_systems(environment: &Environment) -> Result<Table> {
    let checks = Target::SYSTEMS.map(|target| (target, Check::Lint));
    let table = check_all(environment, &checks).await?;
    write!(std::io::stdout(), "\n{table}")?;
    Ok(table)
}

async fn check_all(environment: &Environment, checks: &[(Target, Check)]) -> Result<Table> {
    let mut table = Table::default();
    for &(target, check) in checks {
        let what = check.describe(target);
        writeln!(std::io::stdout(), "{}: {what}", target.triple())?;
        let begun = Instant::now();
        let outcome = match obstacle().or_else(|| toolchain::obstacle_to(target)) {
            Some(reason) => {
                writeln!(std::io::stdout(), "SKIPPED: {reason}")?;
                Outcome::Skipped(reason)
            }
            None => watched(command(environment, target, check)?).await?,
        };
        table.add(Row {
            target: target.triple(),
            what,
            took: begun.elapsed(),
            outcome,
        });
    }
    Ok(table)
}

fn command(environment: &Environment, target: Target, check: Check) -> Result<Command> {
    let mut command = toolchain::cargo(environment, target)?;
    match check {
        Check::Lint => {
            command.args(["clippy", "--quiet"]).args(packages(&LIBRARIES));
            if target.is_mac() {
                command.args(packages(&[PROGRAM]));
            }
        }
        Check::Link | Check::Run => {
            command.args(["test", "--lib", "--quiet"]).args(packages(&TESTED));
            if check == Check::Link {
                command.arg("--no-run");
            }
        }
    }
    command.args(["-Zbuild-std", "--target", target.triple()]);
    if check == Check::Run {
        command.arg("--");
        command.args(BEYOND_WINE.iter().flat_map(|tests| ["--skip", tests]));
    }
    Ok(command)
}

fn packages<'a>(names: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    names.iter().flat_map(|name| ["--package", name])
}

/// Runs cargo, shows what it says, and counts its warnings.
async fn watched(mut command: Command) -> Result<Outcome> {
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut lines = BufReader::new(child.stderr.take().context("cargo has no stderr")?).lines();
    let mut warnings = 0;
    let reading = async {
        while let Some(line) = lines.next_line().await? {
            warnings += usize::from(line.starts_with("warning"));
            writeln!(std::io::stdout(), "{line}")?;
        }
        child.wait().await
    };
    let Ok(status) = timeout(CHECK_WITHIN, reading).await else {
        let minutes = CHECK_WITHIN.as_secs() / 60;
        return Ok(Outcome::Failed(format!("took more than {minutes} min")));
    };
    let status = status.context("cannot wait for cargo")?;
    Ok(if status.success() {
        Outcome::Passed { warnings }
    } else {
        Outcome::Failed(status.to_string())
    })
}
