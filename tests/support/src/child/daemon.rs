//! The running daemon: everything that goes on at the same time, what ends it, and what it says then.
//!
//! Only the first signal counts; later ones are swallowed, but QUIT, which always dumps and ends with 2.

use std::cell::Cell;
use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::process::ExitCode;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::fault::Faults;
use super::lines;
use super::log::Logger;
use super::options::Options;
use super::session::Link;
use super::setup::{self, Ready};
use super::{Environment, complain, metrics, terraform};
use crate::scale::TimeScale;

/// Lines of the dump that follows QUIT.
const DUMP_LINES: usize = 335;
const LONG_LINE: usize = 1024 * 1024;

/// What the process was started with.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) environment: Environment,
    pub(super) scale: TimeScale,
    pub(super) faults: Faults,
}

struct Signals {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
    quit: Signal,
}

enum End {
    /// Finish the job, then end.
    Stop,
    /// Cancel the job, then end.
    Interrupt,
    Quit,
    NoTerraform(String),
    Crash,
    Exit(u8),
}

/// Runs to the end; an `Err` is the text of the program's last complaint.
pub(super) async fn run(world: World) -> Result<ExitCode, String> {
    let mut signals = Signals::install().map_err(|error| format!("cannot listen for signals: {error}"))?;
    if world.faults.hang {
        return Ok(end_by_quit(signals.quit.recv().await));
    }
    // A hung preflight takes no notice of TERM and INT until it is done.
    let ready = tokio::select! {
        quit = signals.quit.recv() => return Ok(end_by_quit(quit)),
        ready = setup::prepare(&world) => ready?,
    };
    start_faults(&world)?;
    let connected = Cell::new(false);
    let logger = &ready.logger;
    let mut work = pin!(work(&world, &ready, &connected));
    let end = tokio::select! {
        end = signals.first(world.faults.ignore_term) => end,
        failure = &mut work => End::NoTerraform(failure),
        end = told_end(&world.faults) => end,
    };
    match end {
        End::Stop => {
            say(
                "Stop caught, waiting for provisioner jobs to complete and gracefully exiting. Use ctrl+\\ to force quit",
            );
            shut_down(&world, logger, &connected, &mut signals, work).await
        }
        End::Interrupt => {
            say("Interrupt caught, gracefully exiting. Use ctrl+\\ to force quit");
            shut_down(&world, logger, &connected, &mut signals, work).await
        }
        End::Quit => Ok(end_by_quit(Some(()))),
        End::NoTerraform(failure) => Err(fail(logger, &connected, &failure)),
        End::Crash => {
            complain(&["panic: runtime error: invalid memory address or nil pointer dereference".to_owned()]);
            complain(&[
                "[signal SIGSEGV: segmentation violation]".to_owned(),
                String::new(),
            ]);
            complain(&["goroutine 1 [running]:".to_owned()]);
            Ok(ExitCode::from(2))
        }
        End::Exit(code) => Ok(ExitCode::from(code)),
    }
}

/// Metrics, connect loop and the search for terraform, side by side; ends when there is no terraform.
async fn work(world: &World, ready: &Ready, connected: &Cell<bool>) -> String {
    let link = Link {
        logger: &ready.logger,
        dialer: &ready.dialer,
        name: &ready.name,
        tags: &ready.dialed_tags,
        scale: world.scale,
        connected,
    };
    let metrics = async {
        match &world.options.prometheus {
            Some(address) => metrics::serve(address, &ready.logger).await,
            None => std::future::pending().await,
        }
    };
    let connect = async {
        link.run().await;
        // Forbidden: alive, and never dialling again.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = metrics => String::new(),
        () = connect => String::new(),
        failure = terraform::watch(world, &ready.logger, &ready.cache_dir) => failure,
    }
}

