//! How long the other end takes to answer, and how long it is waited for.

use std::time::Duration;

/// Shortest retransmission timeout. The other end may hold back an acknowledgement for 40 ms (Linux) or more.
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
/// Longest.
const MAX_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest pause between probes of a closed window: it bounds what a lost update costs.
const MAX_PROBE_PAUSE: Duration = Duration::from_secs(10);
/// Timeouts before the round trip is known (RFC 6298, section 2.1).
const INITIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The first timeout only probes with the last segment (RFC 8985, section 7); it may come early.
const PROBE_SLACK: Duration = Duration::from_millis(60);

/// The round trip, smoothed, and its variation, once it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundTrip(Option<(Duration, Duration)>);

impl RoundTrip {
    /// With what the opening of the connection took, if that tells it.
    pub(super) fn new(first: Option<Duration>) -> Self {
        Self(first.map(|took| (took, took / 2)))
    }

    pub(super) fn smoothed(self) -> Option<Duration> {
        self.0.map(|(smoothed, _)| smoothed)
    }

    /// RFC 6298, section 2.
    pub(super) fn note(&mut self, sample: Duration) {
        self.0 = Some(match self.0 {
            None => (sample, sample / 2),
            Some((smoothed, varies)) => {
                let differs = smoothed.abs_diff(sample);
                ((smoothed * 7 + sample) / 8, (varies * 3 + differs) / 4)
            }
        });
    }

    /// RFC 8985 tolerates reordering within a quarter of the round trip.
    pub(super) fn tolerance(self) -> Duration {
        self.smoothed().unwrap_or(INITIAL_TIMEOUT) / 4
    }

    /// How long nothing may happen while something is in flight, after so many timeouts in a row.
    pub(super) fn timeout(self, timeouts: u32) -> Duration {
        let Some((smoothed, varies)) = self.0 else {
            return INITIAL_TIMEOUT * 2_u32.saturating_pow(timeouts.min(6));
        };
        let timeout = match timeouts {
            0 => smoothed * 2 + PROBE_SLACK,
            timeouts => (smoothed + varies * 4).max(MIN_TIMEOUT) * 2_u32.saturating_pow(timeouts.min(16) - 1),
        };
        timeout.min(MAX_TIMEOUT)
    }

    /// The pause before a closed window is probed, after so many probes.
    pub(super) fn probe_pause(self, probes: u32) -> Duration {
        let pause = self
            .0
            .map_or(INITIAL_TIMEOUT, |(smoothed, varies)| smoothed + varies * 4);
        (pause.max(MIN_TIMEOUT) * 2_u32.pow(probes.min(10))).min(MAX_PROBE_PAUSE)
    }
}
