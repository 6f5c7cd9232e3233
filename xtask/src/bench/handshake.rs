//! What handshakes cost a gateway, in CPU time of its core.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use orfe_test_support::handshakes::{Contact, Report};
use serde_json::{Map, Value};

const PROGRAM: &str = "tunnel-handshakes";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Peers; in each round each shakes hands once as a stranger and three times more
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    peers: u32,
    /// Times that it is done, each in a process of its own; the median of the rates is taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    built: super::Built,
}

/// Measures a row for each kind of contact: of its rounds the one whose rate is the median.
pub(super) async fn run(args: Args) -> Result<Vec<Map<String, Value>>> {
    let built = args.built.programs(&[PROGRAM]).await?;
    let mut rounds: Vec<Vec<Report>> = Vec::new();
    for _ in 0..args.rounds {
        let output = tokio::process::Command::new(built.path(PROGRAM)?)
            .arg(args.peers.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run the measurement")?;
        if !output.status.success() {
            bail!(
                "the measurement failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        rounds.push(serde_json::from_slice(&output.stdout).context("an odd report")?);
    }
    let kinds = rounds.first().map_or(0, Vec::len);
    (0..kinds).map(|kind| row(&rounds, kind)).collect()
}

/// The row of the kind of contact at this place of the reports.
fn row(rounds: &[Vec<Report>], kind: usize) -> Result<Map<String, Value>> {
    let mut reports: Vec<&Report> = rounds.iter().filter_map(|round| round.get(kind)).collect();
    reports.sort_by(|a, b| a.handshakes_per_core_s.total_cmp(&b.handshakes_per_core_s));
    let median = reports.get(reports.len() / 2).context("nothing was measured")?;
    let Value::Object(mut row) = serde_json::to_value(median)? else {
        bail!("the report is no object");
    };
    let what = match median.contact {
        Contact::First => "first contacts",
        Contact::Rekey => "rekeys from where the peer was",
        Contact::RekeyElsewhere => "rekeys from a new address",
        Contact::RekeyAtAnothers => "rekeys from where another peer was",
    };
    let mut all = Map::new();
    all.insert(
        "config".to_owned(),
        format!("gateway core, {what}, limits raised, no UDP").into(),
    );
    all.append(&mut row);
    all.insert("rounds".to_owned(), reports.len().into());
    Ok(all)
}
