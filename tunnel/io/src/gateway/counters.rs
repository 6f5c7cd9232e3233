//! What the gateway counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_tunnel_core::PublicKey;

use super::policy::Access;
use super::{PeerDropCounts, PeerStats};
use crate::netstack::Ends;

/// Resets each second for what belongs to no connection. Beyond it such packets are dropped without an answer.
const MAX_RESETS_PER_SECOND: u32 = 1000;

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

/// Counts resets, and what else tells a peer that something is refused, in windows of one second.
#[derive(Debug, Default)]
pub(super) struct Resets {
    window: Option<Instant>,
    count: u32,
}

impl Resets {
    /// Takes one; false when the second's share is used up.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        if self
            .window
            .is_none_or(|start| now.saturating_duration_since(start) >= Duration::from_secs(1))
        {
            *self = Self {
                window: Some(now),
                count: 0,
            };
        }
        self.count += 1;
        self.count <= MAX_RESETS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_bounded_in_each_second() {
        let (mut resets, start) = (Resets::default(), Instant::now());
        let admitted = |resets: &mut Resets, at| (0..3000).filter(|_| resets.admit(at)).count();
        assert_eq!(admitted(&mut resets, start), MAX_RESETS_PER_SECOND as usize);
        assert_eq!(admitted(&mut resets, start + Duration::from_millis(900)), 0);
        assert_eq!(
            admitted(&mut resets, start + Duration::from_secs(1)),
            MAX_RESETS_PER_SECOND as usize
        );
    }
}
