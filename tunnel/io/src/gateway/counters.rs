//! What the gateway counts.

use std::sync::Arc;

use orfe_tunnel_core::PublicKey;

use super::policy::Access;
use super::{PeerDropCounts, PeerStats};
use crate::netstack::Ends;

/// A peer as the front counts for it; what its node knows is added in [`Peer::stats`].
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) public_key: PublicKey,
    pub(super) name: Arc<str>,
    pub(super) access: Access,
    pub(super) connections: usize,
    /// UDP flows now.
    pub(super) flows: usize,
    /// Questions that the resolver is asked for it now.
    pub(super) questions: usize,
    pub(super) forwarded: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    pub(super) unsupported: u64,
    pub(super) overflow: u64,
    /// Something changed since it was shown last.
    pub(super) is_changed: bool,
}

impl Peer {
    pub(super) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            name: "".into(),
            access: Access::Rules([].into()),
            connections: 0,
            flows: 0,
            questions: 0,
            forwarded: 0,
            refused: 0,
            failed: 0,
            unsupported: 0,
            overflow: 0,
            is_changed: false,
        }
    }

    /// `None` when the node has no such peer.
    pub(super) fn stats(&self, ends: &Ends) -> Option<PeerStats> {
        let node = ends.node.stats(&self.public_key)?;
        let drops = PeerDropCounts {
            spoofed_source: node.dropped.spoofed_source,
            rejected: node.dropped.rejected,
            no_endpoint: node.dropped.no_endpoint,
            unsupported: self.unsupported,
            overflow: self.overflow,
        };
        Some(PeerStats {
            public_key: self.public_key,
            name: Arc::clone(&self.name),
            endpoint: node.endpoint,
            last_handshake: node.last_handshake,
            gateway_key: ends.node.key_of(&self.public_key),
            rx_bytes: node.rx_bytes,
            tx_bytes: node.tx_bytes,
            connections: self.connections,
            flows: self.flows,
            forwarded: self.forwarded,
            refused: self.refused,
            failed: self.failed,
            dropped: drops.total(),
            drops,
        })
    }
}
