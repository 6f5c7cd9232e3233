//! How long ago, in the words that command line and dashboard share: `just now`, `12 s ago`, `3 min ago`, `5 h ago`, `2 days ago`.

use jiff::{SignedDuration, Timestamp};

/// Below this nobody wants the seconds.
const JUST_NOW: SignedDuration = SignedDuration::from_secs(5);

/// How long ago `at` was, in words.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let elapsed = elapsed(at, now);
    if elapsed < JUST_NOW {
        "just now".to_owned()
    } else {
        format!("{} ago", in_words(elapsed))
    }
}

/// How long it lasts since `at`, in words.
pub(crate) fn lasted(at: Timestamp, now: Timestamp) -> String {
    in_words(elapsed(at, now))
}

/// From `at` to `now`. A moment in the future is one of a clock that runs ahead, and no time has passed.
fn elapsed(at: Timestamp, now: Timestamp) -> SignedDuration {
    now.duration_since(at).max(SignedDuration::ZERO)
}

/// A length of time in its largest fitting unit.
fn in_words(elapsed: SignedDuration) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    match elapsed.as_secs() {
        seconds @ ..MINUTE => format!("{seconds} s"),
        seconds @ MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        // Up to two days the hours tell more than a rounded day.
        seconds @ HOUR..172_800 => format!("{} h", seconds / HOUR),
        seconds => format!("{} days", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_people_say_them() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        for (seconds, expected) in [
            (-3600, "just now"),
            (0, "just now"),
            (4, "just now"),
            (5, "5 s ago"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (3599, "59 min ago"),
            (3600, "1 h ago"),
            (172_799, "47 h ago"),
            (172_800, "2 days ago"),
            (400 * 86_400, "400 days ago"),
        ] {
            assert_eq!(
                ago(now - SignedDuration::from_secs(seconds), now),
                expected,
                "{seconds} s"
            );
        }
        assert_eq!(ago(Timestamp::MIN, Timestamp::MAX), "7304481 days ago");
    }
}
