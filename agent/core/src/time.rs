//! The time of an input: both clocks, read once by the shell.

use std::time::Instant;

use jiff::Timestamp;

/// When something happened. Durations are reckoned on the monotonic clock, which a changed wall clock does not
/// bend; the wall clock is only for what people read.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    pub wall: Timestamp,
}
