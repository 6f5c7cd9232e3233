//! One module for each command.

mod config;
mod forwarder;
mod join;
mod nc;
mod proxy;
mod run;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use serde_json::json;

pub(crate) use self::forwarder::DOOR_CREDENTIAL;
use crate::cli::{Cli, Command};
use crate::failure::Failure;

/// Does what the command line asks for.
pub(crate) fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Join(args) => join::run(&cli.places, &args),
        Command::Run(args) => run::run(&cli.places, &args),
        Command::Status(args) => status::run(&cli.places, &args),
        Command::Nc(args) => nc::run(&cli.places, &args),
        Command::Proxy { command } => proxy::run(&cli.places, &command),
        Command::Config { command } => config::run(&cli.places, &command),
        Command::Forwarder(args) => forwarder::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "orfe", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Version { json: true } => {
            let version = json!({"version": 1, "name": "orfe", "release": env!("CARGO_PKG_VERSION")});
            print(&format!("{version}\n"))
        }
        Command::Version { json: false } => print(concat!("orfe ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

/// Writes to standard output. A reader that went away (`orfe status | head -1`) is no error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("cannot write to standard output")
                .hint("see where it leads to: a full disk, or a file that cannot be written".to_owned())
                .because(error)
                .into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
