//! One end of a tunnel, for benchmarks and for tests against other implementations. Never shipped.
//!
//! Reads one JSON object from standard input, prints one JSON line when it is ready, and runs until standard input is
//! closed or SIGTERM comes. Logs go to standard error, as `RUST_LOG` says.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    orfe_test_support::tunnel_end::run().await
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "tunnel-end: for Linux only");
    ExitCode::FAILURE
}
