//! Limits on handshake work, beside the engine's own cookie mechanism.
//!
//! An initiation costs the receiver about 40 µs of curve arithmetic before its sender is known, so a node spends them
//! sparingly. First comes its MAC, which costs a microsecond and shows that the sender knows this node's key, and the engine's count
//! for the whole node, above which senders must prove their address by a cookie. Then a token bucket for each source address (an
//! IPv6 source is its /64), so that one noisy source cannot use up what belongs to all. What shows no such key takes no tokens.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How many handshakes a node works on.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeLimits {
    /// Initiations each second over all sources, above which a sender must echo a cookie. 1 400 is a quarter of a core.
    pub per_second: u32,
    /// Initiations and responses each second from one source address. Many devices may share one address behind NAT.
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

/// Sources remembered at once: about 300 KiB. Beyond it all new sources share one bucket until some are idle.
const MAX_SOURCES: usize = 4096;

#[derive(Debug)]
pub(crate) struct SourceLimiter {
    rate: f64,
    burst: f64,
    buckets: HashMap<IpAddr, Bucket>,
    overflow: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl SourceLimiter {
    pub(crate) fn new(limits: &HandshakeLimits, now: Instant) -> Self {
        let burst = f64::from(limits.per_source_burst.max(1));
        Self {
            rate: f64::from(limits.per_source),
            burst,
            buckets: HashMap::new(),
            overflow: Bucket {
                tokens: burst,
                at: now,
            },
        }
    }

    /// Takes one token of `source`; false when it has none left.
    pub(crate) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        let (rate, burst) = (self.rate, self.burst);
        let source = network(source);
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&source) {
            return self.overflow.take(rate, burst, now);
        }
        self.buckets
            .entry(source)
            .or_insert(Bucket {
                tokens: burst,
                at: now,
            })
            .take(rate, burst, now)
    }

    /// Forgets sources whose bucket is full again. To be called about once a second while something arrives.
    pub(crate) fn forget_idle(&mut self, now: Instant) {
        let (rate, burst) = (self.rate, self.burst);
        self.buckets
            .retain(|_, bucket| bucket.filled(rate, burst, now) < burst);
    }
}

impl Bucket {
    fn filled(&self, rate: f64, burst: f64, now: Instant) -> f64 {
        let elapsed: Duration = now.saturating_duration_since(self.at);
        elapsed.as_secs_f64().mul_add(rate, self.tokens).min(burst)
    }

    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        let filled = self.filled(rate, burst, now);
        let granted = filled >= 1.0;
        *self = Self {
            tokens: if granted { filled - 1.0 } else { filled },
            at: now.max(self.at),
        };
        granted
    }
}

/// One host commands a whole /64 of IPv6 addresses, so that is what counts as a source.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HandshakeLimits = HandshakeLimits {
        per_second: 100,
        per_source: 10,
        per_source_burst: 5,
    };

    #[test]
    fn a_source_has_its_burst_then_its_rate_and_others_keep_theirs() {
        let start = Instant::now();
        let mut limiter = SourceLimiter::new(&LIMITS, start);
        let noisy = "192.0.2.1".parse().unwrap();
        let admitted = (0..100).filter(|_| limiter.admit(noisy, start)).count();
        assert_eq!(admitted, 5);
        assert!(limiter.admit("192.0.2.2".parse().unwrap(), start));
        let later = start + Duration::from_secs(1);
        assert_eq!(
            (0..100).filter(|_| limiter.admit(noisy, later)).count(),
            5,
            "no more than the burst is saved up"
        );
        let soon = later + Duration::from_millis(201);
        assert_eq!((0..100).filter(|_| limiter.admit(noisy, soon)).count(), 2);
    }

    #[test]
    fn addresses_of_one_v6_network_are_one_source() {
        let start = Instant::now();
        let mut limiter = SourceLimiter::new(&LIMITS, start);
        let admitted = (0..100u16)
            .filter(|host| limiter.admit(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, *host).into(), start))
            .count();
        assert_eq!(admitted, 5);
        assert!(limiter.admit("2001:db8:0:1::1".parse().unwrap(), start));
    }

    #[test]
    fn many_sources_cost_bounded_memory_and_idle_ones_are_forgotten() {
        let start = Instant::now();
        let mut limiter = SourceLimiter::new(&LIMITS, start);
        let admitted = (0..10_000u32)
            .filter(|host| limiter.admit(IpAddr::V4((*host).into()), start))
            .count();
        assert_eq!(limiter.buckets.len(), MAX_SOURCES);
        assert_eq!(admitted, MAX_SOURCES + 5, "the rest shares one bucket");
        limiter.forget_idle(start + Duration::from_secs(2));
        assert!(limiter.buckets.is_empty());
    }
}
