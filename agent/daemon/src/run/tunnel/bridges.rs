//! Which bridges are let into the tunnel in TUN mode, and when that is to be done anew.

use std::time::{Duration, Instant};

/// When it is tried again after it failed. A line of the log each.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The bridges that were let in last, or were to be.
#[derive(Debug)]
pub(super) struct LetIn {
    bridges: Vec<String>,
    /// When the last change failed, if it did: then what is let in are not these.
    failed_at: Option<Instant>,
}

impl LetIn {
    pub(super) fn new(bridges: Vec<String>) -> Self {
        Self {
            bridges,
            failed_at: None,
        }
    }

    /// The bridges to let in now, if that is to be done: they are others than before, or it failed a while ago.
    pub(super) fn next(&mut self, chosen: Vec<String>, now: Instant) -> Option<Vec<String>> {
        let is_due = match self.failed_at {
            Some(at) => now.saturating_duration_since(at) >= AGAIN_AFTER,
            None => chosen != self.bridges,
        };
        if !is_due {
            return None;
        }
        *self = Self::new(chosen);
        Some(self.bridges.clone())
    }

    pub(super) fn note_failure(&mut self, now: Instant) {
        self.failed_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_change_is_made_once_and_again_when_it_failed() {
        let (one, two) = (names(&["docker0"]), names(&["docker0", "br-1"]));
        let (mut let_in, now) = (LetIn::new(one.clone()), Instant::now());
        assert_eq!(let_in.next(one.clone(), now), None, "it is so already");
        assert_eq!(let_in.next(two.clone(), now), Some(two.clone()));
        assert_eq!(let_in.next(two.clone(), now), None);

        let_in.note_failure(now);
        let soon = now + AGAIN_AFTER / 2;
        assert_eq!(let_in.next(two.clone(), soon), None);
        assert_eq!(
            let_in.next(one.clone(), soon),
            None,
            "what is let in is not known"
        );
        let later = now + AGAIN_AFTER;
        assert_eq!(let_in.next(two.clone(), later), Some(two.clone()));
        assert_eq!(let_in.next(two, later), None, "nothing says that it failed again");
    }
}
