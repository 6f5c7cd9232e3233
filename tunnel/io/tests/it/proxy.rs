//! The local proxy over real sockets: clients, destinations and the owner's proxy are loopback TCP connections, and the
//! tunnel's dialer is one that connects to a loopback server in place of an inner address.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why and stops")]

mod associate;
#[cfg(target_os = "linux")]
mod bounds;
mod carrying;
mod control;
#[cfg(unix)]
mod door;
mod forward;
mod forwarding;
mod holding;
#[cfg(target_os = "linux")]
mod lobby;
mod lookup;
mod refusing;
mod rig;
mod socks;
mod upstream;
