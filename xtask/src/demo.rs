//! `cargo xtask demo`: the whole of Orfe on one machine, with no root and no configuration.
//!
//! # How it works
//!
//! After the build, everything lives in one fresh private folder: the registry's data, the stand-in
//! Coder's certificates, the devices' state, every log. The parts start in the order in which they
//! need each other (Coder, registry, devices), each a process of its own in its own process group, so
//! that Ctrl-C reaches this process alone and the parts end in order: devices, registry, Coder.
//!
//! Coder is known to the devices by a name that only the gateway's policy knows. A child that is
//! connected has therefore gone through proxy, tunnel and gateway.
//!
//! # What can fail
//!
//! A part that ends by itself, or is not ready in time, ends the demo with its last log lines. Whatever
//! the reason for the end, the parts are stopped and the folder is removed; should this process be
//! killed, its [`keeper`] does it.

mod agent;
pub(crate) mod artifacts;
pub(crate) mod coder;
mod folder;
pub(crate) mod keeper;
mod leftover;
mod part;
pub(crate) mod registry;
mod report;
pub(crate) mod screen;
mod shell;
pub(crate) mod stage;
pub(crate) mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use tokio::time::timeout;
use url::Url;

use self::coder::CoderChoice;
use self::screen::Screen;
use self::stage::Stage;
use crate::interrupt::Interrupts;

/// How long `--check` waits, from the first process started, for every device to be healthy.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// How much later than cargo we may be told of a signal that went to both.
const SAME_SIGNAL: Duration = Duration::from_millis(300);

/// Exit code of a check that was interrupted, as shells report SIGINT.
const INTERRUPTED: u8 = 130;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait until every device is healthy, print one JSON object, stop; exit 1 after 60 s without it
    #[arg(long)]
    check: bool,
    /// How many devices to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    devices: u8,
    /// Keep the demo's folder, with its logs, when it ends
    #[arg(long)]
    keep: bool,
    /// Build and run optimised programs
    #[arg(long)]
    release: bool,
    /// Use this Coder instead of the stand-in; on http at loopback it is given the demo's name
    #[arg(long, value_name = "URL", requires = "psk_file", requires = "coder_bin")]
    coder_url: Option<Url>,
    /// File that holds the provisioner PSK of `--coder-url`
    #[arg(long, value_name = "FILE", requires = "coder_url")]
    psk_file: Option<PathBuf>,
    /// The `coder` program that the devices run, of the version of `--coder-url`
    #[arg(long, value_name = "PATH", requires = "coder_url")]
    coder_bin: Option<PathBuf>,
    /// PEM certificates of the authority that signed `--coder-url`'s certificate, if this machine does not trust it
    #[arg(long, value_name = "FILE", requires = "coder_url")]
    coder_ca: Option<PathBuf>,
}

/// Why the demo came to its end without an error.
#[derive(Debug)]
enum Ending {
    /// `--check` has its answer.
    Checked { healthy: bool },
    /// Ctrl-C or a signal.
    Interrupted,
}

/// Runs the demo until it is interrupted, or with `--check` until it has an answer.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let choice = CoderChoice::from_flags(args.coder_url, args.psk_file, args.coder_bin, args.coder_ca)?;
    let mut interrupts = Interrupts::listen()?;
    let mut screen = if args.check {
        Screen::for_check()
    } else {
        Screen::for_people()
    };
    let gone = screen.gone();

    let request = artifacts::Request {
        packages: &["orfe", "orfe-registry", "orfe-test-support"],
        release: args.release,
    };
    // Here and below the interrupt comes first: what it does to others is no failure of theirs.
    let programs = tokio::select! {
        biased;
        () = interrupts.next() => return Ok(interrupted_build()),
        programs = artifacts::build(&request) => programs,
    };
    let programs = match programs {
        Ok(programs) => programs,
        // The signal that ended cargo was sent to us as well, and may be told a moment later.
        Err(error) => match timeout(SAME_SIGNAL, interrupts.next()).await {
            Ok(()) => return Ok(interrupted_build()),
            Err(_elapsed) => return Err(error),
        },
    };

    let mut stage = Stage::new(programs, choice, args.devices, args.keep)?;
    let outcome = tokio::select! {
        biased;
        () = interrupts.next() => Ok(Ending::Interrupted),
        // Nobody reads any more, as after `| head`. With `--check` the result still has its reader.
        () = gone.notified(), if !args.check => Ok(Ending::Interrupted),
        outcome = play(&mut stage, &mut screen, args.check) => outcome,
    };
    // Runs on every path, and a failure of its own does not hide the first error.
    let stopped = stage.stop(&mut screen, &mut interrupts).await;
    let ending = outcome?;
    stopped?;
    Ok(match ending {
        Ending::Checked { healthy: false } => ExitCode::FAILURE,
        Ending::Interrupted if args.check => ExitCode::from(INTERRUPTED),
        Ending::Checked { healthy: true } | Ending::Interrupted => ExitCode::SUCCESS,
    })
}

/// Cargo has been ended, wherever it was in drawing its progress.
fn interrupted_build() -> ExitCode {
    screen::clear_progress();
    ExitCode::from(INTERRUPTED)
}

/// Starts everything and watches it.
async fn play(stage: &mut Stage, screen: &mut Screen, check: bool) -> Result<Ending> {
    if !check {
        let started = stage.start(screen).await?;
        watch::show(stage, screen, started).await?;
        return Ok(Ending::Interrupted);
    }
    let answer = timeout(CHECK_LIMIT, async {
        let started = stage.start(screen).await?;
        watch::until_healthy(stage, screen, started).await
    });
    let report = match answer.await {
        Ok(Ok(seconds)) => report::healthy(stage, screen, seconds).await,
        Ok(Err(error)) => {
            // The failure itself tells more than that it could not be written.
            let _ = screen::print_result(&report::failed(&error));
            return Err(error);
        }
        Err(_elapsed) => report::missing(stage, screen, CHECK_LIMIT).await,
    };
    screen::print_result(&report.document)?;
    Ok(Ending::Checked {
        healthy: report.healthy,
    })
}
