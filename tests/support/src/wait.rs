//! Waiting for a condition with a deadline. Tests wait on what they need and on nothing else; when it does not come,
//! the error says what was waited for, how long, and what was still missing.

use std::time::{Duration, Instant};

/// How often a condition is looked at again. Short enough to cost a test nothing, long enough to leave the machine to
/// the programs under test.
const POLL: Duration = Duration::from_millis(5);

/// The condition did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {} ms for {what}; still missing: {missing}", waited.as_millis())]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub waited: Duration,
    /// What the condition said the last time it was asked.
    pub missing: String,
}

/// Asks `condition` until it answers `Ok`, at most for `timeout`; its `Err` says what is still missing.
pub async fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let started = Instant::now();
    loop {
        let missing = match condition() {
            Ok(value) => return Ok(value),
            Err(missing) => missing,
        };
        let waited = started.elapsed();
        if waited >= timeout {
            return Err(TimedOut {
                what: what.to_owned(),
                waited,
                missing,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// [`wait_for`] for code without a runtime.
pub fn wait_for_blocking<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let started = Instant::now();
    loop {
        let missing = match condition() {
            Ok(value) => return Ok(value),
            Err(missing) => missing,
        };
        let waited = started.elapsed();
        if waited >= timeout {
            return Err(TimedOut {
                what: what.to_owned(),
                waited,
                missing,
            });
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_what_was_missing() {
        let error = wait_for("the moon", Duration::from_millis(20), || {
            Err::<(), _>("it is day".to_owned())
        })
        .await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("the moon") && text.contains("it is day"), "{text}");
    }

    #[test]
    fn returns_what_the_condition_found() {
        let mut asked = 0;
        let found = wait_for_blocking("a third question", Duration::from_secs(5), || {
            asked += 1;
            if asked == 3 {
                Ok(asked)
            } else {
                Err(format!("asked {asked} times"))
            }
        });
        assert_eq!(found.unwrap(), 3);
    }
}
