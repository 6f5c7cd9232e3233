//! The tests of the data plane once more, with the kernel's own TCP, in private network namespaces, at both ends.

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

mod families;
mod gateway;
mod gateway_namespace;
mod helper_process;
mod impaired;
mod limits;
mod namespace;
mod path;
mod peers;
mod raw;
mod shards;
mod support;
mod transfer;
mod whole_way;

/// The TCP stack of devices and gateways.
const TCP_STACK: orfe_tunnel::TcpStack = orfe_tunnel::TcpStack::Namespace;
