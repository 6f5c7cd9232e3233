//! What each carrier of the tunnel's datagrams carries: UDP, UDP through the relay of a further port, and WebSocket over TLS
//! through the registry.
//!
//! ```text
//!                                       ┌── UDP ────────────────────────────┐
//!   tunnel-load ─► proxy, `orfe run` ═══╪── UDP 443 ─► relay ───────────────┼═══► gateway ─► tunnel-load serve
//!                                       └── WebSocket, TLS ─► orfe-registry ┘
//! ```
//!
//! The programs are the real ones, and so is the ladder that takes a carrier: those above it are blocked by nftables. Relays and
//! gateway are of one process, the registry's.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use orfe_test_support::lab::program::Program;
use orfe_test_support::load::Direction;
use serde_json::{Map, Value};

use super::proc::Reading;
use super::site::{self, Network, Site};
use super::{Outcome, load};
use crate::demo::artifacts::Programs;

/// Not counted, at the beginning of a flow.
const WARM_UP: Duration = Duration::from_secs(1);
const MIB: f64 = 1024.0 * 1024.0;
const DIRECTIONS: [(Direction, &str); 2] = [(Direction::Up, "up"), (Direction::Down, "down")];
/// Each carrier as the device's status calls it, with what is blocked so that it is taken; each after what is above it.
const CARRIERS: [(&str, &[&str]); 3] = [
    ("udp", &[]),
    ("udp_443", &["udp dport 51820"]),
    ("websocket", &["meta l4proto udp"]),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of each flow
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Times that all of it is done; the median is taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measure programs that are built without optimisation: to see that it works
    #[arg(long)]
    unoptimised: bool,
}

/// One flow.
#[derive(Debug, Clone, Copy)]
struct Figure {
    gbit_s: f64,
    /// Of the device's agent with its helper, and of the registry with its gateway.
    cpu_s_per_gb: [f64; 2],
    rss_mib: [f64; 2],
}

/// A carrier and a direction, with what came out of each round.
#[derive(Debug)]
struct Row {
    carrier: &'static str,
    direction: &'static str,
    rounds: Vec<Figure>,
}

impl Row {
    /// The round whose rate is the median.
    fn median(&self) -> Option<Figure> {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(|a, b| a.gbit_s.total_cmp(&b.gbit_s));
        rounds.get(rounds.len() / 2).copied()
    }
}

/// Measures each carrier, up and down.
pub(super) async fn run(args: Args) -> Result<Outcome> {
    site::with_programs(args.unoptimised, async |programs| measure(&args, programs).await).await
}

async fn measure(args: &Args, programs: Programs) -> Result<Outcome> {
    let site = Site::start(programs, Network::Plain, None).await?;
    let mut server = site.serve_load().await?;
    let mut rows: Vec<Row> = CARRIERS
        .iter()
        .flat_map(|(carrier, _)| {
            DIRECTIONS.map(|(_, direction)| Row {
                carrier,
                direction,
                rounds: Vec::new(),
            })
        })
        .collect();
    for round in 1..=args.rounds {
        let mut row = rows.iter_mut();
        for (carrier, blocked) in CARRIERS {
            // Nobody is left to tell it to when stderr is gone.
            let _ = writeln!(std::io::stderr(), "round {round} of {}: {carrier}", args.rounds);
            if !blocked.is_empty() {
                site.block(blocked)?;
                // Traffic that nothing answers is what the ladder heeds at once; whether the page comes does not matter.
                site.fetch().status().await?;
                site.wait_for_lower_carrier(carrier).await?;
            }
            for (direction, _) in DIRECTIONS {
                let figure = flow(&site, &mut server, direction, args.seconds).await?;
                site.expect_carrier(carrier)?;
                row.next().context("a row is missing")?.rounds.push(figure);
            }
        }
        site.unblock_and_wait().await?;
    }
    let stacks = site.tcp_stacks()?;
    server.stop().await;
    Ok(Outcome {
        rows: rows.iter().map(|row| json(row, args, &rows, &stacks)).collect(),
        text: table(&rows)?,
    })
}

