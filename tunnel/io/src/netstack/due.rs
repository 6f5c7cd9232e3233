//! When the node's timers are due.
//!
//! A node looks at every peer to say when its next timer is due, and whatever passes may change the answer. A device has one
//! peer and asks at once. A gateway may know thousands, and every thread of it knows them all: there the question waits until
//! the last one is a while ago, and timers of whole seconds come that much late.

use std::time::{Duration, Instant};

/// Up to so many peers the node is asked as often as the answer may be another.
const FEW_PEERS: usize = 64;
/// Beyond, at most this often. Ten thousand peers take a millisecond each time.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// When the node is to be called, as far as is known.
#[derive(Debug)]
pub(super) struct Due {
    at: Option<Instant>,
    asked_at: Instant,
    /// The answer may be another by now.
    is_stale: bool,
}

impl Due {
    /// At once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            at: Some(now),
            asked_at: now,
            is_stale: false,
        }
    }

    /// Whether the node's timers are due; then they are taken for done.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.at.is_some_and(|at| at <= now);
        if is_due {
            self.at = None;
            self.is_stale = true;
        }
        is_due
    }

    /// Something happened that the answer may depend on.
    pub(super) fn note_change(&mut self) {
        self.is_stale = true;
    }

    /// Has `poll_timeout` answer anew, if that may be another answer and it is time to ask a node with so many peers.
    pub(super) fn ask(&mut self, peers: usize, now: Instant, poll_timeout: impl FnOnce() -> Option<Instant>) {
        if self.is_stale && (peers <= FEW_PEERS || now >= self.asked_at + ASK_INTERVAL) {
            *self = Self {
                at: poll_timeout(),
                asked_at: now,
                is_stale: false,
            };
        }
    }

    /// When the thread is to be awake for it.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let ask = self.is_stale.then(|| self.asked_at + ASK_INTERVAL);
        [self.at, ask].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_peers_are_asked_at_once_and_many_now_and_then() {
        let start = Instant::now();
        let next = start + Duration::from_secs(9);
        for (peers, asked) in [(1, 200), (10_000, 4)] {
            let mut due = Due::new(start);
            assert!(due.take(start));
            let mut count = 0;
            for millisecond in 0..200 {
                due.note_change();
                due.ask(peers, start + Duration::from_millis(millisecond), || {
                    count += 1;
                    Some(next)
                });
            }
            // The first question of many waits, too.
            assert!((asked - 1..=asked).contains(&count), "{peers} peers: {count}");
        }
    }

    #[test]
    fn what_is_due_is_due_once_until_it_was_asked_again() {
        let start = Instant::now();
        let mut due = Due::new(start);
        assert!(due.take(start));
        assert!(!due.take(start + ASK_INTERVAL), "the answer is not known yet");
        assert_eq!(due.poll_timeout(), Some(start + ASK_INTERVAL));
        let early = start + Duration::from_secs(8);
        let next = start + Duration::from_secs(9);
        due.ask(10_000, start + ASK_INTERVAL, || Some(next));
        assert_eq!(due.poll_timeout(), Some(next));
        assert!(!due.take(early) && due.take(next));
    }
}
