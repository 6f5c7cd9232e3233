//! The tunnel against others: two machines (network namespaces) with a wire between them, a configuration's two ends on
//! them, traffic through it, one configuration after the other and all of them again in the next round.
//!
//! Rows are medians over the rounds. Only their ratios within a run are of use: both ends, the traffic and whatever else
//! runs share the machine's cores. `docs/benchmarks.md` says how each figure comes about.

mod config;
mod ends;
mod measure;
mod rows;
mod soak;
mod table;
mod tools;

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use orfe_test_support::lab::program::Program;
use orfe_test_support::lab::{self, Lab, Side};
use serde_json::{Map, Value};

use self::config::{Config, Pace, PoorPath};
use self::ends::{Bench, Running};
use self::measure::FlowSpec;
use self::rows::{Case, Direction, Rows};
use self::tools::Tools;
use crate::interrupt::Interrupts;

/// Our own programs.
const PROGRAMS: [&str; 3] = ["tunnel-end", "tunnel-load", "impair"];
/// Streams of a flow on a good path.
const STREAMS: [usize; 2] = [1, 4];
const DIRECTIONS: [Direction; 2] = [Direction::Up, Direction::Down];
/// No single configuration may take longer: a program that hangs is stopped with all that belongs to it.
const CONFIG_WITHIN: Duration = Duration::from_mins(4);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One short round, within four minutes once everything is installed and built
    #[arg(long)]
    quick: bool,
    /// Measure these configurations alone
    #[arg(long, value_name = "CONFIG", num_args = 1..)]
    only: Vec<Config>,
    /// Leave the poor paths out
    #[arg(long)]
    no_poor_paths: bool,
    /// TCP congestion control of both machines (the host's unless given)
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,
    /// Look at the memory of the device's end in the place of all else: an upload of so many minutes, 1 000 connections,
    /// and clients that never read
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "10")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=120), conflicts_with_all = ["quick", "no_poor_paths"])]
    soak: Option<u64>,
    #[command(flatten)]
    built: super::Built,
    /// Name the configurations and end
    #[arg(long)]
    list: bool,
}

/// What came out: rows for the file, and text for a person.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Of the file.
    pub(super) name: &'static str,
    pub(super) rows: Vec<Map<String, Value>>,
    pub(super) text: String,
}

/// Measures. `None` when there was nothing to measure.
pub(super) async fn run(args: Args) -> Result<Option<Outcome>> {
    if args.list {
        list()?;
        return Ok(None);
    }
    if let Some(reason) = lab::obstacle() {
        bail!("the tunnel cannot be measured here: {reason}");
    }
    let mut interrupts = Interrupts::listen()?;
    // Whatever ends this future takes programs and namespaces with it: both end when they are dropped.
    tokio::select! {
        outcome = measure_all(&args) => Ok(Some(outcome?)),
        () = interrupts.next() => bail!("interrupted; nothing is left behind"),
    }
}

fn list() -> Result<()> {
    use clap::ValueEnum as _;
    let mut out = std::io::stdout();
    for config in Config::ALL {
        let value = config
            .to_possible_value()
            .context("a configuration has no name")?;
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(out, "{:<29}{help}", config.name())?;
    }
    Ok(())
}