/// As much as goes on one stream through the device's proxy, counted by the receiver, with what it cost both ends.
async fn flow(site: &Site, server: &mut Program, direction: Direction, seconds: u64) -> Result<Figure> {
    let mut driver = site.drive_load(direction).await?;
    let before = site.readings()?;
    let flowed = load::flow(
        &mut driver,
        server,
        direction,
        WARM_UP,
        Duration::from_secs(seconds),
    )
    .await;
    let after = site.readings()?;
    driver.kill().await;
    let flowed = flowed?;
    let cost = |end: usize| {
        let used = |reading: &[Reading; 2]| reading[end].cpu_ns;
        used(&after).saturating_sub(used(&before)) as f64 / flowed.all_bytes
    };
    Ok(Figure {
        gbit_s: flowed.bytes * 8.0 / flowed.seconds / 1e9,
        // Nanoseconds for each byte are seconds for each 10⁹.
        cpu_s_per_gb: [cost(0), cost(1)],
        rss_mib: after.map(|reading| reading.peak_rss_bytes as f64 / MIB),
    })
}

/// How much more a row carries than UDP in the same direction.
fn vs_udp(row: &Row, rows: &[Row]) -> Option<f64> {
    let udp = rows
        .iter()
        .find(|other| other.carrier == "udp" && other.direction == row.direction)?;
    Some(row.median()?.gbit_s / udp.median()?.gbit_s).filter(|ratio| ratio.is_finite())
}

fn json(row: &Row, args: &Args, rows: &[Row], stacks: &Map<String, Value>) -> Map<String, Value> {
    let mut json = stacks.clone();
    let mut put = |name: &str, value: Value| json.insert(name.to_owned(), value);
    put("config", row.carrier.into());
    put("mode", "userspace".into());
    put("streams", 1.into());
    put("direction", row.direction.into());
    put("is_optimised", (!args.unoptimised).into());
    put("rounds", row.rounds.len().into());
    put("vs_udp", vs_udp(row, rows).into());
    if let Some(figure) = row.median() {
        put("gbit_s", figure.gbit_s.into());
        put("cpu_s_per_gb", figure.cpu_s_per_gb[0].into());
        put("far_cpu_s_per_gb", figure.cpu_s_per_gb[1].into());
        put("rss_mib", figure.rss_mib[0].into());
        put("far_rss_mib", figure.rss_mib[1].into());
    }
    json
}

fn table(rows: &[Row]) -> Result<String> {
    let mut text = String::from("One stream through the device's proxy; agent / registry with its gateway\n");
    writeln!(
        text,
        "  {:<10}{:<5}{:>8}{:>8}{:>18}{:>18}",
        "carrier", "way", "Gbit/s", "× udp", "CPU-s/GB", "RSS MiB"
    )?;
    for row in rows {
        let figure = row.median().context("nothing was measured")?;
        let pair = |[near, far]: [f64; 2], decimals: usize| format!("{near:.decimals$} / {far:.decimals$}");
        writeln!(
            text,
            "  {:<10}{:<5}{:>8.2}{:>8.2}{:>18}{:>18}",
            row.carrier,
            row.direction,
            figure.gbit_s,
            vs_udp(row, rows).unwrap_or_default(),
            pair(figure.cpu_s_per_gb, 2),
            pair(figure.rss_mib, 1),
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_medians_and_ratios_to_udp_in_the_same_direction() {
        let row = |carrier, direction, rates: &[f64]| Row {
            carrier,
            direction,
            rounds: rates
                .iter()
                .map(|gbit_s| Figure {
                    gbit_s: *gbit_s,
                    cpu_s_per_gb: [123.45, 2.0],
                    rss_mib: [1234.5, 1234.5],
                })
                .collect(),
        };
        let rows = [
            row("udp", "up", &[4.0, 1.0, 2.0]),
            row("udp", "down", &[1.0]),
            row("websocket", "up", &[1.0]),
        ];
        assert_eq!(vs_udp(&rows[2], &rows), Some(0.5));
        let text = table(&rows).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
