//! One figure at a time.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use orfe_test_support::lab::ends::{SERVICE, SERVICE_NAME};
use orfe_test_support::lab::program::Program;
use orfe_test_support::lab::{Side, User};
use orfe_test_support::load::client::ConnectsReport;
use orfe_test_support::load::{Direction, Job, Work};
use serde_json::Value;

use super::ends::{Bench, Running, Way};
use super::rows::Figures;
use crate::bench::load::{self, Measured, PATIENCE};
use crate::bench::proc::{self, Process, Reading};

/// How long a byte may take there and back, before it is tried anew.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long what crosses a poor path, or comes from a slow tunnel, may take.
const LONG_PATIENCE: Duration = Duration::from_secs(20);
/// iperf3's control port; its flows are of this port too. The load's server has the other one.
const IPERF3: u16 = 5202;
/// Connections at once, when connecting again and again.
const PARALLEL: usize = 16;

/// Waits until something came back through the tunnel for the first time.
pub(super) async fn first_answer(bench: &Bench, way: &Way) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answered = match way {
            Way::Address(address) => ping(bench, *address, 1).await.map(drop),
            _ => echo(bench, way).await,
        };
        match answered {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context("nothing comes through"));
            }
            // Nothing is there yet.
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Some round trips, 10 ms apart: their mean and their median, in milliseconds.
pub(super) async fn ping(bench: &Bench, address: IpAddr, count: u32) -> Result<Figures> {
    let ping = bench
        .tools
        .ping
        .as_ref()
        .map_err(|reason| anyhow::anyhow!(reason.clone()))?;
    let mut command = bench.lab.command(Side::Near, User::Root, ping);
    command
        .args(["-n", "-i", "0.01", "-W", "1", "-c", &count.to_string()])
        .arg(address.to_string());
    let text = output(command, PATIENCE).await?;
    let mut times = parse_ping(&text);
    if times.is_empty() {
        bail!("no answer to a ping: {text}");
    }
    times.sort_by(f64::total_cmp);
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    Ok(Figures::from([
        ("ping_ms", mean),
        ("ping_p50_ms", times[times.len() / 2]),
    ]))
}

/// The round trips that ping's lines tell.
fn parse_ping(text: &str) -> Vec<f64> {
    let times = text.lines().filter_map(|line| line.split_once(" time="));
    times
        .filter_map(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .collect()
}

/// A byte there and back. The connection is not closed in between: onetun would drop the answer.
async fn echo(bench: &Bench, way: &Way) -> Result<()> {
    let work = Work::Connects {
        parallel: 1,
        seconds: 0.0,
    };
    let mut driver = drive(bench, way, work).await?;
    let report = driver.hear(ANSWER_WITHIN).await;
    driver.kill().await;
    let report: ConnectsReport = serde_json::from_value(report?).context("an odd report")?;
    if report.connections == 0 {
        bail!("no connection through the tunnel");
    }
    Ok(())
}

/// Connections one after the other.
pub(super) async fn connects(bench: &Bench, way: &Way, time: Duration) -> Result<Figures> {
    let work = Work::Connects {
        parallel: PARALLEL,
        seconds: time.as_secs_f64(),
    };
    let mut driver = drive(bench, way, work).await?;
    let report = driver.hear(time + LONG_PATIENCE).await;
    driver.kill().await;
    let report: ConnectsReport = serde_json::from_value(report?).context("an odd report")?;
    Ok(Figures::from([
        ("connections_s", report.connections as f64 / report.seconds),
        ("p50_ms", report.p50_ms),
        ("p99_ms", report.p99_ms),
        ("failed", report.failed as f64),
    ]))
}

/// How a flow is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlowSpec {
    pub(super) streams: usize,
    pub(super) direction: Direction,
    /// Not counted, at the beginning.
    pub(super) warm_up: Duration,
    pub(super) time: Duration,
}

