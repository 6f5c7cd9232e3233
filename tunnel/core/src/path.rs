//! What the network between here and the gateway does: round trip, loss, and the largest packet that passes.
//!
//! The prober sends ICMP echo requests inside the tunnel to the gateway's own address and takes their answers out of what
//! arrives. It is quiet: one small request every 5 s while something flows, every 30 s while nothing does, and none while
//! the caller puts it off because nobody uses the tunnel.
//!
//! The path's MTU is searched upward from 1280 by padded requests (RFC 8899): a size that is answered holds, one that is lost
//! three times ends the search. What was found is confirmed from time to time; when the large requests are
//! lost and the small ones are not, the path has turned into a black hole for them and the MTU is 1280 again. All this
//! means something only where the carrier does not fragment its datagrams, which is the socket's part.
//!
//! ```text
//!   Rising(size) ──answered──► Rising(next size) … ──lost 3 times, or the top──► Resting ──10 min──► Rising
//!        ▲                                                                          │
//!        └──────────── 1 min after a black hole: MTU 1280 ◄── large ones lost ──────┘
//! ```

mod echo;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use self::echo::Pair;

/// What passes everywhere: the smallest MTU of IPv6 (RFC 8200 section 5).
pub const MTU_MIN: u16 = 1280;
/// 1500 less the outer IPv6 and UDP headers and `WireGuard`'s own 32 bytes.
pub const MTU_MAX: u16 = 1420;

/// Sizes that are tried: what DSL, mobile networks and tunnels leave, up to an Ethernet path over IPv6.
const SIZES: [u16; 6] = [1320, 1360, 1380, 1400, 1412, MTU_MAX];
/// Interval of requests while something flows, which is when a packet arrived since the last request, and while nothing does.
const BUSY: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(30);
/// A request without an answer for this long is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// What loss is counted over.
const WINDOW: Duration = Duration::from_mins(1);
/// Outcomes kept for the loss of the last minute: four times what the busy interval makes.
const MAX_OUTCOMES: usize = 48;
/// Pause until the search is begun again.
const SEARCH_AGAIN: Duration = Duration::from_mins(10);
const AFTER_BLACK_HOLE: Duration = Duration::from_mins(1);
/// Losses of one size after which it does not pass.
const MAX_LOSSES: u8 = 3;
/// Each of so many regular requests is followed by one of the full size.
const CONFIRM_EVERY: u16 = 6;
/// Length of the small requests: both headers and 24 bytes.
const SMALL: u16 = 72;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Smoothed round trip (RFC 6298).
    pub rtt: Duration,
    /// Requests of the last minute that nothing answered, 0 to 100.
    pub loss_percent: f64,
    /// Largest inner packet that is known to pass, in bytes.
    pub mtu: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Regular,
    Size,
    Confirm,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    sequence: u16,
    at: Instant,
    size: u16,
    purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    Rising { losses: u8 },
    Resting { until: Instant },
}

/// The prober; see the module.
#[derive(Debug)]
pub struct Path {
    pair: Pair,
    mtu_limit: u16,
    cookie: u64,
    sequence: u16,
    /// Requests that wait for an answer. One of each purpose is under way at most.
    sent: VecDeque<Sent>,
    outcomes: VecDeque<(Instant, bool)>,
    rtt: Option<Duration>,
    mtu: u16,
    search: Search,
    /// Confirmations lost since a large packet last passed.
    large_lost: u8,
    next_regular: Instant,
    regulars: u16,
    confirm_due: bool,
    last_traffic: Option<Instant>,
}

impl Path {
    /// A prober from one of `own` addresses to one of the `gateway`'s; `None` when they have no family in common.
    /// `mtu_limit` is the largest inner packet that the node takes, and is not gone beyond. `cookie` is any random
    /// number: it tells this prober's answers from those to other programs.
    #[must_use]
    pub fn new(
        own: &[IpAddr],
        gateway: &[IpAddr],
        mtu_limit: u16,
        cookie: u64,
        now: Instant,
    ) -> Option<Self> {
        Some(Self {
            pair: Pair::choose(own, gateway)?,
            mtu_limit,
            cookie,
            sequence: 0,
            sent: VecDeque::new(),
            outcomes: VecDeque::new(),
            rtt: None,
            mtu: MTU_MIN,
            search: Search::Rising { losses: 0 },
            large_lost: 0,
            next_regular: now,
            regulars: 0,
            confirm_due: false,
            last_traffic: None,
        })
    }

    /// The path is another one: nothing that was measured holds, and it is measured anew at once.
    pub fn reset(&mut self, now: Instant) {
        self.sent.clear();
        self.outcomes.clear();
        self.rtt = None;
        self.mtu = MTU_MIN;
        self.search = Search::Rising { losses: 0 };
        self.large_lost = 0;
        self.confirm_due = false;
        self.next_regular = now;
    }

    /// Packets other than the prober's own pass through the tunnel.
    pub fn note_traffic(&mut self, now: Instant) {
        self.last_traffic = Some(now);
        // What was put off because nothing flowed comes no later than this.
        self.next_regular = self.next_regular.min(now + BUSY);
    }

    /// Nobody uses the tunnel: nothing is asked for the next 30 s, unless something flows. To be called again and again.
    pub fn put_off(&mut self, now: Instant) {
        let later = now + IDLE;
        self.next_regular = self.next_regular.max(later);
        self.confirm_due = false;
        if let Search::Resting { until } = &mut self.search {
            *until = (*until).max(later);
        } else if self.rtt.is_some() {
            self.rest(later);
        }
    }

