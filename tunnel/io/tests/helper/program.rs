//! The namespace helper of the tests, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    orfe_tunnel::run_namespace_helper_if_asked().unwrap_or(ExitCode::FAILURE)
}
