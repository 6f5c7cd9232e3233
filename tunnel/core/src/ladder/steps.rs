//! What the ladder does by itself: searching downward, doubting, climbing.

use std::cmp::Ordering;
use std::time::Instant;

use rand::Rng as _;

use super::{
    ASK_AGAIN, Candidate, DOUBT_AFTER, Doubt, FIRST_PROBE, GIVE_UP, LAST_STEP, Ladder, Move, PROBE,
    REBIND_AFTER, REST, STAGGER, STEP, State, Upward,
};

impl Ladder {
    /// Candidates in the order of a search: the rung to start with, then all others, best first.
    fn order(&self, start: Option<usize>) -> Vec<Candidate> {
        let first = start.filter(|rung| *rung < self.addresses.len());
        let others = (0..self.addresses.len()).filter(|rung| Some(*rung) != first);
        first
            .into_iter()
            .chain(others)
            .flat_map(|rung| (0..self.addresses[rung]).map(move |address| Candidate { rung, address }))
            .collect()
    }

    /// Candidates in the order of a search after this rung was lost: those below, because the ones above were asked before and
    /// did not answer; then those above; and itself, which has had its chance.
    fn order_without(&self, rung: usize) -> Vec<Candidate> {
        let mut order = self.order(None);
        order.sort_by_key(|candidate| match candidate.rung.cmp(&rung) {
            Ordering::Greater => 0,
            Ordering::Less => 1,
            Ordering::Equal => 2,
        });
        order
    }

    pub(super) fn search(&mut self, start: Option<usize>, now: Instant) {
        self.moves.clear();
        self.quiet_since = None;
        self.state = State::Searching {
            since: now,
            order: self.order(start),
            next: 0,
            due: now,
            rounds: 0,
        };
        self.next_rung(now);
    }

    /// The next step of a search.
    pub(super) fn next_rung(&mut self, now: Instant) {
        let all = self.order(None);
        let State::Searching {
            since,
            order,
            next,
            due,
            rounds,
        } = &mut self.state
        else {
            return;
        };
        let Some(candidate) = order.get(*next).copied() else {
            // The round is over. The next one starts at the top with the addresses of today.
            *rounds = rounds.saturating_add(1);
            *order = all;
            *next = 0;
            let pause = REST.0.saturating_mul(1 << (*rounds - 1).min(8)).min(REST.1);
            *due = now + self.rng.random_range(pause / 2..=pause);
            if now.saturating_duration_since(*since) >= REBIND_AFTER {
                self.moves.push_back(Move::Rebind);
            }
            return;
        };
        *next += 1;
        self.moves.push_back(Move::Use(candidate));
        match order.get(*next) {
            Some(following) if following.rung == candidate.rung => *due = now + STAGGER,
            Some(following) => {
                self.moves.push_back(Move::Prepare(following.rung));
                *due = now + STEP;
            }
            None => *due = now + LAST_STEP,
        }
    }

    pub(super) fn settle(&mut self, at: Candidate, now: Instant) {
        self.quiet_since = None;
        let upward = self.upward(at.rung, now);
        self.state = State::Settled {
            at,
            since: now,
            doubt: None,
            trusted_until: now,
            upward,
        };
        self.moves.push_back(Move::Settled(at));
    }

    /// How the way up from a rung begins.
    pub(super) fn upward(&self, rung: usize, now: Instant) -> Upward {
        if self.above(rung).is_empty() {
            return Upward::Content;
        }
        Upward::Waiting {
            due: now + FIRST_PROBE,
            pause: PROBE.0,
        }
    }

    /// Candidates above a rung, best first.
    fn above(&self, rung: usize) -> Vec<Candidate> {
        let mut order = self.order(None);
        order.retain(|candidate| candidate.rung < rung);
        order
    }

    pub(super) fn doubt(&mut self, now: Instant) {
        let State::Settled { at, .. } = &self.state else {
            return;
        };
        let next = self.order_without(at.rung).first().copied();
        if let State::Settled { at, doubt, .. } = &mut self.state
            && doubt.is_none()
        {
            *doubt = Some(Doubt {
                since: now,
                asked_again: false,
            });
            self.moves.push_back(Move::Ask);
            if let Some(candidate) = next.filter(|candidate| candidate.rung != at.rung) {
                self.moves.push_back(Move::Prepare(candidate.rung));
            }
        }
    }

    pub(super) fn check_doubt(&mut self, now: Instant) {
        let State::Settled {
            at,
            doubt,
            trusted_until,
            ..
        } = &mut self.state
        else {
            return;
        };
        let rung = at.rung;
        match doubt {
            None => {
                let quiet = self
                    .quiet_since
                    .is_some_and(|since| now.saturating_duration_since(since) >= DOUBT_AFTER);
                if quiet && now >= *trusted_until {
                    self.doubt(now);
                }
            }
            Some(doubt) if now >= doubt.since + GIVE_UP => self.leave(rung, now),
            Some(doubt) if !doubt.asked_again && now >= doubt.since + ASK_AGAIN => {
                doubt.asked_again = true;
                self.moves.push_back(Move::Ask);
            }
            Some(_) => {}
        }
    }

    /// Searches for another rung than this one.
    fn leave(&mut self, rung: usize, now: Instant) {
        let order = self.order_without(rung);
        self.quiet_since = None;
        self.state = State::Searching {
            since: now,
            order,
            next: 0,
            due: now,
            rounds: 0,
        };
        self.next_rung(now);
    }

    /// Probes the rungs above, one candidate after the other.
    pub(super) fn climb(&mut self, now: Instant) {
        let State::Settled {
            at,
            upward,
            doubt: None,
            ..
        } = &self.state
        else {
            return;
        };
        let above = self.above(at.rung);
        let (next, pause) = match upward {
            Upward::Waiting { due, pause } if *due <= now => (0, *pause),
            Upward::Probing { next, due, pause } if *due <= now => (*next, *pause),
            _ => return,
        };
        let following = if let Some(candidate) = above.get(next) {
            self.moves.push_back(Move::Probe(*candidate));
            Upward::Probing {
                next: next + 1,
                due: now + STEP,
                pause,
            }
        } else {
            // Nobody answered up there.
            let jittered = self.rng.random_range(pause / 2..=pause);
            Upward::Waiting {
                due: now + jittered,
                pause: pause.saturating_mul(2).min(PROBE.1),
            }
        };
        if let State::Settled { upward, .. } = &mut self.state {
            *upward = following;
        }
    }
}
