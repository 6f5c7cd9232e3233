//! The tests of the data plane once more, with the kernel's own TCP in a private network namespace at the device's end.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking, helpers of tests too"
)]
#![allow(
    clippy::print_stderr,
    reason = "measured figures and skipped stages are for who runs the tests"
)]

mod helper_process;
mod impaired;
mod limits;
mod path;
mod peers;
mod support;
mod transfer;
mod whole_way;

/// The TCP stack of the devices' tunnels.
const TCP_STACK: orfe_tunnel::TcpStack = orfe_tunnel::TcpStack::Namespace;
