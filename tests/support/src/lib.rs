//! What the tests and the demo need around Orfe, and nothing that is ever shipped.
//!
//! - [`standin`] — a **stand-in for Coder's server**: health, build info, entitlements, provisioner keys, the daemon
//!   listing and the provisioner WebSocket, each answering as the real server was recorded to answer. It says what it
//!   is: every response bears the header `Orfe-Stand-In: coder`.
//! - [`child`] — a **stand-in for `coder provisionerd start`**: same flags, variables, lines, signals and exit codes.
//! - [`terraform`] — a **stand-in for `terraform version`**, for machines without terraform.
//! - [`relay`] — relays for TCP and UDP that can be cut, blackholed and restored, and one that stands for a poor path.
//! - `lab`, [`load`] — two network namespaces with a wire between them (Linux), and traffic for the tunnels through it.
//! - `handshakes` — what handshakes cost a gateway.
//! - [`terminator`] — ends TLS between device and registry, and attacks what it carries.
//! - `tunnel_end` — the program `tunnel-end`: one end of a tunnel, for benchmarks and interoperation.
//! - [`process`], [`wait`], [`ports`], [`logs`], [`programs`] — processes that end with their test, waiting for a
//!   condition with a deadline, ports, log capture, and where the built programs are.
//!
//! The conformance test of this crate holds both stand-ins to recordings of the real programs.

pub mod child;
#[cfg(target_os = "linux")]
pub mod handshakes;
pub mod keepalive;
#[cfg(target_os = "linux")]
pub mod lab;
pub mod load;
pub mod logs;
pub mod ports;
pub mod process;
pub mod programs;
pub mod relay;
pub mod scale;
pub mod standin;
pub mod terminator;
pub mod terraform;
#[cfg(target_os = "linux")]
pub mod tunnel_end;
pub mod wait;
