//! Limits on handshake work.
//!
//! A handshake message costs the receiver 40 µs of curve arithmetic and more before its sender is known, so a node spends
//! them sparingly. First comes its MAC, which costs a microsecond and shows that the sender knows this node's key; what shows no
//! such key takes no tokens. But the key is no secret, and who knows it can write any source address. So there are two kinds of
//! tokens, as in `WireGuard` (paper, section 5.3), which counts for a source only what proved that it comes from there:
//!
//! ```text
//!   MAC good ─► cookie good for this address and port? ─ yes ─► a token of those who proved this address? ─ no ─► dropped
//!                         │ no                                              └ yes ─────────────────────────────► taken
//!                         ▼
//!               a token of all, and one of those who claim this address? ─ yes ─► taken
//!                         └ no ─► a cookie, sent to the address; who is there comes back with it, at its next try (5 s)
//! ```
//!
//! Whoever writes others' addresses uses up what is there for claims, and everybody else needs one try more. What it cannot use
//! up is what is there for proofs: for that it has to read what is sent to the address. Sources are counted by
//! [`SourceLimiter`], an IPv6 one by its /64.
//!
//! Bounds: claims cost at most `per_second`. Proofs cost at most `per_source` for each address that the attacker really has; 4096 of
//! them that are busy all the time make new sources share one bucket, and would have to send 200 000 proofs a second for it with
//! the limits that are the default.

use std::net::IpAddr;
use std::time::Instant;

use crate::rate::{Bucket, Rate, SourceLimiter};

/// How many handshakes a node works on.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeLimits {
    /// Initiations and responses each second over all sources, above which a sender must echo a cookie. 1 400 is a quarter of
    /// a core.
    pub per_second: u32,
    /// Those each second that claim one source address, and as many that proved it. Many devices may share one address behind NAT.
    pub per_source: u32,
    /// How many of those may come at once.
    pub per_source_burst: u32,
}

impl HandshakeLimits {
    /// An equal share of these for each of `shards`, rounded up, so that all shards together keep to them. Initiations land at
    /// a shard by their source's address and port. A single device asks once in 5 s, so a share is more than it needs, and
    /// many behind one address have as many ports and so find all the shares.
    #[must_use]
    pub fn shared(self, shards: u8) -> Self {
        let share = |limit: u32| limit.div_ceil(u32::from(shards.max(1)));
        Self {
            per_second: share(self.per_second),
            per_source: share(self.per_source),
            per_source_burst: share(self.per_source_burst),
        }
    }
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            per_second: 1_400,
            per_source: 50,
            per_source_burst: 200,
        }
    }
}

/// What is left of a node's [`HandshakeLimits`].
#[derive(Debug)]
pub(crate) struct HandshakeLimiter {
    rate: Rate,
    all: Bucket,
    claimed: SourceLimiter,
    proved: SourceLimiter,
}

impl HandshakeLimiter {
    pub(crate) fn new(limits: &HandshakeLimits, now: Instant) -> Self {
        let per_second = f64::from(limits.per_second.max(1));
        let rate = Rate {
            per_second,
            burst: per_second,
        };
        let of_a_source = Rate {
            per_second: f64::from(limits.per_source),
            burst: f64::from(limits.per_source_burst.max(1)),
        };
        Self {
            rate,
            all: Bucket::full(rate, now),
            claimed: SourceLimiter::new(of_a_source, now),
            proved: SourceLimiter::new(of_a_source, now),
        }
    }

    /// Takes what a message costs that names `source` as its own address. False: ask for a cookie.
    pub(crate) fn take_claimed(&mut self, source: IpAddr, now: Instant) -> bool {
        // A source keeps its token when it is refused for the sake of all.
        self.all.has_one(self.rate, now) && self.claimed.take(source, now) && self.all.take(self.rate, now)
    }

    /// Takes what a message costs that comes from `source`, as its cookie proves. False: drop it.
    pub(crate) fn take_proved(&mut self, source: IpAddr, now: Instant) -> bool {
        let is_granted = self.proved.take(source, now);
        if is_granted {
            // It is not refused for the sake of all, but what it costs is not there for claims.
            self.all.take(self.rate, now);
        }
        is_granted
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    const LIMITS: HandshakeLimits = HandshakeLimits {
        per_second: 100,
        per_source: 10,
        per_source_burst: 5,
    };

    #[test]
    fn claims_of_an_address_leave_what_proofs_of_it_have() {
        let start = Instant::now();
        let mut limiter = HandshakeLimiter::new(&LIMITS, start);
        let source = "192.0.2.1".parse().unwrap();
        assert_eq!((0..50).filter(|_| limiter.take_claimed(source, start)).count(), 5);
        assert_eq!((0..50).filter(|_| limiter.take_proved(source, start)).count(), 5);
        let soon = start + Duration::from_millis(201);
        assert_eq!((0..50).filter(|_| limiter.take_proved(source, soon)).count(), 2);
    }

    #[test]
    fn claims_of_all_addresses_are_bounded_and_proofs_are_beyond_that() {
        let start = Instant::now();
        let mut limiter = HandshakeLimiter::new(&LIMITS, start);
        let source = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(number));
        let claims = (0..100_000).filter(|number| limiter.take_claimed(source(*number), start));
        assert_eq!(claims.count(), 100);
        assert!(limiter.take_proved(source(7), start));
        // Proofs are counted where claims are, too.
        let later = start + Duration::from_secs(1);
        for number in 0..60 {
            assert!(limiter.take_proved(source(number), later));
        }
        let claims = (0..1_000).filter(|number| limiter.take_claimed(source(*number), later));
        assert_eq!(claims.count(), 40);
    }
}
