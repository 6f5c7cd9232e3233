//! What is known of a gateway and its peers while it runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use orfe_tunnel_core::PublicKey;

/// Why packets and datagrams of a peer were dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerDropCounts {
    /// Inner packets whose source address is not the peer's.
    pub spoofed_source: u64,
    /// Datagrams that are forged, replayed, malformed inside, or of a session that is gone.
    pub rejected: u64,
    /// Packets for the peer while it is not known where it is.
    pub no_endpoint: u64,
    /// Neither TCP nor UDP nor an echo request to the gateway, or of no connection.
    pub unsupported: u64,
    /// UDP datagrams and questions for which a queue or table had no room.
    pub overflow: u64,
}

impl PeerDropCounts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.spoofed_source + self.rejected + self.no_endpoint + self.unsupported + self.overflow
    }
}

/// What is known of a peer. Counters lag by 0.1 s while the peer sends; what is dropped unread of it, by 10 s.
#[derive(Debug, Clone)]
pub struct PeerStats {
    /// Its key.
    pub public_key: PublicKey,
    /// What it is called.
    pub name: Arc<str>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// When the latest handshake was completed.
    pub last_handshake: Option<Instant>,
    /// The gateway's key on which that was; the current one before the first.
    pub gateway_key: PublicKey,
    /// Inner bytes received from it.
    pub rx_bytes: u64,
    /// Inner bytes sent to it.
    pub tx_bytes: u64,
    /// Its connections now, those whose upstream is being dialled included.
    pub connections: usize,
    /// Its UDP flows now.
    pub flows: usize,
    /// Connections and UDP flows forwarded so far.
    pub forwarded: u64,
    /// Connections and datagrams refused because policy does not name their destination, or a bound was reached.
    pub refused: u64,
    /// Connections refused because the upstream could not be reached.
    pub failed: u64,
    /// Packets and datagrams dropped, for whatever reason.
    pub dropped: u64,
    /// The same by reason.
    pub drops: PeerDropCounts,
}

/// The gateway as a whole. Counters lag by 0.1 s at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct GatewayStats {
    /// Datagrams dropped before they could be told to belong to a peer.
    pub dropped: u64,
    /// Connections in the TCP stack.
    pub connections: usize,
    /// Bytes that wait in buffers of connections.
    pub buffered_bytes: usize,
}
