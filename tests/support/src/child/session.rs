//! The connect loop: dial, stay connected, dial again. A 403 ends it for good while the process lives on.

use std::cell::Cell;
use std::time::Duration;

use serde_json::{Value, json};

use super::dial::{DialError, Dialer};
use super::lines;
use super::log::Logger;
use crate::keepalive;
use crate::scale::TimeScale;

const FIRST_DELAY: f64 = 0.05;
const DELAY_FACTOR: f64 = 1.618;
const LONGEST_DELAY: f64 = 10.0;

/// What the connect loop works with.
pub(super) struct Link<'a> {
    pub(super) logger: &'a Logger,
    pub(super) dialer: &'a Dialer,
    pub(super) name: &'a str,
    pub(super) tags: &'a [(String, String)],
    pub(super) scale: TimeScale,
    /// Whether a session stands.
    pub(super) connected: &'a Cell<bool>,
}

impl Link<'_> {
    /// Runs until a 403.
    pub(super) async fn run(&self) {
        let mut failures = 0;
        loop {
            self.logger.line(&lines::DIALING, &[]);
            match self.dialer.dial(self.name, self.tags).await {
                Ok(mut socket) => {
                    failures = 0;
                    self.connected.set(true);
                    self.logger.line(&lines::CONNECTED, &[]);
                    self.logger.line(&lines::ACQUIRE_START, &[]);
                    keepalive::run(&mut socket, self.scale).await;
                    self.connected.set(false);
                    self.logger.line(&lines::DISCONNECTED, &[]);
                    let fields = [("delay", json!("10ms")), ("error", json!("context canceled"))];
                    self.logger.line(&lines::ACQUIRE_FAILED, &fields);
                }
                Err(DialError::Forbidden(text)) => {
                    self.logger
                        .line(&lines::FORBIDDEN, &[("error", Value::String(text))]);
                    return;
                }
                Err(DialError::Failed(text)) => {
                    self.logger
                        .line(&lines::DIAL_FAILED, &[("error", Value::String(text))]);
                    failures += 1;
                    tokio::time::sleep(self.scale.scaled(redial_delay(failures))).await;
                }
            }
        }
    }
}

/// The wait after the n-th failure in a row, as recorded: 81 ms, then 1.618 times the one before, at most 10 s.
fn redial_delay(failures: i32) -> Duration {
    Duration::from_secs_f64((FIRST_DELAY * DELAY_FACTOR.powi(failures)).min(LONGEST_DELAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redials_at_the_recorded_times() {
        let recorded = [0.13, 0.26, 0.48, 0.82, 1.38, 2.28, 3.73, 6.08, 9.88, 16.03];
        // Seconds since the start of a recorded run; its first dial failed at 0.05 s.
        let mut time = 0.05;
        for (failures, expected) in (1..).zip(recorded) {
            time += redial_delay(failures).as_secs_f64();
            assert!(
                (time - expected).abs() < 0.02,
                "failure {failures}: {time} s, recorded {expected} s"
            );
        }
        assert_eq!(redial_delay(40), Duration::from_secs(10));
    }
}
