//! One end of a tunnel, for benchmarks and for tests against other implementations. Never shipped.
//!
//! Reads one JSON object from standard input, prints one JSON line when it is ready, and runs until standard input is
//! closed or SIGTERM comes. Logs go to standard error, as `RUST_LOG` says.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    orfe_tunnel::run_namespace_helper_if_asked().unwrap_or_else(run)
}

// As the agent itself: the main thread and one worker.
#[cfg(target_os = "linux")]
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn run() -> ExitCode {
    orfe_test_support::tunnel_end::run().await
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "tunnel-end: for Linux only");
    ExitCode::FAILURE
}
