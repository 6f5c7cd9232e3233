//! `tunnel-load`: the load of `load` as a program, for tunnels whose ends are in different network namespaces.
//!
//! `tunnel-load serve ADDRESS` prints `{"listening":…}`. `tunnel-load drive` reads one line of JSON (a `Job`) from stdin,
//! and prints `{"ready":true}` when a flow's streams are open, or its report when other work is done. Both answer each
//! line `count` on stdin with `{"received":…}`, and end with stdin.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use orfe_test_support::load::client::{self, Flow};
use orfe_test_support::load::server::Server;
use orfe_test_support::load::{Job, Work};
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

/// Load for tunnels: a server and a client.
#[derive(Parser)]
#[command(name = "tunnel-load")]
enum Cli {
    /// Swallow, pour and echo
    Serve {
        /// Where to listen; port 0 takes a free one
        listen: SocketAddr,
    },
    /// Do the job that stdin names
    Drive,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell it to when stderr is gone too.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> io::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    match cli {
        Cli::Serve { listen } => {
            let server = Server::start(listen).await?;
            say(&json!({ "listening": server.address() }))?;
            answer(&mut lines, || server.received()).await
        }
        Cli::Drive => {
            let line = lines.next_line().await?.unwrap_or_default();
            let job: Job = serde_json::from_str(&line)?;
            drive(&job, &mut lines).await
        }
    }
}

async fn drive(job: &Job, lines: &mut Lines<BufReader<Stdin>>) -> io::Result<()> {
    match job.work {
        Work::Flow { streams, direction } => {
            let mut flow = Flow::start(job, streams, direction).await?;
            say(&json!({ "ready": true }))?;
            loop {
                tokio::select! {
                    line = lines.next_line() => match line? {
                        Some(_) => say(&json!({ "received": flow.received() }))?,
                        None => return Ok(()),
                    },
                    reason = flow.broken() => {
                        return Err(io::Error::other(format!("a stream broke off: {reason}")));
                    }
                }
            }
        }
        Work::Hold { streams } => {
            let held = client::hold(job, streams).await?;
            say(&json!({ "ready": true }))?;
            let answered = answer(lines, || 0).await;
            drop(held);
            answered
        }
        Work::Connects { parallel, seconds } => {
            let time = Duration::try_from_secs_f64(seconds).map_err(io::Error::other)?;
            say(&client::connects(job, parallel, time).await)
        }
        Work::Echo { streams, bytes } => say(&client::echo(job, streams, bytes).await?),
    }
}

async fn answer(lines: &mut Lines<BufReader<Stdin>>, received: impl Fn() -> u64) -> io::Result<()> {
    while lines.next_line().await?.is_some() {
        say(&json!({ "received": received() }))?;
    }
    Ok(())
}

fn say(what: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    out.flush()
}
