//! What follows a connection that could not be accepted.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long accepting pauses after a failure, which mostly means that file descriptors have run out.
const PAUSE: Duration = Duration::from_millis(50);
/// For so long it is told of once: who brings it about by many connections must not fill the log, too.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The failures of one listener, of the proxies here and of those who listen elsewhere in the same process.
#[derive(Debug, Default)]
pub struct AcceptFailures {
    /// A std mutex, because it is held for one look and never across an await.
    told: Mutex<Option<Instant>>,
}

impl AcceptFailures {
    /// Tells of a failure, if none was told of lately, and waits until the next attempt makes sense.
    pub async fn pause_after(&self, error: &io::Error) {
        if self.may_tell(Instant::now()) {
            tracing::warn!(%error, "could not accept a connection");
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn may_tell(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let may_tell = told.is_none_or(|at| now.duration_since(at) >= TELL_EVERY);
        if may_tell {
            *told = Some(now);
        }
        may_tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_of_once_a_minute() {
        let (failures, start) = (AcceptFailures::default(), Instant::now());
        let told = (0..180).filter(|second| failures.may_tell(start + Duration::from_secs(*second)));
        assert_eq!(told.count(), 3);
    }
}
