//! Which carrier the datagrams take: a ladder of rungs, best first, climbed down within seconds and up again with patience.
//!
//! A rung is a way to the gateway (UDP to its port, UDP to 443, WebSocket); a [`Candidate`] is one address of a rung. The
//! machine decides and measures nothing: the shell tells it what it saw of the tunnel, and carries out its [`Move`]s.
//!
//! ```text
//!               answered                       traffic without answer 0.5 s, tunnel down, gateway new
//!   Searching ───────────► Settled ───────────────────────────────► Settled, in doubt
//!     ▲   ▲ next rung every  │ ▲ │ on a lower rung: probe upward       │ asks three times
//!     │   └── 0.3 s, later   │ │ └─► answered there: Settled above     │
//!     │       0.5 s          │ └──────────── answered ────────────────┤
//!     ├── network changed ◄──┘                                         │
//!     └───────────────────────────────── 0.6 s without an answer ◄─────┘
//! ```
//!
//! What comes in does not show that anything of ours arrives: where only the way out is blocked, the gateway repeats what nobody
//! acknowledged. So traffic puts a doubt off for no longer than 0.5 s of waiting in sum, and does not answer one; then it takes 0.8 s
//! instead of 0.6 s until the rung is left. The module `doubt` has the rules.
//!
//! The rungs overlap: the next is tried before the last is given up, and whichever answers wins, because the node's endpoint
//! moves to where an authentic answer came from. When a better rung has won and a lower one answers late, the traffic stays
//! above. An engine knows its latest two initiations only, so a rung has two steps to answer: the first round is quick, which a
//! round trip of 0.6 s survives, each third one is patient, for 1.5 s.
//!
//! A round of all rungs without an answer is repeated after a pause with jitter. While somebody wants the tunnel, that is
//! while packets are sent, the pause stays below 1 s for a minute and below 5 s then: a gateway that comes back is asked
//! within 2.5 s. Else it doubles, so a machine without a network is quiet. With three rungs:
//!
//! | time since the last packet that was answered | what is sent |
//! |---|---|
//! | 0.5 s (up to 1 s where the round trip is long) | first question, where the traffic goes |
//! | 0.7 s, 0.9 s | two more, because one may just be lost; what takes time to open is opened |
//! | 1.1 s | traffic and a handshake to the next rung |
//! | 1.4 s | to the third, or when its connection is open |
//! | 1.7 s | to the rung that was lost; then a pause and the next round |
//!
//! Where something comes in all the same, the doubt begins later, after 1.2 s with a dozen connections under way; the third question
//! opens what takes time to open, and a fourth is waited for. A question that was just answered adds 1 s, and 3 s at most. The more
//! connections there are whose repeats do not coincide, the later: the module `doubt` has figures.

mod doubt;
mod steps;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use self::doubt::{Doubt, Trust};

/// Time that a rung has for itself before the next is tried: in the first round, in most later ones, and in each third.
const STEP: (Duration, Duration, Duration) = (
    Duration::from_millis(300),
    Duration::from_millis(500),
    Duration::from_millis(750),
);
/// Time between the addresses of one rung, shortest sensible per RFC 8305 section 5.
const STAGGER: Duration = Duration::from_millis(250);
/// Traffic without any answer for this long is doubtful: TCP is answered within a round trip. The shortest, which holds while
/// the round trip is not known; three round trips; and the longest.
const DOUBT_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));
/// How far what is seen of the traffic lags behind it: the data plane tells its counters ten times a second at most.
const LAG: Duration = Duration::from_millis(100);
/// Pause between the questions of a doubt, shortest and longest: three quarters of a round trip, because more than two
/// under way are too many for the engine.
const ASK_EVERY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(400));
/// Questions until the rung is left: in silence, and where something comes all the same. Where every fifth datagram is lost each way,
/// one doubt of twenty gets no answer to the first, one of sixty to the second.
const ASKS: (u32, u32) = (3, 4);
/// Traffic that came without a pause before so many questions in a row ends a doubt.
const KEEPS_COMING: u32 = 3;
/// A rung that answered a doubt is not doubted again so soon: after the first, and at the longest, because what flows may be one-way
/// by nature. A rung that is lost then has this and the questions on top of what the next rung takes: less than 5 s.
const TRUST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// An answer of a lower rung that comes so soon after a better one won was on its way already.
const LATE: Duration = Duration::from_secs(2);
/// Pause between rounds: the first, and the longest after doubling.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The longest while packets are sent, in the first [`EAGER_FOR`] and later. A round of three rungs takes 2.5 s, so when a
/// gateway comes back to 10 000 devices that all want it, it is asked 4 000 times a second on one rung, spread by the jitter:
/// less than a core answers, and who was answered asks no more.
const EAGER_REST: (Duration, Duration) = (Duration::from_millis(750), Duration::from_secs(5));
const EAGER_FOR: Duration = Duration::from_mins(1);
/// How long a packet that was sent shows that somebody wants the tunnel: TCP repeats a SYN after 1, 3 and 7 s.
const WANTED_FOR: Duration = Duration::from_secs(8);
/// A packet after a long silence is followed by the next round within this time: a random part of it.
const SOON: Duration = Duration::from_millis(250);
/// Silence after which a fresh source port is worth a try: a middlebox may hold a dead mapping for the old one.
const REBIND_AFTER: Duration = Duration::from_secs(25);
/// From settling on a lower rung to the first probe upward. Soon, because the upper rung may just have lost a datagram.
const FIRST_PROBE: Duration = Duration::from_secs(3);
/// Time that a probe has for itself.
const PROBE_STEP: Duration = Duration::from_millis(750);
/// Pause between later probes: the first, and the longest after doubling.
const PROBE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(10));

