//! Token buckets: how often something may be done, by all or by one source. They read no clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How often something may be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Times in a second, in the long run.
    pub per_second: f64,
    /// Times at once after a silence; at least 1.
    pub burst: f64,
}

/// What is left of a [`Rate`]. Whoever asks names the rate, the same one each time.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// One of which nothing is used.
    #[must_use]
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self {
            tokens: rate.burst,
            at: now,
        }
    }

    /// Takes one token; false when there is none.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let filled = self.filled(rate, now);
        let is_granted = filled >= 1.0;
        *self = Self {
            tokens: if is_granted { filled - 1.0 } else { filled },
            at: now.max(self.at),
        };
        is_granted
    }

    /// Whether there is a token.
    pub(crate) fn has_one(&self, rate: Rate, now: Instant) -> bool {
        self.filled(rate, now) >= 1.0
    }

    fn filled(&self, rate: Rate, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        elapsed.mul_add(rate.per_second, self.tokens).min(rate.burst)
    }
}

/// Sources remembered at once: about 400 KiB. Beyond it all new sources share one bucket until some are idle.
const MAX_SOURCES: usize = 4096;
/// How often sources whose bucket is full again are forgotten, at most. Only a new source is a reason for it.
const SWEEP: Duration = Duration::from_secs(1);

/// A bucket for each source address.
#[derive(Debug)]
pub struct SourceLimiter {
    rate: Rate,
    buckets: HashMap<IpAddr, Bucket>,
    overflow: Bucket,
    swept: Instant,
}

impl SourceLimiter {
    /// One in which each source has this rate.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            buckets: HashMap::new(),
            overflow: Bucket::full(rate, now),
            swept: now,
        }
    }

    /// Takes one token of `source`; false when it has none left.
    pub fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let rate = self.rate;
        let source = network(source);
        if let Some(bucket) = self.buckets.get_mut(&source) {
            return bucket.take(rate, now);
        }
        if now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.buckets
                .retain(|_, bucket| bucket.filled(rate, now) < rate.burst);
        }
        if self.buckets.len() >= MAX_SOURCES {
            return self.overflow.take(rate, now);
        }
        let bucket = self.buckets.entry(source);
        bucket.or_insert(Bucket::full(rate, now)).take(rate, now)
    }
}

/// One host commands a whole /64 of IPv6 addresses, so that is what counts as a source.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 10.0,
        burst: 5.0,
    };

    fn taken(limiter: &mut SourceLimiter, source: &str, now: Instant) -> usize {
        let source = source.parse().unwrap();
        (0..100).filter(|_| limiter.take(source, now)).count()
    }

    #[test]
    fn a_source_has_its_burst_then_its_rate_and_others_keep_theirs() {
        let start = Instant::now();
        let mut limiter = SourceLimiter::new(RATE, start);
        assert_eq!(taken(&mut limiter, "192.0.2.1", start), 5);
        assert_eq!(taken(&mut limiter, "192.0.2.2", start), 5);
        let later = start + Duration::from_secs(1);
        assert_eq!(
            taken(&mut limiter, "192.0.2.1", later),
            5,
            "no more than the burst is saved up"
        );
        let soon = later + Duration::from_millis(201);
        assert_eq!(taken(&mut limiter, "192.0.2.1", soon), 2);
    }

    #[test]
    fn addresses_of_one_v6_network_are_one_source_and_mapped_v4_ones_are_not() {
        let start = Instant::now();
        let mut limiter = SourceLimiter::new(RATE, start);
        let host = |host| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into();
        assert_eq!((0..100).filter(|n| limiter.take(host(*n), start)).count(), 5);
        assert_eq!(taken(&mut limiter, "2001:db8:0:1::1", start), 5);
        assert_eq!(taken(&mut limiter, "::ffff:192.0.2.1", start), 5);
        assert_eq!(taken(&mut limiter, "::ffff:192.0.2.2", start), 5);
        assert_eq!(taken(&mut limiter, "192.0.2.2", start), 0);
    }

    #[test]
    fn many_sources_cost_bounded_memory_and_idle_ones_are_forgotten() {
        let start = Instant::now();
        let mut limiter = SourceLimiter::new(RATE, start);
        let granted = (0..10_000u32)
            .filter(|host| limiter.take(IpAddr::V4((*host).into()), start))
            .count();
        assert_eq!(limiter.buckets.len(), MAX_SOURCES);
        assert_eq!(granted, MAX_SOURCES + 5, "the rest shares one bucket");
        let later = start + Duration::from_secs(2);
        assert_eq!(taken(&mut limiter, "192.0.2.1", later), 5);
        assert_eq!(limiter.buckets.len(), 1);
    }
}
