//! What a gateway's threads carry: several devices at once, over loopback, with one thread and with more, on each TCP stack.
//!
//! ```text
//!   tunnel-load ─► proxy, tunnel-end (smoltcp) ═══ UDP, loopback ═══► gateway, N threads ─► tunnel-load serve
//!   └──────────── one pair for each device ────┘                                          └ one for each ┘
//! ```
//!
//! Every part is a process of its own, so that the gateway's CPU time is its own; nothing needs root. Devices are spread
//! evenly over the threads, by drawing their keys until they are: in a fleet that evenness comes from its size.

mod site;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use orfe_test_support::lab::ends::{Tcp, TcpStack};
use orfe_test_support::load::Direction;
use serde_json::{Map, Value, json};

use self::site::{Figure, Site};
use super::Outcome;
use crate::demo::artifacts::Programs;

const END: &str = "tunnel-end";
const LOAD: &str = "tunnel-load";
const PROGRAMS: [&str; 2] = [END, LOAD];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Devices, each with one stream
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    devices: u8,
    /// The gateway's TCP stacks
    #[arg(long, num_args = 1.., default_values_t = [TcpStack::Namespace, TcpStack::Smoltcp])]
    tcp_stacks: Vec<TcpStack>,
    /// The gateway's threads; one row each, for each stack and direction
    #[arg(long, num_args = 1.., default_values_t = [1, 2, 4], value_parser = clap::value_parser!(u8).range(1..=4))]
    threads: Vec<u8>,
    /// Seconds of each flow
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Times that all of it is done; the median is taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    built: super::Built,
}

/// What a row is about.
#[derive(Debug, Clone, Copy)]
struct Case {
    tcp_stack: TcpStack,
    threads: u8,
    direction: Direction,
}

/// A case with what came out of each round.
#[derive(Debug)]
struct Row {
    case: Case,
    rounds: Vec<Figure>,
    /// What the gateway got.
    tcp: Option<Tcp>,
    /// Why there is no figure of some round.
    missing: Option<String>,
}

/// Measures a row for each stack, number of threads and direction.
pub(super) async fn run(args: Args) -> Result<Outcome> {
    let programs = args.built.programs(&PROGRAMS).await?;
    let mut rows: Vec<Row> = cases(&args).map(Row::new).collect();
    for _ in 0..args.rounds {
        for row in &mut rows {
            row.measure(&programs, &args).await;
        }
    }
    Ok(Outcome {
        rows: rows.iter().map(|row| row.json(&args)).collect(),
        text: table(&args, &rows),
    })
}

/// All cases; the stacks of one case side by side.
fn cases(args: &Args) -> impl Iterator<Item = Case> {
    let each = args
        .threads
        .iter()
        .flat_map(|threads| [Direction::Up, Direction::Down].map(|direction| (*threads, direction)));
    each.flat_map(|(threads, direction)| {
        args.tcp_stacks.iter().map(move |tcp_stack| Case {
            tcp_stack: *tcp_stack,
            threads,
            direction,
        })
    })
}

impl Row {
    fn new(case: Case) -> Self {
        Self {
            case,
            rounds: Vec::new(),
            tcp: None,
            missing: None,
        }
    }

    /// One round more. What fails is a row that says so: not every machine lets a gateway have the kernel's TCP.
    async fn measure(&mut self, programs: &Programs, args: &Args) {
        match self.one(programs, args).await {
            Ok(figure) => self.rounds.push(figure),
            Err(error) => self.missing = Some(format!("{error:#}")),
        }
    }

    async fn one(&mut self, programs: &Programs, args: &Args) -> Result<Figure> {
        let mut site = Site::start(programs, args.devices, self.case).await?;
        self.tcp = Some(site.tcp.clone());
        let figure = site
            .flow(self.case.direction, Duration::from_secs(args.seconds))
            .await;
        site.stop().await;
        figure
    }

    /// The stack that the gateway got, or was to get.
    fn tcp_stack(&self) -> &str {
        self.tcp
            .as_ref()
            .map_or(self.case.tcp_stack.as_str(), |tcp| &tcp.stack)
    }

    /// The round whose rate is the median.
    fn median(&self) -> Option<Figure> {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(|a, b| a.gbit_s.total_cmp(&b.gbit_s));
        rounds.get(rounds.len() / 2).copied()
    }

    fn json(&self, args: &Args) -> Map<String, Value> {
        let Case {
            threads, direction, ..
        } = self.case;
        let tcp_stack = self.tcp_stack();
        let mut row = Map::new();
        let mut put = |name: &str, value: Value| row.insert(name.to_owned(), value);
        put(
            "config",
            format!("gateway on {tcp_stack}, devices on smoltcp, loopback").into(),
        );
        put("tcp_stack", tcp_stack.into());
        if let Some(tcp) = &self.tcp {
            put("congestion_control", tcp.congestion_control.as_deref().into());
        }
        put("threads", threads.into());
        put("devices", args.devices.into());
        put("direction", json!(direction));
        put("rounds", self.rounds.len().into());
        if let Some(figure) = self.median() {
            put("gbit_s", figure.gbit_s.into());
            put("cpu_s_per_gb", figure.cpu_s_per_gb.into());
            put("cores", figure.cores.into());
            put("rss_mib", figure.rss_mib.into());
        }
        if let Some(reason) = &self.missing {
            put("missing", reason.as_str().into());
        }
        row
    }
}

fn table(args: &Args, rows: &[Row]) -> String {
    let mut text = format!(
        "  {} devices, one stream each; the gateway's CPU and memory\n  threads  way   gateway's TCP   Gbit/s  CPU-s/GB  cores  RSS MiB\n",
        args.devices
    );
    for row in rows {
        let direction = match row.case.direction {
            Direction::Up => "up",
            Direction::Down => "down",
        };
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "  {:>7}  {direction:<4}  {:<13}  ",
            row.case.threads,
            row.tcp_stack()
        );
        let _ = match row.median() {
            Some(figure) => writeln!(
                text,
                "{:>7.2}  {:>8.2}  {:>5.2}  {:>7.1}",
                figure.gbit_s, figure.cpu_s_per_gb, figure.cores, figure.rss_mib
            ),
            None => writeln!(text, "not measured"),
        };
    }
    let mut said: Vec<&str> = rows.iter().filter_map(|row| row.missing.as_deref()).collect();
    said.dedup();
    for reason in said {
        let _ = writeln!(text, "  not measured: {reason}");
    }
    text
}
