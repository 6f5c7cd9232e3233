//! `tunnel-handshakes PEERS`: the measurement of `handshakes` as a program; a JSON list on one line.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

/// What handshakes cost a gateway.
#[derive(Parser)]
#[command(name = "tunnel-handshakes")]
struct Cli {
    /// Peers; each shakes hands once in each of four ways
    #[arg(default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    peers: u32,
}

fn main() -> ExitCode {
    let said = orfe_test_support::handshakes::measure(Cli::parse().peers)
        .and_then(|reports| Ok(serde_json::to_string(&reports)?))
        .and_then(|line| writeln!(io::stdout(), "{line}"));
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell it to when stderr is gone too.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}