    /// When [`Path::poll_packet`] may have something. Nothing is lost when it is called later.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let lost = self.sent.front().map(|sent| sent.at + LOST_AFTER);
        let search = match self.search {
            Search::Rising { .. } if !self.is_under_way(Purpose::Size) && self.may_rise() => {
                Some(self.next_regular)
            }
            Search::Resting { until } => Some(until),
            Search::Rising { .. } => None,
        };
        [Some(self.next_regular), lost, search]
            .into_iter()
            .flatten()
            .fold(self.next_regular, Instant::min)
    }

    /// The next inner packet to be sent, if one is due.
    pub fn poll_packet(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.expire(now);
        if let Search::Resting { until } = self.search
            && until <= now
        {
            self.search = Search::Rising { losses: 0 };
        }
        if now >= self.next_regular {
            let busy = self
                .last_traffic
                .is_some_and(|at| now.saturating_duration_since(at) < BUSY);
            self.next_regular = now + if busy { BUSY } else { IDLE };
            self.regulars = self.regulars.wrapping_add(1);
            self.confirm_due = self.mtu > MTU_MIN && self.regulars.is_multiple_of(CONFIRM_EVERY);
            if !self.is_under_way(Purpose::Regular) {
                return Some(self.request(SMALL, Purpose::Regular, now));
            }
        }
        if std::mem::take(&mut self.confirm_due) && !self.is_under_way(Purpose::Confirm) {
            return Some(self.request(self.mtu, Purpose::Confirm, now));
        }
        // Sizes are tried only over a path that answers.
        if self.rtt.is_some()
            && !self.is_under_way(Purpose::Size)
            && matches!(self.search, Search::Rising { .. })
        {
            match self.next_size() {
                Some(size) => return Some(self.request(size, Purpose::Size, now)),
                None => self.rest(now + SEARCH_AGAIN),
            }
        }
        None
    }

    /// Takes an inner packet that arrived; true when it was an answer to this prober and is nobody else's business.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) -> bool {
        let Some(sequence) = self.pair.parse_reply(packet, self.cookie) else {
            return false;
        };
        let Some(index) = self.sent.iter().position(|sent| sent.sequence == sequence) else {
            // A copy, or one that counts as lost already.
            return true;
        };
        let Some(sent) = self.sent.remove(index) else {
            return true;
        };
        match sent.purpose {
            Purpose::Regular => {
                self.note_rtt(now.saturating_duration_since(sent.at));
                self.note_outcome(true, now);
            }
            Purpose::Size => {
                self.mtu = self.mtu.max(sent.size);
                self.large_lost = 0;
                self.search = Search::Rising { losses: 0 };
            }
            Purpose::Confirm => self.large_lost = 0,
        }
        true
    }

    /// Largest inner packet that is known to pass, in bytes: [`MTU_MIN`] until a larger one did.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What is known; `None` until something was answered.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        let lost = self.outcomes.iter().filter(|(_, answered)| !answered).count();
        Some(Report {
            rtt: self.rtt?,
            loss_percent: 100.0 * lost as f64 / self.outcomes.len().max(1) as f64,
            mtu: self.mtu,
        })
    }

    fn request(&mut self, size: u16, purpose: Purpose, now: Instant) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        self.sent.push_back(Sent {
            sequence: self.sequence,
            at: now,
            size,
            purpose,
        });
        self.pair.request(self.sequence, self.cookie, size)
    }

    fn is_under_way(&self, purpose: Purpose) -> bool {
        self.sent.iter().any(|sent| sent.purpose == purpose)
    }

    fn next_size(&self) -> Option<u16> {
        SIZES
            .into_iter()
            .find(|size| *size > self.mtu && *size <= self.mtu_limit)
    }

    fn may_rise(&self) -> bool {
        self.rtt.is_some() && self.next_size().is_some()
    }

    fn rest(&mut self, until: Instant) {
        self.search = Search::Resting { until };
    }

    /// Counts what was not answered in time.
    fn expire(&mut self, now: Instant) {
        while let Some(sent) = self
            .sent
            .front()
            .copied()
            .filter(|sent| now.saturating_duration_since(sent.at) >= LOST_AFTER)
        {
            self.sent.pop_front();
            match sent.purpose {
                Purpose::Regular => self.note_outcome(false, now),
                Purpose::Size => self.note_size_lost(now),
                Purpose::Confirm => self.note_large_lost(now),
            }
        }
    }

    fn note_size_lost(&mut self, now: Instant) {
        if let Search::Rising { losses } = &mut self.search {
            *losses += 1;
            if *losses >= MAX_LOSSES {
                self.rest(now + SEARCH_AGAIN);
            }
        }
    }

    fn note_large_lost(&mut self, now: Instant) {
        self.large_lost += 1;
        // Where the small ones are lost as well, the size is not to blame.
        if self.outcomes.back().is_some_and(|(_, answered)| !answered) {
            return;
        }
        if self.large_lost >= MAX_LOSSES {
            self.mtu = MTU_MIN;
            self.large_lost = 0;
            self.rest(now + AFTER_BLACK_HOLE);
        } else {
            self.confirm_due = true;
        }
    }

    fn note_rtt(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            None => sample,
            Some(smoothed) => (smoothed * 7 + sample) / 8,
        });
    }

    fn note_outcome(&mut self, answered: bool, now: Instant) {
        while self.outcomes.len() >= MAX_OUTCOMES
            || self
                .outcomes
                .front()
                .is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((now, answered));
    }
}

#[cfg(test)]
mod tests;
