//! Tests of the data plane over real UDP sockets: devices, a gateway, and TCP servers behind it.

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
mod impaired;
mod limits;
#[cfg(target_os = "linux")]
mod namespace;
mod path;
mod peers;
mod proxy;
mod raw;
mod shards;
mod support;
mod transfer;
mod whole_way;

/// The TCP stack of devices and gateways; `it_namespace` runs the same tests on the other one.
const TCP_STACK: orfe_tunnel::TcpStack = orfe_tunnel::TcpStack::Smoltcp;
