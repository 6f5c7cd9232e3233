//! The control socket: how `orfe status` and its like speak to the daemon.
//!
//! One JSON line in, JSON lines out, over a unix socket that only its owner may open (0600 in a 0700 folder):
//!
//! ```text
//! ► {"v":1,"request":"status"}          ◄ {"v":1,"status":{…}}
//! ► {"v":1,"request":"watch"}           ◄ {"v":1,"status":{…}}   now, and again at every change
//! ► {"v":1,"request":"teleport"}        ◄ {"v":1,"error":"…"}
//! ```
//!
//! The daemon publishes its status in a `watch` channel; a client that reads slowly misses states in between and
//! never holds anybody up.

mod client;
mod server;
pub(crate) mod status;

use serde::{Deserialize, Serialize};

pub(crate) use self::client::Client;
pub(crate) use self::server::Server;
use self::status::Status;

/// Version of the exchange.
const VERSION: u8 = 1;

/// Longest request line; every request is shorter by far.
const REQUEST_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// The status, once.
    Status,
    /// The status, and again whenever it changes.
    Watch,
}

#[derive(Debug, Serialize, Deserialize)]
struct RequestLine {
    v: u8,
    request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
struct AnswerLine {
    v: u8,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Status(Box<Status>),
    Error(String),
}

#[cfg(test)]
mod tests;
