//! `orfe`: puts this machine to work as a Coder provisioner, and keeps it healthy.
//!
//! The binary reads its command line, does one command, and says how it went by its exit code: 0 done, 1 failed, 2 wrong
//! usage, 3 not healthy, 4 not permitted, 5 the daemon is not running. Everything that decides lives in `orfe-core`; here the
//! shells (sockets, processes, files) meet it.

mod cli;
mod commands;
mod config;
mod control;
mod failure;
mod link;
mod run;
mod state;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // The daemon starts its own program as the helper of a tunnel; that one must have a single thread and no command line.
    if let Some(code) = orfe_tunnel::run_namespace_helper_if_asked() {
        return code;
    }
    let cli = cli::Cli::parse();
    match commands::dispatch(cli) {
        Ok(code) => code,
        Err(error) => failure::print(&error),
    }
}
