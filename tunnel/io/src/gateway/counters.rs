//! What the gateway counts.

use std::sync::Arc;
use std::time::Instant;

use orfe_tunnel_core::{Bucket, PublicKey, Rate};

use super::policy::Access;
use super::{PeerDropCounts, PeerStats};
use crate::netstack::Ends;

/// Refusals that one peer is told of: enough for all its connections within seconds, and a tenth of what all are told of together,
/// so that the refusals of one do not make those of others time out.
const REFUSALS: Rate = Rate {
    per_second: 100.0,
    burst: 100.0,
};

/// Connections that could not be had and that the log tells of where people look, for one peer: enough to see what is wrong, and
/// with the longest names some 5 MiB a day whatever it does.
const WARNINGS: Rate = Rate {
    per_second: 0.1,
    burst: 10.0,
};

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
    refusals: Bucket,
    warnings: Bucket,
    /// Something changed since it was shown last.
    pub(super) is_changed: bool,
}

impl Peer {
    pub(super) fn new(public_key: PublicKey, now: Instant) -> Self {
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
            refusals: Bucket::full(REFUSALS, now),
            warnings: Bucket::full(WARNINGS, now),
            is_changed: false,
        }
    }

    /// Whether it may be told now that something is refused; then it counts as told.
    pub(super) fn may_be_refused(&mut self, now: Instant) -> bool {
        self.refusals.take(REFUSALS, now)
    }

    /// Whether the log may warn now of a connection of this peer; then it counts as done.
    pub(super) fn may_be_warned_of(&mut self, now: Instant) -> bool {
        self.warnings.take(WARNINGS, now)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use orfe_tunnel_core::PrivateKey;

    use super::*;

    #[test]
    fn a_peer_is_told_of_so_many_refusals_and_another_has_its_own() {
        let now = Instant::now();
        let mut peers = [(); 2].map(|()| Peer::new(PrivateKey::generate().public_key(), now));
        for peer in &mut peers {
            let told = (0..5000).filter(|_| peer.may_be_refused(now));
            assert_eq!(told.count(), 100);
        }
        assert!(peers[0].may_be_refused(now + Duration::from_millis(11)));
    }

    #[test]
    fn one_peer_does_not_fill_the_log() {
        let start = Instant::now();
        let mut peer = Peer::new(PrivateKey::generate().public_key(), start);
        let warned = (0..100_000).filter(|ms| peer.may_be_warned_of(start + Duration::from_millis(*ms)));
        assert_eq!(warned.count(), 19);
        let mut other = Peer::new(PrivateKey::generate().public_key(), start);
        assert!(other.may_be_warned_of(start));
    }
}