/// As much as goes, counted by the receiver, with what it cost both ends.
///
/// Through a device by iperf3, elsewhere by our own load.
pub(super) async fn flow(
    bench: &Bench,
    running: &Running,
    way: &Way,
    server: &mut Program,
    spec: FlowSpec,
) -> Result<Figures> {
    let pids = [running.pid(Side::Near), running.pid(Side::Far)];
    let resent = |side| resent(bench, running, side, way);
    let sender = match spec.direction {
        Direction::Up => Side::Near,
        Direction::Down => Side::Far,
    };
    let resent_before = resent(sender);
    let before = readings(pids)?;
    let flow = match way {
        Way::Address(address) => iperf3(bench, *address, spec).await?,
        _ => own_load(bench, way, server, spec).await?,
    };
    let after = readings(pids)?;
    let mut figures = Figures::from([("gbit_s", flow.bytes * 8.0 / flow.seconds / 1e9)]);
    if let (Some(before), Some(after)) = (resent_before, resent(sender)) {
        figures.insert("retransmits", after.saturating_sub(before) as f64);
    }
    // The CPU time is that of warm-up and rest, too; so are the bytes.
    for (index, [cpu, rss]) in [["cpu_s_per_gb", "rss_mib"], ["far_cpu_s_per_gb", "far_rss_mib"]]
        .into_iter()
        .enumerate()
    {
        if let (Some(before), Some(after)) = (before[index], after[index]) {
            let seconds = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e9;
            // Nothing at all may have come through, and then there is no cost for each byte.
            if flow.all_bytes > 0.0 {
                figures.insert(cpu, seconds / (flow.all_bytes / 1e9));
            }
            figures.insert(rss, after.peak_rss_bytes as f64 / (1024.0 * 1024.0));
        }
    }
    Ok(figures)
}

fn readings(pids: [Option<u32>; 2]) -> Result<[Option<Reading>; 2]> {
    let read = |pid: Option<u32>| pid.map(|pid| Process(pid).read_with_children()).transpose();
    Ok([read(pids[0])?, read(pids[1])?])
}

/// Segments sent again so far by the kernel's TCP that sends on this side; none where that is not the kernel's.
fn resent(bench: &Bench, running: &Running, side: Side, way: &Way) -> Option<u64> {
    match (side, way) {
        (Side::Near, Way::Port(_)) => None,
        // smoltcp does not say; a gateway's namespaces have no process in them, through which they could be read.
        (Side::Far, _) if running.tcp(Side::Far).is_some() => None,
        // In a namespace of its own, with a helper in it, or none: smoltcp does not say.
        (Side::Near, Way::Proxy(_)) => proc::children(running.pid(Side::Near)?)
            .into_iter()
            .find_map(proc::resent_segments),
        _ => {
            let text = bench.lab.at(side).read_proc_net("snmp").ok()?;
            proc::parse_resent(&text)
        }
    }
}

