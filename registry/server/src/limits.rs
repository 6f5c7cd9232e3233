//! How much one source may ask for: token buckets, without a clock of their own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Sources that are remembered; when the map is full, those whose bucket is full again are forgotten, and if
/// none is, a new source is refused until one is.
const SOURCES_MAX: usize = 10_000;

/// A bucket that holds `burst` tokens and gets `per_second` new ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) burst: f64,
}

#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: rate.burst,
            at: now,
        }
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.rate.per_second).min(self.rate.burst);
        self.at = now;
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= self.rate.burst
    }
}

/// One bucket for each source address.
#[derive(Debug)]
pub(crate) struct SourceLimit {
    rate: Rate,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl SourceLimit {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: Mutex::default(),
        }
    }

    /// Whether this source may do it once more now.
    pub(crate) fn take(&self, source: IpAddr, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(&source) && buckets.len() >= SOURCES_MAX {
            buckets.retain(|_, bucket| !bucket.is_full(now));
            if buckets.len() >= SOURCES_MAX {
                return false;
            }
        }
        buckets
            .entry(source)
            .or_insert_with(|| Bucket::new(self.rate, now))
            .take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    const RATE: Rate = Rate {
        per_second: 5.0,
        burst: 20.0,
    };

    #[test]
    fn a_burst_is_let_through_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        assert_eq!((0..30).filter(|_| bucket.take(start)).count(), 20);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..30).filter(|_| bucket.take(later)).count(), 5);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..30).filter(|_| bucket.take(much_later)).count(), 20);
    }

    #[test]
    fn sources_do_not_share_and_are_not_remembered_without_end() {
        let limit = SourceLimit::new(Rate {
            per_second: 1.0,
            burst: 1.0,
        });
        let start = Instant::now();
        let source = |n: usize| IpAddr::V4(Ipv4Addr::from(n as u32));
        for n in 0..SOURCES_MAX {
            assert!(limit.take(source(n), start));
        }
        assert!(!limit.take(source(0), start));
        assert!(
            !limit.take(source(SOURCES_MAX), start),
            "the map is full and all are busy"
        );
        assert!(limit.take(source(SOURCES_MAX), start + Duration::from_secs(2)));
    }
}
