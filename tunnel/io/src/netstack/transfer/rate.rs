//! How much may be in flight.
//!
//! Loss says little about a path: a radio link loses packets that found room, and a deep queue loses none while it makes
//! everybody wait. So the window follows what the path is seen to deliver, as in BBR (Cardwell et al., 2016): the highest
//! rate of delivery lately, times the shortest round trip lately, twice over.
//!
//! ```text
//!   Startup ── rate grows no more, or heavy loss ──► Steady ◄──► Draining (every 10 s, so that the round trip shows itself)
//! ```
//!
//! Only loss beyond what random loss explains makes it give way: more than [`HEAVY_LOSS`] of a round lowers a ceiling, which
//! rises again while there is less. There is no pacing: sending is driven by acknowledgements.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Window of a connection that knows nothing yet (RFC 6928 allows ten segments; this is about twice that).
const INITIAL_WINDOW: u64 = 32 << 10;
/// Window at the least.
const MIN_WINDOW: u64 = 8 << 10;
/// Window at the most.
const MAX_WINDOW: u64 = 8 << 20;
/// Added to what the path holds: threads and batches hold some, too.
const SLACK: u64 = 64 << 10;
/// Round trips count as at least this long, for the same reason.
const MIN_ROUND_TRIP: Duration = Duration::from_millis(1);
/// Rounds for which a rate is remembered.
const RATE_ROUNDS: u64 = 10;
/// Rounds in which the rate must have grown by a quarter, or startup is over.
const STARTUP_ROUNDS: u32 = 3;
/// How long the shortest round trip holds before the queue is drained to measure it anew.
const ROUND_TRIP_HOLDS: Duration = Duration::from_secs(10);
/// How long the queue is kept drained.
const DRAIN_FOR: Duration = Duration::from_millis(200);
/// Loss in a round, in percent, that is taken for congestion.
const HEAVY_LOSS: u64 = 5;
/// Bytes lost in a round below which its share says nothing.
const FEW: u64 = 8 << 10;

/// What was known when a segment was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    delivered: u64,
    delivered_at: Instant,
    /// When the segment was sent whose delivery came last before.
    first_sent_at: Instant,
    is_limited: bool,
}

