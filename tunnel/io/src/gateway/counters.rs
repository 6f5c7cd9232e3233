//! What the gateway counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_tunnel_core::PublicKey;

use super::PeerStats;
use crate::netstack::Ends;

/// Resets each second for what belongs to no connection. Beyond it such packets are dropped without an answer.
const MAX_RESETS_PER_SECOND: u32 = 1000;

/// A peer as the front counts for it; what its node knows is added in [`Peer::stats`].
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) public_key: PublicKey,
    pub(super) name: Arc<str>,
    pub(super) connections: usize,
    pub(super) forwarded: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    pub(super) dropped: u64,
}

impl Peer {
    pub(super) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            name: "".into(),
            connections: 0,
            forwarded: 0,
            refused: 0,
            failed: 0,
            dropped: 0,
        }
    }

    /// `None` when the node has no such peer.
    pub(super) fn stats(&self, ends: &Ends) -> Option<PeerStats> {
        let node = ends.node.stats(&self.public_key)?;
        Some(PeerStats {
            public_key: self.public_key,
            name: Arc::clone(&self.name),
            endpoint: node.endpoint,
            last_handshake: node.last_handshake,
            rx_bytes: node.rx_bytes,
            tx_bytes: node.tx_bytes,
            connections: self.connections,
            forwarded: self.forwarded,
            refused: self.refused,
            failed: self.failed,
            dropped: self.dropped + node.dropped.total(),
        })
    }
}

/// Counts resets in windows of one second.
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
