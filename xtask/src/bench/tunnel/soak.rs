//! What the memory of the device's end does over time: `--soak`.
//!
//! Each TCP stack's end is started anew for each load, as an ordinary user and in a process of its own, so that what is read
//! from `/proc` is the end (its helper included) and nothing else. The kernel's socket buffers are no part of it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use orfe_test_support::lab::Side;
use orfe_test_support::lab::program::Program;
use orfe_test_support::load::Work;
use serde_json::{Map, Value, json};

use super::config::Config;
use super::ends::{Bench, Running};
use super::rows::{Direction, word};
use super::{Outcome, measure, say};
use crate::bench::load;
use crate::bench::proc::Process;

/// Both stacks, against an end of ours: what the other end is does not show in the memory of this one.
pub(super) const CONFIGS: [Config; 2] = [Config::OrfeNamespaceToTun, Config::OrfeSmoltcpToTun];
/// Connections at once in the loads that have many.
const MANY: usize = 1000;
/// How long all of them may take to be there.
const OPEN_WITHIN: Duration = Duration::from_mins(1);
/// The longest that any load but the first takes: what they do to memory, they do at once.
const SHORT: Duration = Duration::from_mins(1);
/// Between two readings.
const EVERY: Duration = Duration::from_secs(1);
/// Readings of a row in the file at most; in between they are left out, the largest excepted.
const KEPT: usize = 120;
/// A reading of the table stands for each of so many parts of the time.
const COLUMNS: usize = 4;
const MIB: f64 = 1024.0 * 1024.0;

/// What the end carries while its memory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// One upload, for the whole time.
    Upload,
    /// Connections that all send, or all receive, as much as goes.
    Many(Direction),
    /// Clients that ask for as much as goes and read none of it.
    Deaf(usize),
}

impl Load {
    const ALL: [Self; 5] = [
        Self::Upload,
        Self::Many(Direction::Up),
        Self::Many(Direction::Down),
        Self::Deaf(1),
        Self::Deaf(MANY),
    ];

    const fn streams(self) -> usize {
        match self {
            Self::Upload => 1,
            Self::Many(_) => MANY,
            Self::Deaf(streams) => streams,
        }
    }

    const fn direction(self) -> Direction {
        match self {
            Self::Upload => Direction::Up,
            Self::Many(direction) => direction,
            Self::Deaf(_) => Direction::Down,
        }
    }

    const fn reads(self) -> bool {
        !matches!(self, Self::Deaf(_))
    }

    fn work(self) -> Work {
        match self {
            Self::Deaf(streams) => Work::Hold { streams },
            _ => Work::Flow {
                streams: self.streams(),
                direction: self.direction(),
            },
        }
    }

    fn time(self, whole: Duration) -> Duration {
        match self {
            Self::Upload => whole,
            _ => whole.min(SHORT),
        }
    }
}

/// What was seen of one load.
#[derive(Debug, Default)]
struct Seen {
    /// Resident before the load, in bytes.
    before: u64,
    /// Resident at each reading.
    readings: Vec<u64>,
    /// The most that it ever was, between readings too.
    peak: u64,
    gbit_s: f64,
}

impl Seen {
    fn mib(&self, reading: usize) -> f64 {
        self.readings
            .get(reading)
            .map_or(0.0, |bytes| *bytes as f64 / MIB)
    }

    /// MiB a minute in the second half of the time, by the least squares.
    fn growth_mib_min(&self) -> f64 {
        let half = &self.readings[self.readings.len() / 2..];
        let middle = |sum: f64| sum / half.len().max(1) as f64;
        let at = |number: usize| number as f64 * EVERY.as_secs_f64() / 60.0;
        let values = half
            .iter()
            .enumerate()
            .map(|(number, bytes)| (at(number), *bytes as f64 / MIB));
        let (mean_at, mean) = (
            middle(values.clone().map(|(at, _)| at).sum()),
            middle(values.clone().map(|(_, value)| value).sum()),
        );
        let spread: f64 = values.clone().map(|(at, _)| (at - mean_at).powi(2)).sum();
        let common: f64 = values.map(|(at, value)| (at - mean_at) * (value - mean)).sum();
        if spread > 0.0 { common / spread } else { 0.0 }
    }