/// One address of one rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Index of the rung, best first.
    pub rung: usize,
    /// Index among the rung's addresses.
    pub address: usize,
}

/// What the shell is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Send there from now on, and shake hands there at once.
    Use(Candidate),
    /// Shake hands there beside the traffic, which stays where it is ([`crate::Node::probe`]).
    Probe(Candidate),
    /// Shake hands at once where the traffic goes.
    Ask,
    /// This rung is likely to be used within a second: open what takes time.
    Prepare(usize),
    /// Open a fresh socket: another source port.
    Rebind,
    /// The tunnel works over this candidate now.
    Settled(Candidate),
}

/// What the shell sees of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When the latest handshake was completed.
    pub handshake: Option<Instant>,
    /// The candidate that the tunnel's endpoint belongs to; `None` when it belongs to none.
    pub candidate: Option<Candidate>,
    /// The tunnel counts as down: no handshake for long, or one that nobody answers.
    pub down: bool,
    /// Inner bytes sent so far.
    pub sent: u64,
    /// Inner bytes received so far.
    pub received: u64,
    /// Round trip to the gateway, where it was measured.
    pub rtt: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Upward {
    /// Nothing above.
    Content,
    Waiting {
        due: Instant,
        pause: Duration,
    },
    Probing {
        next: usize,
        due: Instant,
        pause: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Searching {
        since: Instant,
        order: Vec<Candidate>,
        next: usize,
        due: Instant,
        rounds: u32,
    },
    Settled {
        at: Candidate,
        since: Instant,
        doubt: Option<Doubt>,
        trust: Trust,
        /// Until then lower rungs that were asked in the same search may answer still.
        late_until: Instant,
        upward: Upward,
    },
}

/// The ladder; see the module.
#[derive(Debug)]
pub struct Ladder {
    /// Number of addresses of each rung; a rung without any is passed over.
    addresses: Vec<usize>,
    state: State,
    moves: VecDeque<Move>,
    /// The latest handshake that was told.
    handshake: Option<Instant>,
    sent: u64,
    received: u64,
    /// When something was sent after which nothing has come.
    quiet_since: Option<Instant>,
    /// Earlier times of that kind, in sum since the last proof that what is sent arrives.
    waited: Duration,
    /// When the latest of them ended, and how long it was, if it was short enough for an exchange that is well and nothing was sent
    /// since.
    prompt: Option<(Instant, Duration)>,
    /// When something was last sent.
    wanted_at: Option<Instant>,
    /// Round trip on this network.
    rtt: Option<Duration>,
    rng: StdRng,
}

impl Ladder {
    /// A ladder that begins to search at once. `addresses` has the number of addresses for each rung, best first; `start` is
    /// the rung that worked on this network before.
    #[must_use]
    pub fn new(addresses: Vec<usize>, start: Option<usize>, rng: StdRng, now: Instant) -> Self {
        let mut ladder = Self {
            addresses,
            state: State::Searching {
                since: now,
                order: Vec::new(),
                next: 0,
                due: now,
                rounds: 0,
            },
            moves: VecDeque::new(),
            handshake: None,
            sent: 0,
            received: 0,
            quiet_since: None,
            waited: Duration::ZERO,
            prompt: None,
            wanted_at: None,
            rtt: None,
            rng,
        };
        ladder.search(start, now);
        ladder
    }

    /// A rung has this many addresses from now on: its name was resolved anew.
    pub fn set_addresses(&mut self, rung: usize, count: usize, now: Instant) {
        if let Some(addresses) = self.addresses.get_mut(rung) {
            *addresses = count;
        }
        if let State::Settled { at, .. } = &self.state {
            let begins = self.upward(at.rung, now);
            if let State::Settled {
                upward: upward @ Upward::Content,
                ..
            } = &mut self.state
            {
                *upward = begins;
            }
        }
    }

    /// The machine is on another network, or was asleep: nothing that was known holds. `start` is the rung that
    /// worked on this network before.
    pub fn network_changed(&mut self, start: Option<usize>, now: Instant) {
        self.rtt = None;
        self.search(start, now);
    }

    /// The gateway is known to have begun a new life: it knows nothing of the session, and answers.
    pub fn gateway_restarted(&mut self, now: Instant) {
        match &self.state {
            State::Searching { .. } => self.search(None, now),
            State::Settled { .. } => self.doubt(ASKS.0, now),
        }
    }

    /// What this rung needed opened is open now: what was sent there before may be lost or too old.
    pub fn handle_open(&mut self, rung: usize, now: Instant) {
        match &self.state {
            State::Settled { at, .. } if at.rung == rung => self.moves.push_back(Move::Ask),
            State::Settled { .. } => {}
            State::Searching { .. } => self.try_opened(rung, now),
        }
    }

    /// Takes in what was seen of the tunnel. To be called whenever any of it changed.
    pub fn handle_seen(&mut self, seen: &Seen, now: Instant) {
        self.note_traffic(seen, now);
        let is_new = seen.handshake.is_some() && seen.handshake > self.handshake;
        self.handshake = seen.handshake.max(self.handshake);
        let answered = is_new.then_some(()).and(seen.candidate);
        match &mut self.state {
            State::Searching { since, .. } => {
                // One that was completed before the search began proves nothing about this network.
                if let Some(candidate) = answered.filter(|_| seen.handshake >= Some(*since)) {
                    self.settle(candidate, now);
                }
            }
            State::Settled { .. } => {
                if is_new {
                    self.note_proof(now);
                }
                self.rtt = seen.rtt.or(self.rtt);
                self.follow(seen.candidate, now);
                if seen.down && !is_new {
                    self.doubt(ASKS.0, now);
                }
            }
        }
        self.handle_timeout(now);
    }

    /// When [`Ladder::handle_timeout`] is to be called, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match &self.state {
            State::Searching { due, .. } => Some((*due, "next rung")),
            State::Settled { doubt, upward, .. } => {
                let doubt_due = match doubt {
                    Some(doubt) => Some(doubt.due),
                    None => self.doubtful_at().map(|(at, _)| at),
                };
                let probe = match upward {
                    Upward::Waiting { due, .. } | Upward::Probing { due, .. } if doubt.is_none() => {
                        Some(*due)
                    }
                    _ => None,
                };
                [
                    doubt_due.map(|at| (at, "doubt")),
                    probe.map(|at| (at, "probe upward")),
                ]
                .into_iter()
                .flatten()
                .min_by_key(|(at, _)| *at)
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            State::Searching { due, .. } if *due <= now => self.next_rung(now),
            State::Searching { .. } => {}
            State::Settled { .. } => {
                self.check_doubt(now);
                self.climb(now);
            }
        }
    }

    /// What is to be done next, oldest first.
    pub fn poll_move(&mut self) -> Option<Move> {
        self.moves.pop_front()
    }

    /// The candidate in use and since when; `None` while searching.
    #[must_use]
    pub fn settled(&self) -> Option<(Candidate, Instant)> {
        match &self.state {
            State::Settled { at, since, .. } => Some((*at, *since)),
            State::Searching { .. } => None,
        }
    }

    /// Whole rounds without any answer; 0 while settled.
    #[must_use]
    pub fn failed_rounds(&self) -> u32 {
        match &self.state {
            State::Searching { rounds, .. } => *rounds,
            State::Settled { .. } => 0,
        }
    }

    /// Whether this rung is in use or soon may be; otherwise what it holds open may be let go.
    #[must_use]
    pub fn needs(&self, rung: usize) -> bool {
        match &self.state {
            State::Searching { .. } => true,
            State::Settled { at, doubt, .. } => at.rung == rung || doubt.is_some(),
        }
    }

    /// Follows the endpoint to where the gateway answered last, unless that was a lower rung that only was late.
    fn follow(&mut self, candidate: Option<Candidate>, now: Instant) {
        let State::Settled {
            at,
            doubt,
            late_until,
            ..
        } = &mut self.state
        else {
            return;
        };
        match candidate {
            Some(candidate) if candidate.rung > at.rung && doubt.is_none() && now < *late_until => {
                // Once: when the better rung falls silent, the lower one may have it.
                *late_until = now;
                self.moves.push_back(Move::Use(*at));
            }
            Some(candidate) if candidate.rung != at.rung => self.settle(candidate, now),
            Some(candidate) => *at = candidate,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
