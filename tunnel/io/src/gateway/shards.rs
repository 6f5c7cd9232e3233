//! The threads of a gateway.
//!
//! Each has a socket at the gateway's port, a `WireGuard` node, a TCP stack and a front of its own, and a peer belongs to one
//! of them by its public key: nothing that packets touch is shared. What is declared goes to all of them, because each node
//! knows every peer (see `Shard` in `orfe_tunnel_core`); what is counted is put together when it is read.

use std::num::NonZeroU8;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use orfe_tunnel_core::{MAX_SHARDS, PublicKey};

use super::{Admitted, Desired, GatewayStack, GatewayStats, PeerStats, Shown};
use crate::netstack::Netstack;

use super::front::Command;

/// How many threads a gateway has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards {
    pub(super) count: u8,
    pub(super) is_steered: bool,
}

impl Shards {
    /// One, which does everything.
    pub const ONE: Self = Self {
        count: 1,
        is_steered: true,
    };

    /// As many as asked for, at most four. It is one where the system has no `SO_REUSEPORT`, or lets no filter be attached to it.
    #[must_use]
    pub fn new(count: NonZeroU8) -> Self {
        Self {
            count: count.get().min(MAX_SHARDS),
            is_steered: true,
        }
    }

    /// One for each core that this process may use, at most four.
    #[must_use]
    pub fn for_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            count: u8::try_from(cores).unwrap_or(MAX_SHARDS).min(MAX_SHARDS),
            is_steered: true,
        }
    }

    /// The same without a filter in the kernel: datagrams come to a thread by their source, and most are handed over. For
    /// tests of just that.
    #[must_use]
    pub fn without_steering(self) -> Self {
        Self {
            is_steered: false,
            ..self
        }
    }
}

impl Default for Shards {
    fn default() -> Self {
        Self::for_this_machine()
    }
}

/// One thread, as the gateway holds it.
#[derive(Debug)]
pub(super) struct ShardThread {
    pub(super) netstack: Netstack<Command>,
    pub(super) desired: Arc<Mutex<Desired>>,
}

impl ShardThread {
    pub(super) fn declare(&self, desired: &Desired) {
        let mut waiting = self.desired.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.replace_with(desired);
        drop(waiting);
        self.netstack.handle().wake();
    }
}

impl Desired {
    /// What `newer` names takes the place of what was there.
    fn replace_with(&mut self, newer: &Self) {
        let Self { peers, policy, keys } = newer.clone();
        self.peers = peers.or(self.peers.take());
        self.policy = policy.or(self.policy.take());
        self.keys = keys.or(self.keys.take());
    }

    pub(super) fn of_peers(peers: Vec<Admitted>) -> Self {
        Self {
            peers: Some(peers.into()),
            ..Self::default()
        }
    }
}

/// Reads the counters of a [`Gateway`](super::Gateway); after its end, those that stood last.
#[derive(Debug, Clone)]
pub struct GatewayView {
    threads: Arc<[Arc<Mutex<Shown>>]>,
    /// The TCP stack that it began with.
    stack: Arc<GatewayStack>,
}

impl GatewayView {
    pub(super) fn new(threads: Vec<Arc<Mutex<Shown>>>, stack: GatewayStack) -> Self {
        Self {
            threads: threads.into(),
            stack: Arc::new(stack),
        }
    }

    fn shown(&self) -> impl Iterator<Item = MutexGuard<'_, Shown>> {
        let threads = self.threads.iter();
        threads.map(|shown| shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of one peer.
    pub fn peer(&self, public_key: &PublicKey) -> Option<PeerStats> {
        self.shown()
            .find_map(|shown| shown.peers.get(public_key).cloned())
    }

    /// What is known of all peers.
    pub fn peers(&self) -> Vec<PeerStats> {
        let mut peers = Vec::new();
        for shown in self.shown() {
            peers.extend(shown.peers.values().cloned());
        }
        peers
    }

    /// The TCP stack that new connections get at this moment, and why.
    pub fn tcp_stack(&self) -> GatewayStack {
        let lost: Vec<_> = self.shown().filter_map(|shown| shown.lost.clone()).collect();
        self.stack.without(&lost, self.threads.len(), Instant::now())
    }

    /// Counters of the gateway as a whole.
    pub(super) fn total(&self) -> GatewayStats {
        let mut total = GatewayStats::default();
        for shown in self.shown() {
            let one = shown.total;
            total.dropped += one.dropped;
            total.connections += one.connections;
            total.buffered_bytes += one.buffered_bytes;
        }
        total
    }
}
