//! Which carrier the datagrams take: a ladder of rungs, best first, climbed down within seconds and up again with patience.
//!
//! A rung is a way to the gateway (UDP to its port, UDP to 443, WebSocket); a [`Candidate`] is one address of a rung. The
//! machine decides and measures nothing: the shell tells it what it saw of the tunnel, and carries out its [`Move`]s.
//!
//! ```text
//!               answered                          traffic without answer 1 s, or the tunnel is down
//!   Searching ───────────► Settled ───────────────────────────────► Settled, in doubt
//!     ▲   ▲ next rung every  │ ▲ │ on a lower rung: probe upward       │ asks twice
//!     │   └── 0.75 s         │ │ └─► answered there: Settled above     │
//!     │                      │ └──────────── answered ────────────────┤
//!     ├── network changed ◄──┘                                         │
//!     └───────────────────────────────── 0.9 s without an answer ◄─────┘
//! ```
//!
//! The rungs overlap: the next is tried before the last is given up, and whichever answers wins, because the node's endpoint
//! moves to where an authentic answer came from. A round of all rungs without an answer is repeated after a pause that
//! doubles, so a machine without a network is quiet.

mod steps;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

/// Time that a rung has for itself before the next is tried: two round trips of a slow path.
pub const STEP: Duration = Duration::from_millis(750);
/// Time between the addresses of one rung, shortest sensible per RFC 8305 section 5.
pub const STAGGER: Duration = Duration::from_millis(250);
/// Traffic without any answer for this long is doubtful: TCP is answered within a round trip.
pub const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// In doubt a second initiation follows after this time, because one may just be lost.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// And the rung is given up after this.
const GIVE_UP: Duration = Duration::from_millis(900);
/// A rung that answered is not doubted again so soon: what flows may be one-way by nature.
const TRUST: Duration = Duration::from_secs(10);
/// The last rung of a round has longer: it may be made of TCP, TLS and an upgrade.
const LAST_STEP: Duration = Duration::from_millis(2500);
/// Pause between rounds: the first, and the longest after doubling.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Silence after which a fresh source port is worth a try: a middlebox may hold a dead mapping for the old one.
const REBIND_AFTER: Duration = Duration::from_secs(25);
/// From settling on a lower rung to the first probe upward. Soon, because the upper rung may just have lost a datagram.
const FIRST_PROBE: Duration = Duration::from_secs(3);
/// Pause between later probes: the first, and the longest after doubling.
const PROBE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    since: Instant,
    asked_again: bool,
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
        trusted_until: Instant,
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
        self.search(start, now);
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
            State::Settled {
                at,
                doubt,
                trusted_until,
                ..
            } => {
                if is_new {
                    *doubt = None;
                    *trusted_until = now + TRUST;
                }
                match seen.candidate {
                    Some(candidate) if candidate.rung != at.rung => self.settle(candidate, now),
                    Some(candidate) => *at = candidate,
                    None => {}
                }
                if seen.down && !is_new {
                    self.doubt(now);
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
            State::Settled {
                doubt,
                trusted_until,
                upward,
                ..
            } => {
                let doubt_due = match doubt {
                    Some(doubt) if doubt.asked_again => Some(doubt.since + GIVE_UP),
                    Some(doubt) => Some(doubt.since + ASK_AGAIN),
                    None => self
                        .quiet_since
                        .map(|since| (since + DOUBT_AFTER).max(*trusted_until)),
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

    fn note_traffic(&mut self, seen: &Seen, now: Instant) {
        if seen.received != self.received {
            self.quiet_since = None;
            if let State::Settled { doubt, .. } = &mut self.state {
                *doubt = None;
            }
        } else if seen.sent != self.sent {
            self.quiet_since.get_or_insert(now);
        }
        (self.sent, self.received) = (seen.sent, seen.received);
    }
}

#[cfg(test)]
mod tests;
