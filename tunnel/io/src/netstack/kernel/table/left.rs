//! Connections that were left and are not over, by time and by peer.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use crate::netstack::kernel::Number;

/// When one is to be looked at, and its number.
type Entry = (Instant, Number);

#[derive(Debug, Default)]
pub(super) struct Left {
    in_order: BTreeSet<Entry>,
    /// The same by the address of the other end. No set is empty.
    by_peer: HashMap<IpAddr, BTreeSet<Entry>>,
}

impl Left {
    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    pub(super) fn insert(&mut self, peer: IpAddr, look_at: Instant, number: Number) {
        self.in_order.insert((look_at, number));
        self.by_peer.entry(peer).or_default().insert((look_at, number));
    }

    pub(super) fn remove(&mut self, peer: IpAddr, look_at: Instant, number: Number) {
        self.in_order.remove(&(look_at, number));
        if let Some(of_peer) = self.by_peer.get_mut(&peer) {
            of_peer.remove(&(look_at, number));
            if of_peer.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
    }

    /// The one that is to be looked at first.
    pub(super) fn first(&self) -> Option<Entry> {
        self.in_order.first().copied()
    }

    /// The first one of the peer that has most. Takes time in proportion to the number of peers.
    pub(super) fn first_of_most(&self) -> Option<Number> {
        let most = self.by_peer.values().max_by_key(|of_peer| of_peer.len())?;
        most.first().map(|(_, number)| *number)
    }
}
