//! From a change of the device's network to traffic: what a laptop's owner waits for.
//!
//! A whole system in two network namespaces: a device (`orfe run` in userspace mode) on the one side; registry, gateway and a
//! stand-in Coder on the other, with the relay `impair` before the gateway as the NAT. Traffic is Coder's page, fetched through
//! the device's own proxy by a new connection every [`EVERY`]; a gap is the time from the change to the end of the first
//! of these that succeeds.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::Outcome;
use super::site::{self, Network, Site};

/// A new connection is tried this often while none has succeeded.
const EVERY: Duration = Duration::from_millis(100);
/// Longest gap that is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// Connections in the middle of something when only the way out is blocked, and how long they have had by then: it takes about as
/// long until `curl` has started and its connection is open, so the gateway has sent each something that it will repeat.
const UNDER_WAY: usize = 12;
const HEAD_START: Duration = Duration::from_millis(60);
/// How long a lid is closed: longer than any answer is waited for.
const ASLEEP: Duration = Duration::from_secs(6);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Times that each change is made; changes that take long to undo are made a third as often
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// Measure programs that are built without optimisation, which is quicker
    #[arg(long)]
    unoptimised: bool,
    /// Make only these changes; more than one after commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<Change>,
    /// Write the programs' logs into this folder, which must not exist, and keep them; `ORFE_LOG` says how much they log
    #[arg(long)]
    logs: Option<PathBuf>,
}

/// What is done to the device's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Change {
    Address,
    Nat,
    Link,
    Resume,
    ResumeElsewhere,
    Port,
    PortOutward,
    Websocket,
    WebsocketOutward,
    Gateway,
}

impl Change {
    const fn text(self) -> &'static str {
        match self {
            Self::Address => "another address",
            Self::Nat => "NAT with another mapping",
            Self::Link => "link down for 1 s, then up",
            Self::Resume => "stopped for 6 s, NAT with another mapping",
            Self::ResumeElsewhere => "stopped for 6 s, another address",
            Self::Gateway => "gateway killed, from when its successor is ready",
            Self::Port => "UDP port blocked, traffic by UDP 443",
            Self::PortOutward => "UDP port blocked outward, traffic by UDP 443",
            Self::Websocket => "all UDP blocked, traffic by WebSocket",
            Self::WebsocketOutward => "all UDP blocked outward, traffic by WebSocket",
        }
    }

    /// The carrier, as the device's status calls it, that is left after a change that blocks what is above it.
    const fn lower_carrier(self) -> Option<&'static str> {
        match self {
            Self::Port | Self::PortOutward => Some("udp_443"),
            Self::Websocket | Self::WebsocketOutward => Some("websocket"),
            _ => None,
        }
    }

    /// Whether it takes seconds until the next can be made.
    const fn is_slow(self) -> bool {
        self.lower_carrier().is_some() || matches!(self, Self::Resume | Self::ResumeElsewhere | Self::Gateway)
    }
}

/// Measures all changes.
pub(super) async fn run(args: Args) -> Result<Outcome> {
    site::with_programs(args.unoptimised, async |programs| {
        measure(
            &args,
            Site::start(programs, Network::BehindNat, args.logs.as_deref()),
        )
        .await
    })
    .await
}

async fn measure(args: &Args, site: impl Future<Output = Result<Site>>) -> Result<Outcome> {
    let mut site = site.await?;
    let congestion_control = site.congestion_control()?;
    let mut rows = Vec::new();
    let mut text = format!(
        "  {:<50} {:>6} {:>6} {:>6} {:>4}\n",
        "change", "p50", "p95", "max", "n"
    );
    let wanted = |change: &&Change| args.only.is_empty() || args.only.contains(change);
    for change in Change::value_variants()
        .iter()
        .copied()
        .filter(|change| wanted(&change))
    {
        say(&format!("{} …", change.text()));
        let rounds = if change.is_slow() {
            args.rounds.div_ceil(3)
        } else {
            args.rounds
        };
        let mut gaps = Vec::new();
        for _ in 0..rounds {
            gaps.push(make(&mut site, change).await.with_context(|| change.text())?);
        }
        gaps.sort_unstable();
        let at =
            |share: f64| ms(gaps[((gaps.len() as f64 * share).ceil() as usize).clamp(1, gaps.len()) - 1]);
        let (p50, p95, max) = (at(0.5), at(0.95), at(1.0));
        writeln!(
            text,
            "  {:<50} {p50:>6} {p95:>6} {max:>6} {:>4}",
            change.text(),
            gaps.len()
        )?;
        rows.push(object(json!({
            "config": change.text(),
            "mode": "userspace",
            "congestion_control": congestion_control,
            "is_optimised": !args.unoptimised,
            "gap_p50_ms": p50,
            "gap_p95_ms": p95,
            "gap_max_ms": max,
            "rounds": gaps.len(),
        })));
    }
    text.push_str("  milliseconds from the change to the end of a page fetched by a new connection\n");
    Ok(Outcome { rows, text })
}

/// Makes the change once, says how long traffic was away, and brings things back to where they were.
async fn make(site: &mut Site, change: Change) -> Result<Duration> {
    // Ends those that are under way still.
    let mut under_way = Vec::new();
    match change {
        Change::Address => site.move_device()?,
        Change::Nat => site.move_nat().await?,
        Change::Link => {
            site.link(false)?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            site.link(true)?;
        }
        Change::Resume | Change::ResumeElsewhere => {
            site.freeze(true)?;
            tokio::time::sleep(ASLEEP).await;
            match change {
                Change::Resume => site.move_nat().await?,
                _ => site.move_device()?,
            }
            site.freeze(false)?;
        }
        Change::Port => {
            site.block(&["udp dport 4500"])?;
            site.block_incoming(&["udp sport 4500"])?;
        }
        Change::Websocket => {
            site.block(&["meta l4proto udp"])?;
            site.block_incoming(&["meta l4proto udp"])?;
        }
        Change::PortOutward | Change::WebsocketOutward => {
            for _ in 0..UNDER_WAY {
                under_way.push(site.fetch().spawn()?);
            }
            tokio::time::sleep(HEAD_START).await;
            site.block(match change {
                Change::PortOutward => &["udp dport 4500"],
                _ => &["meta l4proto udp"],
            })?;
        }
        Change::Gateway => site.replace_registry().await?,
    }
    let gap = until_traffic(site).await?;
    drop(under_way);
    if let Some(carrier) = change.lower_carrier() {
        site.wait_for_lower_carrier(carrier).await?;
        site.unblock_and_wait().await?;
    }
    // What the change set off, such as names that are looked up again, is over before the next.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(gap)
}

/// Tries new connections until one brings the page.
async fn until_traffic(site: &Site) -> Result<Duration> {
    let begun = Instant::now();
    let mut tries = tokio::task::JoinSet::new();
    let mut due = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = due.tick() => {
                let mut fetch = site.fetch();
                tries.spawn(async move { fetch.status().await.is_ok_and(|status| status.success()) });
            }
            Some(done) = tries.join_next() => if done.unwrap_or(false) {
                return Ok(begun.elapsed());
            }
        }
        if begun.elapsed() > LIMIT {
            bail!(
                "no traffic for {} s; the device says: {}",
                LIMIT.as_secs(),
                site.status()
            );
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn ms(gap: Duration) -> u64 {
    gap.as_millis() as u64
}

fn say(text: &str) {
    // Nobody is left to tell it to when stderr is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
}