#[derive(Debug)]
pub(super) struct Rate {
    window: u64,
    is_starting: bool,
    /// Bytes delivered so far, and when the last of them were.
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// Until so much is delivered, the application and not the path limits the rate.
    limited_until: u64,
    /// Highest rates in bytes per second, by round: falling from front to back.
    rates: VecDeque<(u64, u64)>,
    round: u64,
    round_ends: u64,
    /// Rate that startup must outgrow, and the rounds in which it has not.
    outgrown: u64,
    rounds_alike: u32,
    shortest: Option<(Duration, Instant)>,
    draining_until: Option<Instant>,
    lost_in_round: u64,
    delivered_in_round: u64,
    ceiling: u64,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            window: INITIAL_WINDOW,
            is_starting: true,
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            limited_until: 0,
            rates: VecDeque::new(),
            round: 0,
            round_ends: 0,
            outgrown: 0,
            rounds_alike: 0,
            shortest: None,
            draining_until: None,
            lost_in_round: 0,
            delivered_in_round: 0,
            ceiling: MAX_WINDOW,
        }
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> u64 {
        if self.draining_until.is_some() {
            (self.path() / 2).clamp(MIN_WINDOW, self.window)
        } else {
            self.window
        }
    }

    /// To be kept with a segment that is sent now, while `in_flight` bytes are.
    pub(super) fn stamp(&mut self, in_flight: u64, now: Instant) -> Stamp {
        if in_flight == 0 {
            // The pause before it is no time that delivery took.
            (self.delivered_at, self.first_sent_at) = (now, now);
        }
        Stamp {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            is_limited: self.delivered < self.limited_until,
        }
    }

    /// There was nothing more to send, with `in_flight` bytes on their way.
    pub(super) fn note_limited(&mut self, in_flight: u64) {
        self.limited_until = self.delivered + in_flight.max(1);
    }

    /// Bytes were found to be lost.
    pub(super) fn note_lost(&mut self, bytes: u64) {
        self.lost_in_round += bytes;
    }

    /// Nothing at all comes back: start over from little.
    pub(super) fn note_silence(&mut self) {
        self.window = MIN_WINDOW.max(self.window / 2);
    }

    /// `bytes` were delivered, the one of them sent last at `sent_at`; `round_trip` is known unless that was sent twice.
    pub(super) fn note_delivered(
        &mut self,
        bytes: u64,
        (sent_at, stamp): (Instant, Stamp),
        round_trip: Option<Duration>,
        now: Instant,
    ) {
        self.delivered += bytes;
        self.delivered_at = now;
        self.delivered_in_round += bytes;
        self.first_sent_at = sent_at;
        if let Some(round_trip) = round_trip {
            self.note_round_trip(round_trip, now);
        }
        let is_new_round = stamp.delivered >= self.round_ends;
        // The slower of sending and delivering: acknowledgements may come in one heap.
        let took = now
            .saturating_duration_since(stamp.delivered_at)
            .max(sent_at.saturating_duration_since(stamp.first_sent_at));
        if took >= self.shortest.map_or(Duration::ZERO, |(shortest, _)| shortest) && !took.is_zero() {
            let sample = u128::from(self.delivered - stamp.delivered) * 1_000_000_000 / took.as_nanos();
            let sample = u64::try_from(sample).unwrap_or(u64::MAX);
            if !stamp.is_limited || sample >= self.rate() {
                self.note_rate(sample);
            }
        }
        if is_new_round {
            self.end_round(stamp.is_limited);
        }
        self.open(bytes);
        if self.draining_until.is_some_and(|until| until <= now) {
            self.draining_until = None;
        }
    }

    fn rate(&self) -> u64 {
        self.rates.front().map_or(0, |(rate, _)| *rate)
    }

    /// Bytes that the path holds, queues apart.
    fn path(&self) -> u64 {
        let round_trip = self
            .shortest
            .map_or(MIN_ROUND_TRIP, |(shortest, _)| shortest.max(MIN_ROUND_TRIP));
        let bytes = u128::from(self.rate()) * round_trip.as_nanos() / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(MAX_WINDOW).min(MAX_WINDOW)
    }

    fn note_round_trip(&mut self, round_trip: Duration, now: Instant) {
        match self.shortest {
            Some((shortest, at)) if round_trip > shortest => {
                if now.saturating_duration_since(at) > ROUND_TRIP_HOLDS {
                    if self.draining_until.is_none() {
                        self.draining_until = Some(now + DRAIN_FOR.max(2 * shortest));
                        // Held for as long again, unless draining shows a shorter one or that it has grown.
                        self.shortest = Some((shortest, now));
                    }
                } else if self.draining_until.is_some() && now.saturating_duration_since(at) >= DRAIN_FOR / 2
                {
                    // Drained, and still longer: the path has changed.
                    self.shortest = Some((round_trip, now));
                }
            }
            _ => self.shortest = Some((round_trip, now)),
        }
    }

    fn note_rate(&mut self, sample: u64) {
        while self.rates.back().is_some_and(|(rate, _)| *rate <= sample) {
            self.rates.pop_back();
        }
        self.rates.push_back((sample, self.round));
    }

    fn end_round(&mut self, is_limited: bool) {
        self.round += 1;
        self.round_ends = self.delivered;
        while self.rates.len() > 1
            && self
                .rates
                .front()
                .is_some_and(|(_, round)| round + RATE_ROUNDS < self.round)
        {
            self.rates.pop_front();
        }
        let (lost, delivered) = (
            std::mem::take(&mut self.lost_in_round),
            std::mem::take(&mut self.delivered_in_round),
        );
        let is_heavy = lost > FEW && lost * 100 > HEAVY_LOSS * (lost + delivered);
        if is_heavy {
            self.ceiling = (self.window.min(self.ceiling) * 7 / 10)
                .max(self.path())
                .max(MIN_WINDOW);
            self.is_starting = false;
        } else {
            self.ceiling = (self.ceiling + self.ceiling / 16).min(MAX_WINDOW);
        }
        if self.is_starting && !is_limited {
            if self.rate() > self.outgrown + self.outgrown / 4 {
                (self.outgrown, self.rounds_alike) = (self.rate(), 0);
            } else {
                self.rounds_alike += 1;
                self.is_starting = self.rounds_alike < STARTUP_ROUNDS;
            }
        }
    }

    fn open(&mut self, bytes: u64) {
        let target = 2 * self.path() + SLACK;
        self.window = if self.is_starting {
            self.window + bytes
        } else {
            (self.window + bytes).min(target)
        };
        self.window = self.window.min(self.ceiling).clamp(MIN_WINDOW, MAX_WINDOW);
    }
}
