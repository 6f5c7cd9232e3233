//! The stand-ins held to the recordings of the real programs, and to what the demo asks of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking, helpers of tests too"
)]
#![allow(
    clippy::print_stdout,
    reason = "the conformance tables are for who runs the tests"
)]

use std::io::Write;

mod conformance;
mod connect_proxy;
mod http_api;
mod normalise;
mod programs;
mod real_coder;
mod recordings;
mod runner;
mod stand_in;
mod tls_and_proxy;
#[cfg(target_os = "linux")]
mod tunnel_end;

/// Says something that must be seen even when a test passes: past the capture of the test harness.
fn announce(line: &str) {
    std::io::stderr()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}
