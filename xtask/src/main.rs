//! The project's own commands: `cargo xtask demo`, `cargo xtask test`, `cargo xtask check-cross`, `cargo xtask bench`.
//!
//! A command is parsed here and run by the module of its name. Everything that can be wrong with the
//! arguments is found before anything is built or started.

#[cfg(target_os = "linux")]
mod bench;
mod cargo;
mod cross;
#[cfg(unix)]
mod demo;
mod interrupt;
mod test;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "Orfe's own commands",
    max_term_width = 80,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole of Orfe on this machine: registry, gateway, a stand-in Coder, one device
    #[cfg(unix)]
    Demo(Box<demo::Args>),
    /// Run every check that a change must pass
    Test(test::Args),
    /// Check that what is written for macOS and Windows compiles there
    CheckCross(cross::Args),
    /// Measure
    #[cfg(target_os = "linux")]
    Bench(bench::Args),
    /// Clean up after a demo whose own process was killed (started by the demo itself)
    #[cfg(unix)]
    #[command(hide = true)]
    DemoKeeper,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to tell it to when stderr is gone too.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        #[cfg(unix)]
        Command::Demo(args) => runtime()?.block_on(demo::run(*args)),
        Command::Test(args) => runtime()?.block_on(test::run(args)),
        Command::CheckCross(args) => runtime()?.block_on(cross::run(args)),
        #[cfg(target_os = "linux")]
        Command::Bench(args) => runtime()?.block_on(bench::run(args)),
        #[cfg(unix)]
        Command::DemoKeeper => demo::keeper::watch_over(std::io::stdin().lock()).map(|()| ExitCode::SUCCESS),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
