//! What the ladder does by itself: searching downward, climbing.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::{
    Candidate, EAGER_FOR, EAGER_REST, FIRST_PROBE, LATE, Ladder, Move, PROBE, PROBE_STEP, REBIND_AFTER, REST,
    SOON, STAGGER, STEP, State, Trust, Upward,
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
        self.expect_nothing();
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
        let State::Searching {
            order, next, rounds, ..
        } = &self.state
        else {
            return;
        };
        let Some(candidate) = order.get(*next).copied() else {
            self.end_round(now);
            return;
        };
        let step = self.step(*rounds);
        let pause = match order.get(next + 1) {
            Some(following) if following.rung == candidate.rung => STAGGER,
            // The last one has the pause after the round, too.
            _ => step,
        };
        self.moves.push_back(Move::Use(candidate));
        // Not beside the very first question, which most networks answer: each opening costs the registry a handshake of TLS.
        if *next > 0 {
            for following in order[next + 1..].chunk_by(|one, other| one.rung == other.rung) {
                self.moves.push_back(Move::Prepare(following[0].rung));
            }
        }
        if let State::Searching { next, due, .. } = &mut self.state {
            *next += 1;
            *due = now + pause;
        }
    }

    /// The round is over. The next one starts at the top with the addresses of that time.
    fn end_round(&mut self, now: Instant) {
        let all = self.order(None);
        let is_wanted = self.is_wanted(now);
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
        *rounds = rounds.saturating_add(1);
        *order = all;
        *next = 0;
        let searched = now.saturating_duration_since(*since);
        let longest = match is_wanted {
            true if searched < EAGER_FOR => EAGER_REST.0,
            true => EAGER_REST.1,
            false => REST.1,
        };
        let pause = REST.0.saturating_mul(1 << (*rounds - 1).min(8)).min(longest);
        *due = now + self.rng.random_range(pause / 2..=pause);
        if searched >= REBIND_AFTER {
            self.moves.push_back(Move::Rebind);
        }
    }

    /// How long a rung is alone in this round.
    fn step(&self, rounds: u32) -> Duration {
        let step = match rounds {
            0 => STEP.0,
            rounds if rounds % 3 == 2 => STEP.2,
            _ => STEP.1,
        };
        step.max(self.rtt.unwrap_or_default()).min(STEP.2)
    }

    /// Somebody wants the tunnel after a silence: the next round is not waited for any longer.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let State::Searching { next: 0, due, .. } = &mut self.state {
            *due = (*due).min(now + self.rng.random_range(Duration::ZERO..=SOON));
        }
    }

    /// Asks on a rung that has just become usable, if it had its turn before, or there is a pause.
    pub(super) fn try_opened(&mut self, rung: usize, now: Instant) {
        let State::Searching {
            order,
            next,
            due,
            rounds,
            ..
        } = &self.state
        else {
            return;
        };
        let had_its_turn = |position: usize| position < *next || (*next == 0 && *rounds > 0);
        let position = order.iter().position(|candidate| candidate.rung == rung);
        let Some(candidate) = position.filter(|at| had_its_turn(*at)).map(|at| order[at]) else {
            return;
        };
        let later = (*due).max(now + self.step(*rounds));
        if let State::Searching { due, .. } = &mut self.state {
            *due = later;
        }
        self.moves.push_back(Move::Use(candidate));
    }

    pub(super) fn settle(&mut self, at: Candidate, now: Instant) {
        self.expect_nothing();
        let upward = self.upward(at.rung, now);
        let late_until = match &self.state {
            State::Searching { .. } => now + LATE,
            State::Settled { .. } => now,
        };
        self.state = State::Settled {
            at,
            since: now,
            doubt: None,
            trust: Trust::default(),
            late_until,
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

    /// Searches for another rung than this one.
    pub(super) fn leave(&mut self, rung: usize, now: Instant) {
        let order = self.order_without(rung);
        self.expect_nothing();
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
                due: now + PROBE_STEP,
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
