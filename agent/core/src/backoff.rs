//! Exponential backoff with full jitter.
//!
//! The delay before attempt *n* is drawn evenly from zero to `first · 2ⁿ`, at most `cap`. Drawing from the whole
//! range, instead of adding a little to a fixed delay, is what keeps a fleet from coming back in step
//! after the registry was away.

use std::time::Duration;

use rand::Rng;

#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    #[must_use]
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            attempts: 0,
        }
    }

    /// The delay before the next attempt.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        self.next_within(self.cap, rng)
    }

    /// The same, `cap` at most.
    pub fn next_within(&mut self, cap: Duration, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling().min(cap);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// Longest delay that [`Backoff::next`] may draw now.
    pub fn ceiling(&self) -> Duration {
        self.first
            .saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX))
            .min(self.cap)
    }

    /// How often in a row it failed.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// It worked for long enough: begin from the first delay again.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn it_doubles_up_to_the_cap_and_never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut rng = StdRng::seed_from_u64(1);
        let ceilings: Vec<u64> = (0..100)
            .map(|_| {
                let ceiling = backoff.ceiling();
                assert!(backoff.next(&mut rng) <= ceiling);
                ceiling.as_secs()
            })
            .collect();
        assert_eq!(ceilings[..6], [1, 2, 4, 8, 16, 30]);
        assert_eq!(ceilings[99], 30);
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_secs(1));
    }

    #[test]
    fn the_whole_range_is_used() {
        let mut rng = StdRng::seed_from_u64(2);
        let delays: Vec<Duration> = (0..200)
            .map(|_| Backoff::new(Duration::from_secs(10), Duration::from_secs(10)).next(&mut rng))
            .collect();
        assert!(delays.iter().any(|delay| *delay < Duration::from_secs(1)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_secs(9)));
    }
}