    /// Readings for the file: at most [`KEPT`], each the largest of the seconds that it stands for.
    fn thinned(&self) -> (usize, Vec<f64>) {
        let step = self.readings.len().div_ceil(KEPT).max(1);
        let largest = |some: &[u64]| some.iter().max().map_or(0.0, |bytes| *bytes as f64 / MIB);
        (
            step,
            self.readings.chunks(step).map(largest).map(rounded).collect(),
        )
    }
}

/// Runs all loads on the given configurations; a load that fails is a row that says why.
pub(super) async fn run(bench: &Bench, configs: &[Config], time: Duration) -> Outcome {
    let mut rows = Vec::new();
    let mut text = heading();
    for config in configs {
        describe_config(*config, &mut text);
        for load in Load::ALL {
            say(&format!("soak: {}, {}", config.name(), describe(load)));
            let seen = one(bench, *config, load, load.time(time)).await;
            if let Err(error) = &seen {
                say(&format!("  {error:#}"));
            }
            line(*config, load, seen.as_ref(), &mut text);
            rows.push(row(*config, load, seen));
        }
    }
    Outcome {
        name: "tunnel-soak",
        rows,
        text,
    }
}

/// Every load has a server of its own: an end that is gone without a word leaves its thousand connections open there.
async fn one(bench: &Bench, config: Config, load: Load, time: Duration) -> Result<Seen> {
    let mut server = measure::serve(bench).await?;
    let seen = match Running::start(bench, config, None).await {
        Ok(running) => {
            let seen = watch(bench, &mut server, &running, config, load, time).await;
            running.stop().await;
            seen
        }
        Err(error) => Err(error),
    };
    server.kill().await;
    seen
}

async fn watch(
    bench: &Bench,
    server: &mut Program,
    running: &Running,
    config: Config,
    load: Load,
    time: Duration,
) -> Result<Seen> {
    let process = Process(running.pid(Side::Near).context("the end is not there")?);
    let mut seen = Seen {
        before: process.read_with_children()?.rss_bytes,
        ..Seen::default()
    };
    let mut driver = measure::drive(bench, &running.way(config)?, load.work()).await?;
    let watched = async {
        driver.hear(OPEN_WITHIN).await.context("the load did not begin")?;
        let (started, first) = (Instant::now(), received(server, &mut driver, load).await?);
        while started.elapsed() < time {
            tokio::time::sleep(EVERY).await;
            let reading = process.read_with_children()?;
            seen.readings.push(reading.rss_bytes);
            seen.peak = seen.peak.max(reading.peak_rss_bytes);
            // A load that broke off is no load.
            load::received(&mut driver).await?;
        }
        let last = received(server, &mut driver, load).await?;
        seen.gbit_s = last.saturating_sub(first) as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9;
        anyhow::Ok(())
    };
    let watched = watched.await;
    driver.kill().await;
    watched.map(|()| seen)
}

/// Bytes received so far, by whoever receives.
async fn received(server: &mut Program, driver: &mut Program, load: Load) -> Result<u64> {
    match load.direction() {
        Direction::Up => load::received(server).await,
        Direction::Down => load::received(driver).await,
    }
}

/// What the end may take: 24 MiB with the kernel's TCP, 32 MiB with smoltcp.
fn limit_mib(config: Config) -> f64 {
    match config.tcp_stack() {
        Some("smoltcp") => 32.0,
        _ => 24.0,
    }
}

fn describe(load: Load) -> String {
    let way = match (load.direction(), load.reads()) {
        (_, false) => "that never read",
        (Direction::Up, _) => "up",
        (Direction::Down, _) => "down",
    };
    format!("{} {way}", load.streams())
}

