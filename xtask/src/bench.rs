//! `cargo xtask bench`: measures, prints a table, and writes `target/bench/<name>.json`.
//!
//! A benchmark says what it measured and how; it asserts nothing. Figures from different runs or machines
//! are not for comparing.

mod agent;
mod carrier;
mod gateway;
mod handshake;
mod load;
mod proc;
mod roam;
mod site;
mod tunnel;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::demo::artifacts::{self, Programs};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The agent at rest: memory, CPU, wake-ups, size of the binary
    Agent(agent::Args),
    /// The tunnel against wireguard-go, boringtun-cli and onetun, on good paths and poor ones (root)
    Tunnel(tunnel::Args),
    /// What handshakes cost a gateway: rate for each core, memory for each peer, timers
    Handshake(handshake::Args),
    /// What a gateway with one and with several threads carries for several devices
    Gateway(gateway::Args),
    /// What each carrier of the tunnel's datagrams carries: UDP, a relayed UDP port, WebSocket (root)
    Carrier(carrier::Args),
    /// From a change of the device's network to traffic (root)
    Roam(roam::Args),
}

/// Where a benchmark has the programs from that it measures.
#[derive(Debug, clap::Args)]
struct Built {
    /// Take the programs, built elsewhere, from this folder, and build nothing
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

impl Built {
    /// These programs of `orfe-test-support`, built unless they are said to be somewhere.
    async fn programs(&self, names: &[&str]) -> Result<Programs> {
        match &self.programs {
            Some(folder) => Programs::in_folder(folder, names),
            None => artifacts::build_optimised("orfe-test-support", names).await,
        }
    }
}

/// What came out of a benchmark with a table: rows for the file, and text for a person.
#[derive(Debug)]
struct Outcome {
    rows: Vec<Map<String, Value>>,
    text: String,
}

/// What a benchmark found.
#[derive(Debug, Serialize)]
struct Findings {
    machine: String,
    rows: Vec<Map<String, Value>>,
}

/// Runs one benchmark.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let (name, rows, table) = match args.bench {
        Bench::Agent(args) => ("agent", agent::run(args).await?, None),
        Bench::Handshake(args) => ("handshake", handshake::run(args).await?, None),
        Bench::Gateway(args) => {
            let outcome = gateway::run(args).await?;
            ("gateway", outcome.rows, Some(outcome.text))
        }
        Bench::Carrier(args) => {
            let outcome = carrier::run(args).await?;
            ("carrier", outcome.rows, Some(outcome.text))
        }
        Bench::Roam(args) => {
            let outcome = roam::run(args).await?;
            ("roam", outcome.rows, Some(outcome.text))
        }
        Bench::Tunnel(args) => match tunnel::run(args).await? {
            Some(outcome) => (outcome.name, outcome.rows, Some(outcome.text)),
            None => return Ok(ExitCode::SUCCESS),
        },
    };
    let findings = Findings {
        machine: proc::machine()?,
        rows,
    };
    let folder = crate::cargo::workspace_root()?.join("target/bench");
    let file = folder.join(format!("{name}.json"));
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&file, serde_json::to_vec_pretty(&findings)?))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mut text = format!("\n{}\n", findings.machine);
    match table {
        Some(table) => text.push_str(&table),
        None => {
            for (key, value) in findings.rows.iter().flatten() {
                writeln!(text, "  {key:<22} {value}")?;
            }
        }
    }
    writeln!(text, "written to {}", file.display())?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
