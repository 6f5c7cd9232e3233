//! The whole system, as programs: registry, gateway, device and a stand-in Coder on loopback.
//!
//! Two ways in: `demo` runs `cargo xtask demo` as a person would, `fleet` starts the same programs by
//! itself, with relays in the two links of the device, so that a test can cut them.
//!
//! `tunnel` drives the data plane alone, between two machines made of network namespaces.
//!
//! What the tests look at is what anybody could look at: exit codes, `status --json`, the registry's list,
//! processes, files, and what the stand-in wrote down about its visitors.

#![cfg(unix)]

#[cfg(test)]
mod carrier;
#[cfg(test)]
mod containers;
#[cfg(test)]
mod containers_on_host;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fleet;
#[cfg(all(test, target_os = "linux"))]
mod gateway_tcp;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod resolved;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod split_dns;
#[cfg(test)]
mod terminator;
#[cfg(test)]
mod tun_mode;
#[cfg(all(test, target_os = "linux"))]
mod tunnel;
#[cfg(test)]
mod via_tunnel;
