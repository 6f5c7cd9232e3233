//! `orfe status`: how the daemon is, for people, for scripts, and as it changes.

mod table;

use std::process::ExitCode;

use orfe_protocol::observed::Health;

use super::print;
use crate::cli::{PlaceArgs, Probe, StatusArgs};
use crate::config::Config;
use crate::control::Client;
use crate::control::status::Status;
use crate::failure::{Exit, Failure};

pub(super) fn run(places: &PlaceArgs, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let socket = Config::control_socket(places)?;
    if args.watch {
        return watch(&socket, args.json);
    }
    let status = Client::status(&socket)?;
    match args.check {
        Some(Probe::Live) => return Ok(ExitCode::SUCCESS),
        Some(Probe::Ready) => return Ok(verdict(&status)),
        None => {}
    }
    show(&status, args.json)?;
    Ok(verdict(&status))
}

fn watch(socket: &std::path::Path, json: bool) -> anyhow::Result<ExitCode> {
    let mut client = Client::watch(socket)?;
    while let Some(status) = client.next()? {
        show(&status, json)?;
    }
    Err(Failure::new("the daemon has ended")
        .hint("start it again with `orfe run`, or look at its log".to_owned())
        .exit(Exit::NotRunning)
        .into())
}

fn show(status: &Status, json: bool) -> anyhow::Result<()> {
    if json {
        print(&format!("{}\n", serde_json::to_string(status)?))?;
    } else {
        print(&table::render(
            status,
            jiff::Timestamp::now(),
            table::Style::of_stdout(),
        ))?;
    }
    Ok(())
}

/// A machine that nothing is asked of is as it should be.
fn verdict(status: &Status) -> ExitCode {
    match status.health {
        Health::Healthy | Health::Idle => ExitCode::SUCCESS,
        Health::Starting | Health::Unhealthy | Health::Unknown => Exit::NotHealthy.into(),
    }
}