async fn shut_down(
    world: &World,
    logger: &Logger,
    connected: &Cell<bool>,
    signals: &mut Signals,
    work: impl Future<Output = String>,
) -> Result<ExitCode, String> {
    logger.line(&lines::SHUTDOWN_START, &[]);
    if let Some(drain) = world.faults.drain {
        // Connected and redialling while the job is finished.
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            failure = work => return Err(fail(logger, connected, &failure)),
            quit = signals.quit.recv() => return Ok(end_by_quit(quit)),
        }
    }
    end_acquiring(logger, connected);
    logger.line(&lines::SHUTDOWN_DONE, &[]);
    logger.line(&lines::CLOSING, &[]);
    logger.line(&lines::CLOSE_WAITING, &[]);
    logger.line(&lines::CONNECT_EXITED, &[]);
    logger.line(&lines::CLOSE_DONE, &[("error", json!(null))]);
    Ok(ExitCode::SUCCESS)
}

fn fail(logger: &Logger, connected: &Cell<bool>, failure: &str) -> String {
    complain(&[
        format!("ERROR: Unexpected error, shutting down server: {failure}"),
        String::new(),
    ]);
    logger.line(&lines::SHUTDOWN_START, &[]);
    logger.line(&lines::SHUTDOWN_FAILED, &[("error", json!("context canceled"))]);
    end_acquiring(logger, connected);
    "shutdown: context canceled".to_owned()
}

/// What a connected daemon says with `--verbose` when it stops asking for jobs.
fn end_acquiring(logger: &Logger, connected: &Cell<bool>) {
    if !connected.get() {
        return;
    }
    logger.line(&lines::ACQUIRE_CANCELING, &[]);
    logger.line(
        &lines::ACQUIRE_DONE,
        &[("job_id", json!("")), ("error", json!(null))],
    );
    logger.line(&lines::ACQUIRE_CANCELED, &[]);
    logger.line(&lines::ACQUIRE_ENDING, &[]);
    logger.line(&lines::ACQUIRE_EXITED, &[]);
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn first(&mut self, ignore_term: bool) -> End {
        loop {
            let end = tokio::select! {
                _ = self.terminate.recv() => End::Stop,
                _ = self.hang_up.recv() => End::Stop,
                _ = self.interrupt.recv() => End::Interrupt,
                _ = self.quit.recv() => End::Quit,
            };
            if !ignore_term || matches!(end, End::Quit) {
                return end;
            }
        }
    }
}

/// `quit` is what the signal's stream gave; it never ends.
fn end_by_quit(_quit: Option<()>) -> ExitCode {
    let mut dump = vec![
        "SIGQUIT: quit".to_owned(),
        "PC=0x0 m=0 sigcode=0".to_owned(),
        String::new(),
    ];
    dump.push("goroutine 0 gp=0x0 m=0 mp=0x0 [idle]:".to_owned());
    dump.resize(1 + DUMP_LINES, "stand-in: no goroutine stands here".to_owned());
    complain(&dump);
    ExitCode::from(2)
}

async fn told_end(faults: &Faults) -> End {
    let crash = async {
        match faults.crash_after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    let exit = async {
        match faults.exit_after {
            Some((after, code)) => {
                tokio::time::sleep(after).await;
                code
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = crash => End::Crash,
        code = exit => End::Exit(code),
    }
}

/// Faults that show themselves right after the start.
fn start_faults(world: &World) -> Result<(), String> {
    let mut stderr = std::io::stderr().lock();
    let written = (|| {
        if world.faults.garbage {
            stderr.write_all(b"plain text\n{\"level\":\"INFO\",\"msg\":\n\xff\xfe\x00 not text\n\n{}\n")?;
        }
        if world.faults.long_line {
            stderr.write_all(&vec![b'x'; LONG_LINE])?;
            stderr.write_all(b"\n")?;
        }
        Ok(())
    })();
    written.map_err(|error: std::io::Error| format!("cannot write to stderr: {error}"))?;
    if let Some(seconds) = world.faults.grandchild_seconds {
        // Left behind on purpose, in this process's group, as terraform is when the daemon is killed.
        let mut sleep = std::process::Command::new("/bin/sleep");
        sleep.arg(seconds.to_string()).stdin(std::process::Stdio::null());
        sleep
            .spawn()
            .map_err(|error| format!("cannot start sleep: {error}"))?;
    }
    Ok(())
}

fn say(line: &str) {
    // Nobody is left to tell when stdout is gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}
