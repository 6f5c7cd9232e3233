//! `impair`: the relay of `relay::impair` as a program, to stand between two tunnels.
//!
//! Prints one JSON line with its address when it is ready. Then each line on stdin is a command, answered by one JSON
//! line: `counts`, `block`, `open`, `move client`, `move target`. It ends when stdin does.

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use orfe_test_support::relay::impair::{Bottleneck, End, ImpairedRelay, Impairment, Path, Share};
use serde_json::json;

/// A UDP relay that stands for a poor path, the same both ways.
#[derive(Parser)]
#[command(name = "impair")]
struct Cli {
    /// Where clients speak to
    #[arg(long)]
    listen: SocketAddr,
    /// Where everything goes
    #[arg(long)]
    target: SocketAddr,
    /// Delay each way, in milliseconds
    #[arg(long, default_value_t = 0.0)]
    delay_ms: f64,
    /// Share that is lost, in percent
    #[arg(long, default_value = "0")]
    loss_percent: Share,
    /// Share that comes twice, in percent
    #[arg(long, default_value = "0")]
    duplicate_percent: Share,
    /// Share that is overtaken, in percent
    #[arg(long, default_value = "0")]
    reorder_percent: Share,
    /// Rate of the slowest link, in Mbit/s
    #[arg(long)]
    rate_mbit_s: Option<u64>,
    /// What waits in front of the slowest link at most, in KiB
    #[arg(long, default_value_t = 512)]
    queue_kib: usize,
    /// Whence chance is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell it to when stderr is gone too.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> io::Result<()> {
    let impairment = Impairment {
        delay: Duration::try_from_secs_f64(cli.delay_ms / 1e3)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        loss: cli.loss_percent,
        duplicate: cli.duplicate_percent,
        reorder: cli.reorder_percent,
        bottleneck: cli.rate_mbit_s.map(|rate| Bottleneck {
            bits_per_second: rate * 1_000_000,
            queue_bytes: cli.queue_kib * 1024,
        }),
    };
    let relay = ImpairedRelay::start(cli.listen, cli.target, Path::symmetric(impairment, cli.seed))?;
    let mut out = io::stdout();
    writeln!(out, "{}", json!({ "listening": relay.address() }))?;
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "counts" => {}
            "block" => relay.block(true),
            "open" => relay.block(false),
            "move client" => relay.move_end(End::Client),
            "move target" => relay.move_end(End::Target),
            other => {
                writeln!(out, "{}", json!({ "error": format!("no command {other:?}") }))?;
                continue;
            }
        }
        writeln!(out, "{}", serde_json::to_string(&relay.counts())?)?;
    }
    Ok(())
}