async fn measure_all(args: &Args) -> Result<Outcome> {
    let tools = match args.soak {
        None => Tools::provide(&mut say).await?,
        Some(_) => Tools::none("a soak compares with nothing"),
    };
    say("Orfe's ends, optimised");
    let built = args.built.programs(&PROGRAMS).await?;
    // Where an ordinary user may run them, wherever the workspace is.
    let folder = tempfile::Builder::new()
        .prefix("orfe-bench-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .context("cannot make a folder")?;
    for program in PROGRAMS {
        std::fs::copy(built.path(program)?, folder.path().join(program))
            .with_context(|| format!("cannot copy {program}"))?;
    }
    let bench = Bench {
        lab: Lab::new("obench")?,
        tools,
        programs: folder.path().to_owned(),
        logs: folder.path().to_owned(),
    };
    free_ports_soon(&bench.lab)?;
    let congestion_control = set_congestion_control(&bench.lab, args.congestion_control.as_deref())?;
    let chosen = |config: &Config| args.only.is_empty() || args.only.contains(config);
    if let Some(minutes) = args.soak {
        let configs: Vec<Config> = soak::CONFIGS.into_iter().filter(chosen).collect();
        return Ok(soak::run(&bench, &configs, Duration::from_mins(minutes)).await);
    }
    let mut session = Session {
        server: measure::serve(&bench).await?,
        bench,
        pace: if args.quick { Pace::QUICK } else { Pace::FULL },
        started: Instant::now(),
        congestion_control,
        rows: Rows::default(),
    };
    session.all(chosen, !args.no_poor_paths).await;
    Ok(Outcome {
        name: "tunnel",
        rows: session.rows.json(),
        text: table::render(&session.rows),
    })
}

/// Lets both machines use the ports of ended connections again after a second. Without it, connecting again and again leaves no
/// free port after 14 000 connections: from then on the kernel searches, some milliseconds for each, and whichever
/// configuration comes later in the minute seems slow.
fn free_ports_soon(lab: &Lab) -> Result<()> {
    for side in Side::BOTH {
        lab.at(side).sysctl("ipv4/tcp_tw_reuse", "1")?;
        lab.at(side).sysctl("ipv4/ip_local_port_range", "10000 65535")?;
    }
    Ok(())
}

/// The congestion control of both machines: the one asked for, or the one that new namespaces have from the host.
fn set_congestion_control(lab: &Lab, asked: Option<&str>) -> Result<String> {
    const NAME: &str = "ipv4/tcp_congestion_control";
    if let Some(name) = asked {
        for side in Side::BOTH {
            lab.at(side).sysctl(NAME, name).with_context(|| {
                format!("congestion control {name}; hint: see tcp_available_congestion_control")
            })?;
        }
    }
    Ok(lab.at(Side::Near).read_sysctl(NAME)?)
}

struct Session {
    bench: Bench,
    server: Program,
    pace: Pace,
    started: Instant,
    congestion_control: String,
    rows: Rows,
}

impl Session {
    /// Every chosen configuration, round by round, and then the poor paths.
    async fn all(&mut self, chosen: impl Fn(&Config) -> bool, poor_paths: bool) {
        let configs: Vec<Config> = Config::ALL.into_iter().filter(&chosen).collect();
        for round in 1..=self.pace.rounds {
            for config in &configs {
                say(&format!(
                    "round {round} of {}: {}",
                    self.pace.rounds,
                    config.name()
                ));
                self.good_path(*config).await;
            }
        }
        if !poor_paths {
            return;
        }
        for config in self.pace.on_poor_paths.iter().copied().filter(&chosen) {
            for path in PoorPath::ALL {
                self.poor_path(config, path).await;
            }
        }
    }

    /// All that is measured of a configuration on a good path, for one round.
    async fn good_path(&mut self, config: Config) {
        let flows = STREAMS.into_iter().flat_map(|streams| {
            DIRECTIONS.map(|direction| Case::Flow {
                streams,
                direction,
                path: None,
            })
        });
        let cases: Vec<Case> = [Case::Ping, Case::Connects].into_iter().chain(flows).collect();
        self.measure(config, None, &cases).await;
    }

    async fn poor_path(&mut self, config: Config, path: PoorPath) {
        let rate = path
            .bottleneck_mbit_s
            .map_or_else(String::new, |rate| format!(", {rate} Mbit/s"));
        say(&format!(
            "poor path: {}, {} % loss{rate}",
            config.name(),
            path.loss_percent
        ));
        let cases = DIRECTIONS.map(|direction| Case::Flow {
            streams: 1,
            direction,
            path: Some(path),
        });
        self.measure(config, Some(path), &cases).await;
    }

    /// Starts the configuration, measures the cases one after the other, and ends it. What fails is a row that says so.
    async fn measure(&mut self, config: Config, path: Option<PoorPath>, cases: &[Case]) {
        let deadline = Instant::now() + CONFIG_WITHIN;
        let left = self.pace.all.saturating_sub(self.started.elapsed());
        let running = if left.is_zero() {
            Err("not measured: the time was up".to_owned())
        } else {
            Running::start(&self.bench, config, path)
                .await
                .map_err(|error| format!("{error:#}"))
        };
        let running = match running {
            Ok(running) => running,
            Err(reason) => {
                say(&format!("  {}: {reason}", config.name()));
                for case in cases {
                    self.rows.miss(config, *case, reason.clone());
                }
                return;
            }
        };
        for case in cases {
            let left = deadline.saturating_duration_since(Instant::now());
            let outcome = tokio::time::timeout(left, self.one(&running, config, *case)).await;
            let outcome = outcome.unwrap_or_else(|_| bail_late());
            match outcome {
                Ok(figures) => {
                    let congestion_control = self.congestion_control_of(&running, *case);
                    self.rows.add(config, *case, congestion_control, figures);
                }
                Err(error) => {
                    say(&format!("  {}: {error:#}", config.name()));
                    self.rows.miss(config, *case, format!("{error:#}"));
                }
            }
        }
        running.stop().await;
    }

    async fn one(&mut self, running: &Running, config: Config, case: Case) -> Result<rows::Figures> {
        let way = running.way(config)?;
        match case {
            Case::Ping => {
                let mut figures = rows::Figures::new();
                if let ends::Way::Address(address) = &way {
                    figures = measure::ping(&self.bench, *address, self.pace.pings).await?;
                }
                if let Some(first) = running.first_answer_ms {
                    figures.insert("start_ms", first);
                }
                Ok(figures)
            }
            Case::Connects => measure::connects(&self.bench, &way, self.pace.connects).await,
            Case::Flow {
                streams,
                direction,
                path,
            } => {
                let (warm_up, time) = match path {
                    None => (Duration::ZERO, self.pace.flow),
                    Some(_) => (self.pace.poor_warm_up, self.pace.poor_flow),
                };
                let spec = FlowSpec {
                    streams,
                    direction,
                    warm_up,
                    time,
                };
                measure::flow(&self.bench, running, &way, &mut self.server, spec).await
            }
        }
    }

    /// The congestion control that decides over a row: the sender's. smoltcp has its own.
    fn congestion_control_of(&self, running: &Running, case: Case) -> Option<String> {
        let Case::Flow { direction, .. } = case else {
            return None;
        };
        let sender = match direction {
            Direction::Up => Side::Near,
            Direction::Down => Side::Far,
        };
        let own = match running.tcp(sender) {
            Some(tcp) => tcp.congestion_control.as_ref().unwrap_or(&tcp.stack),
            None => &self.congestion_control,
        };
        Some(own.clone())
    }
}

fn bail_late() -> Result<rows::Figures> {
    bail!("stopped: it took longer than {} s", CONFIG_WITHIN.as_secs())
}

/// Progress goes to stderr, so that stdout has the table alone.
fn say(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
}
