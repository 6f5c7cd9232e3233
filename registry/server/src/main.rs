//! The program `orfe-registry`: reads the command line, runs one command, says what went wrong.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use orfe_registry::cli::{Cli, Failure};

fn main() -> ExitCode {
    // Before anything else: the gateway's namespaces are made by this program started again, while it has one thread.
    if let Some(code) = orfe_tunnel::run_namespace_helper_if_asked() {
        return code;
    }
    let cli = Cli::parse().on_terminal(io::stdout().is_terminal());
    start_logging(&cli);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When standard error is closed there is nobody left to tell.
            let _ = write!(io::stderr(), "{failure}");
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the program could not start its threads: {error}")))?;
    runtime.block_on(cli.run(&mut io::stdout()))
}

/// Logs go to standard error; standard output is for what a command was asked for.
fn start_logging(cli: &Cli) {
    tracing_subscriber::fmt()
        .with_env_filter(cli.log_filter())
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}
