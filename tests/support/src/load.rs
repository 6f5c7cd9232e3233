//! A load for tunnels: a server that swallows, pours and echoes, and a client that reaches it directly or through a proxy.
//!
//! The first byte on a connection says what it is for ([`Purpose`]). Bytes are counted by whoever receives them, so that
//! nothing that waits in a buffer on the way is taken for arrived. Both programs are told what to do by lines on stdin
//! and answer with lines of JSON, so that one process far away reads both counters in the same moment.

pub mod client;
pub mod proxy;
pub mod server;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Bytes that are read or written at once; the block of iperf3.
pub const BLOCK: usize = 128 * 1024;

/// What a connection is for: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The client sends, the server counts.
    Swallow,
    /// The server sends, the client counts.
    Pour,
    /// What comes is sent back, to the end of it.
    Echo,
}

impl Purpose {
    /// The byte.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Swallow => b'S',
            Self::Pour => b'P',
            Self::Echo => b'E',
        }
    }

    /// The purpose that `byte` names.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'S' => Some(Self::Swallow),
            b'P' => Some(Self::Pour),
            b'E' => Some(Self::Echo),
            _ => None,
        }
    }
}

/// Seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What a client is to do: the first line on its stdin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The server, by an address or, through a proxy, by a name.
    pub to: String,
    /// The proxy in between.
    #[serde(default)]
    pub proxy: Option<ProxySpec>,
    /// The work.
    pub work: Work,
}

/// A proxy with its credential.
#[derive(Clone, Serialize, Deserialize)]
pub struct ProxySpec {
    /// What it is spoken to.
    pub protocol: ProxyProtocol,
    /// Where it listens.
    pub address: SocketAddr,
    /// The user.
    pub user: String,
    /// The password, made for one run.
    pub password: String,
}

impl std::fmt::Debug for ProxySpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxySpec")
            .field("protocol", &self.protocol)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// HTTP/1.1 `CONNECT`.
    Connect,
    /// SOCKS5 with user and password (RFC 1928, RFC 1929), names resolved by the proxy.
    Socks5,
}

/// The work of a client.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// As much as goes, until stdin ends.
    Flow {
        /// Connections at once.
        streams: usize,
        /// Which way.
        direction: Direction,
    },
    /// Connections that ask the server to send and read nothing of it, until stdin ends.
    Hold {
        /// Connections at once.
        streams: usize,
    },
    /// Connections one after the other: connect, one byte there and back, close.
    Connects {
        /// At once.
        parallel: usize,
        /// For so long.
        seconds: f64,
    },
    /// So many bytes on each connection, there and back, compared.
    Echo {
        /// Connections at once.
        streams: usize,
        /// Each way, on each.
        bytes: u64,
    },
}