async fn iperf3(bench: &Bench, address: IpAddr, spec: FlowSpec) -> Result<Measured> {
    let iperf3 = bench
        .tools
        .iperf3
        .as_ref()
        .map_err(|reason| anyhow::anyhow!(reason.clone()))?;
    let (name, libraries) = bench.tools.library_path();
    let mut serve = bench.lab.command(Side::Far, User::Root, iperf3);
    serve
        .args([
            "--server",
            "--one-off",
            "--bind",
            &address.to_string(),
            "--port",
            &IPERF3.to_string(),
        ])
        .env(name, libraries);
    let server = Program::start(serve, "iperf3-server", &bench.logs).context("cannot start iperf3")?;
    bench.lab.wait_for_listener(Side::Far, IPERF3).await?;
    let whole = spec.warm_up + spec.time;
    let mut client = bench.lab.command(Side::Near, User::Root, iperf3);
    client
        .args([
            "--client",
            &address.to_string(),
            "--port",
            &IPERF3.to_string(),
            "--json",
        ])
        .args(["--time", &spec.time.as_secs().to_string()])
        .args(["--omit", &spec.warm_up.as_secs().to_string()])
        .args(["--parallel", &spec.streams.to_string()])
        .env(name, libraries);
    if spec.direction == Direction::Down {
        client.arg("--reverse");
    }
    let text = output(client, whole + LONG_PATIENCE).await;
    server.kill().await;
    let report: Value = serde_json::from_str(&text?).context("iperf3's report is no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let sum = &report["end"]["sum_received"];
    let (Some(bytes), Some(seconds)) = (sum["bytes"].as_f64(), sum["seconds"].as_f64()) else {
        bail!("iperf3 reports nothing received");
    };
    // What was received in the omitted seconds is only in the intervals.
    let omitted: f64 = report["intervals"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|interval| &interval["sum"])
        .filter(|sum| sum["omitted"] == true)
        .filter_map(|sum| sum["bytes"].as_f64())
        .sum();
    Ok(Measured {
        bytes,
        seconds,
        all_bytes: bytes + omitted,
    })
}

async fn own_load(bench: &Bench, way: &Way, server: &mut Program, spec: FlowSpec) -> Result<Measured> {
    let work = Work::Flow {
        streams: spec.streams,
        direction: spec.direction,
    };
    let mut driver = drive(bench, way, work).await?;
    let measured = load::flow(&mut driver, server, spec.direction, spec.warm_up, spec.time).await;
    driver.kill().await;
    measured
}

/// The load's server on the far machine, for all flows and connections of a run.
pub(super) async fn serve(bench: &Bench) -> Result<Program> {
    let mut command = bench
        .lab
        .command(Side::Far, User::Root, &bench.program("tunnel-load"));
    command.args(["serve", &format!("0.0.0.0:{SERVICE}")]);
    let mut server =
        Program::start(command, "load-server", &bench.logs).context("cannot start the load's server")?;
    server.hear(PATIENCE).await?;
    Ok(server)
}

/// The load's client on the near machine, its job told.
pub(super) async fn drive(bench: &Bench, way: &Way, work: Work) -> Result<Program> {
    let mut command = bench
        .lab
        .command(Side::Near, User::Root, &bench.program("tunnel-load"));
    command.arg("drive");
    let (to, proxy) = match way {
        Way::Address(address) => (format!("{address}:{SERVICE}"), None),
        Way::Port(address) => (address.to_string(), None),
        Way::Proxy(proxy) => (format!("{SERVICE_NAME}:{SERVICE}"), Some(proxy.clone())),
    };
    let job = Job { to, proxy, work };
    let mut driver =
        Program::start(command, "load-client", &bench.logs).context("cannot start the load's client")?;
    driver.say(&serde_json::to_string(&job)?).await?;
    Ok(driver)
}

/// Runs a command to its end; what it printed, whatever its exit code when it printed something.
async fn output(command: std::process::Command, timeout: Duration) -> Result<String> {
    let output = tokio::process::Command::from(command)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(timeout, output)
        .await
        .context("it took too long")?
        .context("it cannot be run")?;
    if output.stdout.is_empty() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_ping;

    #[test]
    fn round_trips_are_read_from_pings_lines() {
        let text = "PING 10.98.0.2 (10.98.0.2) 56(84) bytes of data.\n\
                    64 bytes from 10.98.0.2: icmp_seq=1 ttl=64 time=0.132 ms\n\
                    64 bytes from 10.98.0.2: icmp_seq=2 ttl=64 time=12 ms\n\n\
                    3 packets transmitted, 2 received, 33% packet loss, time 21ms\n\
                    rtt min/avg/max/mdev = 0.048/0.076/0.132/0.039 ms\n";
        assert_eq!(parse_ping(text), [0.132, 12.0]);
        assert!(parse_ping("1 packets transmitted, 0 received").is_empty());
    }
}
