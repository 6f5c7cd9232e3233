//! Whether what is sent on the rung in use still arrives: what is taken for a sign of it, and when the gateway is asked.
//!
//! An answer to a handshake is the only proof. What comes in proves the way in alone: when no acknowledgement arrives any more, the
//! gateway's TCP repeats what it sent, of each connection at its own ever longer pauses, and for many seconds no half second may pass
//! without something. So traffic puts a question off, and is not taken for its answer:
//!
//! - **Silence.** Something was sent, and for `DOUBT_AFTER` nothing has come.
//! - **Waiting in sum.** The times from something sent to the next that came, added up since the last proof, are as long as that.
//!   A flow that is well in either direction hardly waits: it has something for each reading of the counters. An exchange that is
//!   well waits for a round trip and then rests: a wait of up to two known round trips is forgiven as far as nothing was sent for as
//!   long afterwards. What the gateway repeats is followed by our own again, or comes later than that. So a question follows only
//!   after some exchanges that are slow to be answered or follow each other closely, or while the round trip is not known.
//! - A doubt is ended by a handshake, or by traffic that comes without a pause, three questions long (`KEEPS_COMING`): a path whose
//!   queue grew to seconds answers too late for the engine, which knows its latest two initiations only. Anything else that comes
//!   makes the doubt more patient (`ASKS`), for then it is likelier that questions were just lost.
//!
//! Who was answered is trusted for a while, so that a flow which is one-way by nature, or waits by nature, costs a question in 3 s at most:
//!
//! | answered by | not doubted because of silence | because of waiting in sum |
//! |---|---|---|
//! | a handshake, and traffic since the last doubt | 1 s | 3 s |
//! | handshakes only, several times | 2 s, 3 s | 3 s |
//!
//! What hides a loss still: packets that need no acknowledgement, of UDP, for each reading of the counters has some of them. And the
//! repeats of many connections, if they do not coincide: the pauses of each double, so it takes the longer the more there are until a
//! pause of all is seen. In the tests' world, with first repeats spread evenly over a second, half of the losses were left within 2.6 s
//! with 12 connections, 3.2 s with 20, 6 s with 60, and half a minute with 300. Connections that flow when the way out is lost are
//! repeated together, and a hundred of them cost 0.8 s more than a dozen (`bench roam`). The echo requests inside the tunnel would tell, for their
//! answers prove both ways; the ladder does not see them.

use std::time::{Duration, Instant};

use super::{ASK_EVERY, ASKS, DOUBT_AFTER, KEEPS_COMING, LAG, Ladder, Move, Seen, State, TRUST, WANTED_FOR};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubt {
    asked: u32,
    /// When it is asked again, or the rung is left.
    pub(super) due: Instant,
    /// Questions until the rung is left.
    patience: u32,
    /// Something came since the last question.
    heard: bool,
    /// What was waited in sum when the last question was asked.
    waited: Duration,
    /// Times between questions, the latest in a row, in which traffic came without a pause.
    flowing: u32,
}

/// How long no further question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Trust {
    /// When a doubt was last ended by a handshake.
    answered_at: Option<Instant>,
    /// Doubts in a row that a handshake ended while nothing else came.
    one_way: u32,
}

impl Trust {
    fn note_answer(&mut self, now: Instant) {
        self.answered_at = Some(now);
        self.one_way = self.one_way.saturating_add(1);
    }

    /// From when silence may be doubtful.
    fn silence_from(&self) -> Option<Instant> {
        let doublings = self.one_way.saturating_sub(1).min(8);
        let length = TRUST.0.saturating_mul(1 << doublings).min(TRUST.1);
        self.answered_at.map(|at| at + length)
    }

    /// From when waiting in sum may be doubtful.
    fn waiting_from(&self) -> Option<Instant> {
        self.answered_at.map(|at| at + TRUST.1)
    }
}

impl Ladder {
    pub(super) fn note_traffic(&mut self, seen: &Seen, now: Instant) {
        let has_sent = seen.sent != self.sent;
        if has_sent {
            self.forgive_prompt(now);
        }
        if seen.received != self.received {
            self.note_received(now);
        } else if has_sent {
            self.quiet_since.get_or_insert(now);
        }
        if has_sent {
            if !self.is_wanted(now) {
                self.hurry(now);
            }
            self.wanted_at = Some(now);
        }
        (self.sent, self.received) = (seen.sent, seen.received);
    }

    fn note_received(&mut self, now: Instant) {
        if let Some(since) = self.quiet_since.take() {
            let wait = now.saturating_duration_since(since);
            self.waited += wait;
            let is_prompt = self.rtt.is_some_and(|rtt| wait <= rtt * 2 + LAG);
            self.prompt = is_prompt.then_some((now, wait));
        }
        if let State::Settled { doubt, trust, .. } = &mut self.state {
            trust.one_way = 0;
            if let Some(doubt) = doubt {
                doubt.heard = true;
                doubt.patience = ASKS.1;
            }
        }
    }

