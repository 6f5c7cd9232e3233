//! A stand-in for `coder provisionerd start` of v2.26.0, and for `coder version`.
//!
//! It takes the real flags and variables, dials the server as Go's HTTP client would (proxies included), prints the
//! real lines in the real order at the real times, reacts to signals and ends with the real exit codes. It never runs a
//! job and never downloads terraform: where none is found it fails as the real one does without a network.
//!
//! ```text
//! parse ─► preflight (key) ─► starting ─► dialing ◄──────────┐
//!   │          │                            │ 101    other   │ 0.05 s × 1.618ⁿ, at most 10 s
//!   ▼          ▼                            ▼  └─────────────┤
//! exit 1    exit 1                       connected ─closed───┘       403 ─► lives on, never dials again
//!                                           │
//!            TERM, HUP, INT ─► three lines ─► exit 0      QUIT ─► dump, exit 2      no terraform ─► 15 s, exit 1
//! ```
//!
//! Two variables are its own: [`crate::scale::TIME_SCALE`] and [`fault::VARIABLE`].

mod csv;
mod daemon;
mod dial;
pub mod fault;
mod http;
mod lines;
mod log;
mod metrics;
mod options;
mod proxy;
mod refusal;
mod session;
mod setup;
mod terraform;
mod tls;

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use fault::Faults;
use options::{Options, ParseError};

use crate::scale::{self, TimeScale};

/// The version of the real program that this one is held to.
pub const VERSION: &str = "v2.26.0";
/// The provisioner API version that it dials with.
pub const API_VERSION: &str = "1.9";

/// The environment of the process, by name.
pub type Environment = HashMap<String, String>;

/// Runs the program: `arguments` without the program's own name.
pub fn run(arguments: &[String], environment: Environment) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["provisionerd" | "provisioner" | "provisioners", "start", ..] => start(arguments, environment),
        ["version", rest @ ..] => print_version(rest),
        _ => {
            complain(&[
                "coder stand-in (for tests and the demo): only `version` and `provisionerd start` work here"
                    .to_owned(),
            ]);
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &[String], environment: Environment) -> ExitCode {
    let command = format!("coder {} {}", arguments[0], arguments[1]);
    let (scale, faults) = match own_variables(&environment) {
        Ok(own) => own,
        Err(text) => {
            complain(&[text]);
            return ExitCode::FAILURE;
        }
    };
    let options = match Options::parse(&command, arguments, &environment) {
        Ok(options) => options,
        Err(ParseError(lines)) => {
            complain(&lines);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&[format!("cannot start the runtime: {error}")]);
            return ExitCode::FAILURE;
        }
    };
    let world = daemon::World {
        options,
        environment,
        scale,
        faults,
    };
    let ended = runtime.block_on(daemon::run(world));
    // A name look-up that nobody waits for any more must not hold the end up.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(text) => {
            complain(&[
                format!(
                    "Encountered an error running {command:?}, see \"{command} --help\" for more information"
                ),
                format!("error: {text}"),
            ]);
            ExitCode::FAILURE
        }
    }
}

fn own_variables(environment: &Environment) -> Result<(TimeScale, Faults), String> {
    let scale = match environment.get(scale::TIME_SCALE) {
        Some(text) => text
            .parse()
            .map_err(|error| format!("{}: {error}", scale::TIME_SCALE))?,
        None => TimeScale::REAL,
    };
    let faults = match environment.get(fault::VARIABLE) {
        Some(text) => text
            .parse()
            .map_err(|error| format!("{}: {error}", fault::VARIABLE))?,
        None => Faults::default(),
    };
    Ok((scale, faults))
}

fn print_version(rest: &[&str]) -> ExitCode {
    let text = match rest {
        ["-o" | "--output", "json"] | ["-o=json" | "--output=json"] => serde_json::json!({
            "version": VERSION,
            "build_time": "2025-09-01T00:00:00Z",
            "external_url": "https://github.com/coder/coder",
            "slim": false,
            "agpl": false,
            "boring_crypto": false,
            "stand_in": true,
        })
        .to_string(),
        [] => format!("Coder {VERSION} (stand-in, for tests and the demo)"),
        _ => {
            complain(&[format!("unknown arguments: {}", rest.join(" "))]);
            return ExitCode::FAILURE;
        }
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Writes raw lines to stderr. Nobody is left to tell when that fails.
fn complain(lines: &[String]) {
    let mut stderr = std::io::stderr().lock();
    for line in lines {
        let _ = writeln!(stderr, "{line}");
    }
}
