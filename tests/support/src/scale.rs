//! One factor for every duration of a stand-in, so that a case that took the real program 95 s runs in 9 s.

use std::time::Duration;

/// Environment variable with the factor for the stand-in child and server: a number above 0, default 1.
pub const TIME_SCALE: &str = "CODER_STAND_IN_TIME_SCALE";

/// The factor that all durations of a stand-in are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeScale(f64);

/// A time scale must be a finite number above 0.
#[derive(Debug, thiserror::Error)]
#[error("time scale {0:?} is not a number above 0")]
pub struct BadTimeScale(String);

impl TimeScale {
    /// Durations as recorded.
    pub const REAL: Self = Self(1.0);

    /// A factor above 0; 0.1 runs ten times as fast.
    pub fn new(factor: f64) -> Result<Self, BadTimeScale> {
        if factor.is_finite() && factor > 0.0 {
            Ok(Self(factor))
        } else {
            Err(BadTimeScale(factor.to_string()))
        }
    }

    /// `duration` times the factor.
    pub fn scaled(self, duration: Duration) -> Duration {
        duration.mul_f64(self.0)
    }

    /// The factor itself.
    pub fn factor(self) -> f64 {
        self.0
    }
}

impl Default for TimeScale {
    fn default() -> Self {
        Self::REAL
    }
}

impl std::str::FromStr for TimeScale {
    type Err = BadTimeScale;

    fn from_str(text: &str) -> Result<Self, BadTimeScale> {
        let factor: f64 = text.parse().map_err(|_| BadTimeScale(text.to_owned()))?;
        Self::new(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_refuses_nonsense() {
        let tenth: TimeScale = "0.1".parse().unwrap();
        assert_eq!(tenth.scaled(Duration::from_secs(30)), Duration::from_secs(3));
        for bad in ["0", "-1", "nan", "inf", "fast", ""] {
            assert!(bad.parse::<TimeScale>().is_err(), "{bad} must be refused");
        }
    }
}
