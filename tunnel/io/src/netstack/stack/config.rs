//! What a stack is made from, and what it must be.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// What a stack is made from.
#[derive(Debug, Clone)]
pub(crate) struct StackConfig {
    /// Our addresses inside the tunnel, at most eight.
    pub(crate) addresses: Vec<IpAddr>,
    /// Largest packet in bytes; at least 1280.
    pub(crate) mtu: usize,
    /// Take packets to every address, not ours alone.
    pub(crate) any_address: bool,
    /// Connections at once, those being opened or closed included.
    pub(crate) max_connections: usize,
    /// Bytes that all connections may hold together (see `pool`), apart from the little that each one needs to go on.
    pub(crate) memory: usize,
    /// Interval of probes on silent connections.
    pub(crate) keep_alive: Option<Duration>,
}

impl StackConfig {
    pub(super) fn check(&self) -> io::Result<()> {
        if self.mtu < 1280 || self.mtu > 9216 {
            return Err(invalid("the MTU must be 1280 to 9216"));
        }
        if self.addresses.is_empty() {
            return Err(invalid("no address inside the tunnel"));
        }
        let unicast = |address: &IpAddr| {
            let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
            !address.is_multicast() && !address.is_unspecified() && !broadcast
        };
        match self.addresses.iter().find(|address| !unicast(address)) {
            Some(address) => Err(invalid(&format!("{address} is no address for one machine"))),
            None => Ok(()),
        }
    }
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