fn row(config: Config, load: Load, seen: Result<Seen>) -> Map<String, Value> {
    let mut row = Map::new();
    let mut put = |name: &str, value: Value| {
        row.insert(name.to_owned(), value);
    };
    put("config", config.name().into());
    put("mode", config.mode().into());
    put("tcp_stack", config.tcp_stack().into());
    put("measure", "soak".into());
    put("streams", load.streams().into());
    put("direction", word(load.direction()).into());
    put("client_reads", load.reads().into());
    put("limit_mib", limit_mib(config).into());
    match seen {
        Err(error) => put("missing", format!("{error:#}").into()),
        Ok(seen) => {
            let (step, readings) = seen.thinned();
            let peak = seen.peak as f64 / MIB;
            put(
                "seconds",
                (seen.readings.len() as f64 * EVERY.as_secs_f64()).into(),
            );
            put("gbit_s", rounded(seen.gbit_s).into());
            put("rss_before_mib", rounded(seen.before as f64 / MIB).into());
            put("peak_rss_mib", rounded(peak).into());
            put("growth_mib_min", rounded(seen.growth_mib_min()).into());
            put("is_within_limit", (peak <= limit_mib(config)).into());
            put("reading_every_s", (step as f64 * EVERY.as_secs_f64()).into());
            put("rss_mib", json!(readings));
        }
    }
    row
}

fn heading() -> String {
    let mut text = String::from(
        "Memory of the device's end over time (RSS with its helper, MiB),\nas nobody, alone in its process\n",
    );
    let _ = writeln!(
        text,
        "  {:<21}{:>7}{:>7}{:>6}{:>6}{:>6}{:>6}{:>8}{:>9}",
        "connections", "Gbit/s", "before", "1/4", "1/2", "3/4", "end", "peak", "MiB/min"
    );
    text
}

fn describe_config(config: Config, text: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}, limit {:.0} MiB", config.name(), limit_mib(config));
}

fn line(config: Config, load: Load, seen: Result<&Seen, &anyhow::Error>, text: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(text, "  {:<21}", describe(load));
    let _ = match seen {
        Err(error) => writeln!(
            text,
            "{}",
            format!("{error:#}").chars().take(56).collect::<String>()
        ),
        Ok(seen) => {
            let _ = write!(text, "{:>7.2}{:>7.1}", seen.gbit_s, seen.before as f64 / MIB);
            for part in 1..=COLUMNS {
                let at = (seen.readings.len() * part / COLUMNS).saturating_sub(1);
                let _ = write!(text, "{:>6.1}", seen.mib(at));
            }
            let peak = seen.peak as f64 / MIB;
            let mark = if peak > limit_mib(config) { "!" } else { "" };
            writeln!(
                text,
                "{:>8}{:>9.2}",
                format!("{peak:.1}{mark}"),
                seen.growth_mib_min()
            )
        }
    };
}

/// Three decimals are more than a run repeats.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(readings: Vec<u64>) -> Seen {
        Seen {
            before: 1 << 20,
            peak: readings.iter().copied().max().unwrap_or_default(),
            readings,
            gbit_s: 12.5,
        }
    }

    #[test]
    fn growth_is_that_of_the_second_half() {
        // It fills for 100 s, and then gains a MiB in each minute.
        let filling = (0..100).map(|second| second << 20);
        let then = (0..100).map(|second| (100 << 20) + (second << 20) / 60);
        let grows = seen(filling.chain(then).collect());
        assert!(
            (grows.growth_mib_min() - 1.0).abs() < 0.01,
            "{}",
            grows.growth_mib_min()
        );
        assert!(seen(vec![5 << 20; 60]).growth_mib_min().abs() < 1e-9);
        assert!(seen(Vec::new()).growth_mib_min().abs() < 1e-9);
    }

    #[test]
    fn the_largest_reading_survives_the_thinning() {
        let mut readings = vec![1 << 20; 600];
        readings[333] = 9 << 20;
        let (step, kept) = seen(readings).thinned();
        assert_eq!((step, kept.len()), (5, KEPT));
        assert!(kept.contains(&9.0));
    }

    #[test]
    fn a_row_says_whether_it_is_within_the_limit_and_no_line_is_too_wide() {
        let mut text = heading();
        for config in CONFIGS {
            describe_config(config, &mut text);
            for load in Load::ALL {
                let over = seen(vec![200 << 20; 9]);
                line(config, load, Ok(&over), &mut text);
                assert_eq!(row(config, load, Ok(over))["is_within_limit"], false);
                let failed = anyhow::anyhow!("the load did not begin ".repeat(5));
                line(config, load, Err(&failed), &mut text);
            }
        }
        assert_eq!(
            row(CONFIGS[0], Load::Upload, Ok(seen(vec![24 << 20])))["is_within_limit"],
            true
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{}: {line}", line.chars().count());
        }
    }
}
