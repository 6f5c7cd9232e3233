//! People's peers at this moment, in memory; the store keeps them, and every change goes there first.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use orfe_protocol::name::DeviceName;
use orfe_store::Peer;

/// All peers, by name.
#[derive(Debug, Default)]
pub(crate) struct People(Mutex<BTreeMap<DeviceName, Peer>>);

impl People {
    pub(crate) fn new(peers: impl IntoIterator<Item = Peer>) -> Self {
        let peers = peers.into_iter().map(|peer| (peer.name.clone(), peer));
        Self(Mutex::new(peers.collect()))
    }

    /// All of them, those that have expired included.
    pub(crate) fn all(&self) -> Vec<Peer> {
        self.lock().values().cloned().collect()
    }

    /// Those that may use the tunnel.
    pub(crate) fn current(&self, now: Timestamp) -> Vec<Peer> {
        let peers = self.lock();
        peers
            .values()
            .filter(|peer| peer.is_current(now))
            .cloned()
            .collect()
    }

    pub(crate) fn get(&self, name: &DeviceName) -> Option<Peer> {
        self.lock().get(name).cloned()
    }

    pub(crate) fn insert(&self, peer: Peer) {
        self.lock().insert(peer.name.clone(), peer);
    }

    pub(crate) fn remove(&self, name: &DeviceName) {
        self.lock().remove(name);
    }

    /// Every change is one call, so a panic elsewhere leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceName, Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