    /// Something is sent again. If the latest wait was that of an exchange which is well, it is forgiven as far as nothing was sent for
    /// as long since then.
    fn forgive_prompt(&mut self, now: Instant) {
        // A doubt compares what was waited between its questions.
        let in_doubt = matches!(&self.state, State::Settled { doubt: Some(_), .. });
        if let Some((ended_at, wait)) = self.prompt.take().filter(|_| !in_doubt) {
            let rest = now.saturating_duration_since(ended_at).saturating_sub(LAG);
            self.waited = self.waited.saturating_sub(wait.min(rest));
        }
    }

    /// A handshake was completed: what was sent just before has arrived.
    pub(super) fn note_proof(&mut self, now: Instant) {
        self.expect_nothing();
        if let State::Settled { doubt, trust, .. } = &mut self.state
            && doubt.take().is_some()
        {
            trust.note_answer(now);
        }
    }

    /// Nothing that was sent so far is waited for any more.
    pub(super) fn expect_nothing(&mut self) {
        (self.quiet_since, self.prompt) = (None, None);
        self.waited = Duration::ZERO;
    }

    /// How long something that was sent was waited for, since the last proof.
    fn waited_in_sum(&self, now: Instant) -> Duration {
        let present = self.quiet_since.map(|since| now.saturating_duration_since(since));
        self.waited + present.unwrap_or_default()
    }

    /// When the rung in use will be doubtful if nothing comes before, and how many questions it will have then.
    pub(super) fn doubtful_at(&self) -> Option<(Instant, u32)> {
        let State::Settled { trust, .. } = &self.state else {
            return None;
        };
        let (since, after) = (self.quiet_since?, self.doubt_after());
        let silent = Some(since + after).max(trust.silence_from())?;
        let waited = Some(since + after.saturating_sub(self.waited)).max(trust.waiting_from())?;
        let at = silent.min(waited);
        let is_masked = at.saturating_duration_since(since) < after / 2;
        Some((at, if is_masked { ASKS.1 } else { ASKS.0 }))
    }

    /// Begins to doubt the rung in use, by a question.
    pub(super) fn doubt(&mut self, patience: u32, now: Instant) {
        let (due, waited) = (now + self.ask_every(), self.waited_in_sum(now));
        if let State::Settled {
            doubt: doubt @ None, ..
        } = &mut self.state
        {
            *doubt = Some(Doubt {
                asked: 1,
                due,
                patience,
                heard: false,
                waited,
                flowing: 0,
            });
            self.moves.push_back(Move::Ask);
        }
    }

    pub(super) fn check_doubt(&mut self, now: Instant) {
        match &self.state {
            State::Settled { doubt: None, .. } => {
                if let Some((at, patience)) = self.doubtful_at()
                    && at <= now
                {
                    self.doubt(patience, now);
                }
            }
            State::Settled {
                doubt: Some(doubt), ..
            } if doubt.due <= now => self.ask_again(now),
            State::Settled { .. } | State::Searching { .. } => {}
        }
    }

    /// A question of the doubt has had its time.
    fn ask_again(&mut self, now: Instant) {
        let (pause, waited) = (self.ask_every(), self.waited_in_sum(now));
        let State::Settled {
            at,
            doubt: Some(doubt),
            ..
        } = &mut self.state
        else {
            return;
        };
        let rung = at.rung;
        let flows = doubt.heard && waited.saturating_sub(doubt.waited) <= pause / 4;
        doubt.flowing = if flows { doubt.flowing + 1 } else { 0 };
        if doubt.flowing >= KEEPS_COMING {
            self.let_be();
        } else if doubt.asked >= doubt.patience && !flows {
            self.leave(rung, now);
        } else {
            doubt.asked += 1;
            doubt.due = now + pause;
            (doubt.heard, doubt.waited) = (false, waited);
            let is_last_but_one = doubt.asked + 1 == doubt.patience;
            self.moves.push_back(Move::Ask);
            if is_last_but_one {
                self.prepare_others(rung);
            }
        }
    }

    /// Ends a doubt that traffic has answered.
    fn let_be(&mut self) {
        self.expect_nothing();
        if let State::Settled { doubt, .. } = &mut self.state {
            *doubt = None;
        }
    }

    /// Questions were not answered: what takes time to open, on whatever rung may come next, is opened.
    fn prepare_others(&mut self, rung: usize) {
        let others = (0..self.addresses.len()).filter(|other| *other != rung && self.addresses[*other] > 0);
        self.moves.extend(others.map(Move::Prepare));
    }

    fn ask_every(&self) -> Duration {
        let of_path = self.rtt.unwrap_or_default() * 3 / 4;
        of_path.clamp(ASK_EVERY.0, ASK_EVERY.1)
    }

    /// Whether something was sent a short time ago.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.wanted_at
            .is_some_and(|at| now.saturating_duration_since(at) < WANTED_FOR)
    }

    fn doubt_after(&self) -> Duration {
        let of_path = self.rtt.unwrap_or_default().saturating_mul(3);
        of_path.clamp(DOUBT_AFTER.0, DOUBT_AFTER.1)
    }
}
