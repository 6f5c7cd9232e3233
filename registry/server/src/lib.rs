//! The registry: enrols devices, keeps their sessions, states what is desired of them, runs the WireGuard gateway, and
//! shows the fleet.
//!
//! ```text
//!  agents ──TLS, WebSocket──► listener ─► routes ─► connection ⇄ session     enrolment ─► store
//!                                                       │                        ▲
//!                                     fleet ◄───────────┴────► recorder ─────────┘
//!                                       │ ▲
//!  browser ──► dashboard ◄──────────────┘ └── gateway (handshakes)        plan ─► desired
//!  CLI ──Unix socket──► admin
//! ```
//!
//! [`Registry::start`] brings all of it up from a [`config::Config`]; [`cli`] is the command line around it.
//! The decisions of a session stand in `session`, without I/O; the fleet, the limits and the plan are plain data with
//! `now` as an argument. Where a clock is read or a socket is opened stands in `registry`, `listener`,
//! `connection`, `recorder` and `gateway`.

pub mod api;
pub mod cli;
pub mod config;
pub mod dashboard;
pub mod fleet;
pub mod span;

mod admin;
mod carrier;
mod connection;
mod desired;
mod elapsed;
mod enrolment;
mod gateway;
mod joining;
mod listener;
mod people;
mod policy;
mod recorder;
mod registry;
mod resolver;
mod rotation;
mod routes;
mod session;
mod shared;
mod state_folder;
mod tls;

pub use connection::SessionHandle;
pub use gateway::GatewayError;
pub use registry::{Registry, StartError};
pub use state_folder::{StateFolderError, admin_socket};
pub use tls::TlsError;

/// An error and what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
