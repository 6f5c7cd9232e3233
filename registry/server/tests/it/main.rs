//! The registry on real sockets: agents that behave and agents that do not, the CLI, and the program as a process.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that fails fails its test"
)]

mod agent;
mod carrier;
mod cli;
mod desired;
mod enrolment;
mod hostile;
mod peers;
mod program;
mod sessions;
mod site;
mod tunnel;
#[cfg(target_os = "linux")]
mod wireguard_tools;
