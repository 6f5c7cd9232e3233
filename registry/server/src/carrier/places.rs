//! Who is carried: a bounded number of connections, of which those that the gateway does not know make room.
//!
//! Anybody may open one. Where all places are taken, the oldest of those that have no answer yet loses its own, so a flood of them
//! takes nothing from who is answered, and a newcomer that is known is answered long before its turn comes.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    answered: HashSet<u64>,
    /// In the order in which they came.
    unanswered: BTreeMap<u64, CancellationToken>,
}

/// One that is taken, until it is dropped or lost.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Places>,
    number: u64,
    lost: CancellationToken,
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            taken: Mutex::default(),
        })
    }

    /// Takes a place; `None` when everybody who has one is answered.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.lock();
        if taken.answered.len() + taken.unanswered.len() >= self.max {
            let (_, oldest) = taken.unanswered.pop_first()?;
            oldest.cancel();
        }
        let (number, lost) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.unanswered.insert(number, lost.clone());
        Some(Place {
            of: Arc::clone(self),
            number,
            lost,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The gateway answered: it is not lost any more.
    pub(super) fn keep(&self) {
        let mut taken = self.of.lock();
        if taken.unanswered.remove(&self.number).is_some() {
            taken.answered.insert(self.number);
        }
    }

    /// Waits until it is somebody else's.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        taken.unanswered.remove(&self.number);
        taken.answered.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_is_not_answered_makes_room() {
        let places = Places::new(3);
        let [known, oldest, other] = [(); 3].map(|()| places.take().unwrap());
        known.keep();
        let newcomer = places.take().unwrap();
        assert!(oldest.lost.is_cancelled());
        oldest.keep();
        drop(oldest);
        newcomer.keep();
        // Each of them takes the place of the one before.
        let flood: Vec<Place> = (0..100).map(|_| places.take().unwrap()).collect();
        assert!(flood[98].lost.is_cancelled() && !flood[99].lost.is_cancelled());
        assert!(other.lost.is_cancelled());
        assert!(!known.lost.is_cancelled() && !newcomer.lost.is_cancelled());
        let taken = places.lock();
        assert_eq!((taken.answered.len(), taken.unanswered.len()), (2, 1));
        drop(taken);
    }

    #[test]
    fn nobody_is_sent_away_while_everybody_is_answered_and_who_leaves_makes_room() {
        let places = Places::new(2);
        let [one, two] = [(); 2].map(|()| places.take().unwrap());
        one.keep();
        two.keep();
        assert!(places.take().is_none());
        assert!(!one.lost.is_cancelled() && !two.lost.is_cancelled());
        drop(one);
        assert!(places.take().is_some());
    }
}
