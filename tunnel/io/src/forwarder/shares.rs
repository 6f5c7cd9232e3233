//! Places for connections, of which one source gets a part only: so no container can lock the others out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places.
#[derive(Debug)]
pub(super) struct Shares {
    places: usize,
    of_one_source: usize,
    /// A std mutex, because it is held for one change of the figures and never across an await.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Who has no place is not listed, so there are never more than there are places.
    by_source: HashMap<IpAddr, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shares: Arc<Shares>,
    source: IpAddr,
}

impl Shares {
    pub(super) fn new(places: usize, of_one_source: usize) -> Arc<Self> {
        Arc::new(Self {
            places,
            of_one_source,
            taken: Mutex::default(),
        })
    }

    /// A place for a connection from `source`; `None` where all are taken, or all that one source gets.
    pub(super) fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut taken = self.lock();
        let own = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.all >= self.places || own >= self.of_one_source {
            return None;
        }
        taken.all += 1;
        taken.by_source.insert(source, own + 1);
        drop(taken);
        Some(Place {
            shares: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // No code panics while it holds the lock, and the figures are whole between any two calls.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        taken.all -= 1;
        if let Entry::Occupied(mut own) = taken.by_source.entry(self.source) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_share_and_all_together_get_all_places() {
        let shares = Shares::new(3, 2);
        let [one, two] = [1, 2].map(|last| IpAddr::from([172, 17, 0, last]));
        let first = shares.take(one);
        let second = shares.take(one);
        assert!(first.is_some() && second.is_some());
        assert!(shares.take(one).is_none(), "its share is taken");
        let third = shares.take(two);
        assert!(third.is_some(), "another source has its own");
        assert!(shares.take(two).is_none(), "all places are taken");
        drop(first);
        assert!(shares.take(one).is_some(), "and given back");
        drop((second, third));
        let taken = shares.lock();
        assert_eq!(taken.all, 0);
        assert!(taken.by_source.is_empty());
    }
}
