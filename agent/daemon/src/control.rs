//! The control socket: how `orfe status` and its like speak to the daemon.
//!
//! One JSON line in, JSON lines out, over a unix socket that only its owner may open (0600 in a 0700 folder):
//!
//! ```text
//! ► {"v":1,"request":"status"}          ◄ {"v":1,"status":{…}}
//! ► {"v":1,"request":"watch"}           ◄ {"v":1,"status":{…}}   now, and again at every change
//! ► {"v":1,"request":"proxy"}           ◄ {"v":1,"proxy":{"http":"…","socks":"…"}}
//! ► {"v":1,"request":{"connect":{"host":"build.demo.internal","port":22}}}
//!                                       ◄ {"v":1,"connected":{}}   then bytes, both ways, each with its own end
//! ► {"v":1,"request":"teleport"}        ◄ {"v":1,"error":"…"}
//! ```
//!
//! The daemon publishes its status in a `watch` channel; a client that reads slowly misses states in between and
//! never holds anybody up.

mod client;
mod door;
mod server;
pub(crate) mod status;

use orfe_protocol::secret::Secret;
use serde::{Deserialize, Serialize};

pub(crate) use self::client::{Client, Connection};
pub(crate) use self::door::{PersonsProxy, Services};
pub(crate) use self::server::Server;
use self::status::Status;

/// Version of the exchange.
const VERSION: u8 = 1;

/// Longest request line; every request is shorter by far.
const REQUEST_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// The status, once.
    Status,
    /// The status, and again whenever it changes.
    Watch,
    /// How to use this machine's proxy.
    Proxy,
    /// A connection to a host and port; after the answer the socket carries its bytes.
    Connect {
        /// As in a URL: an IPv6 address in brackets.
        host: String,
        port: u16,
    },
}

/// The proxy's URLs, credential included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProxyUrls {
    pub(crate) http: Secret,
    pub(crate) socks: Secret,
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
    Proxy(ProxyUrls),
    /// Braces, because a bare word cannot stand beside `v`.
    Connected {},
    Error(String),
}

#[cfg(test)]
mod tests;
