//! Ages, sizes and foreign words as text.

use jiff::{SignedDuration, Timestamp};

/// Longest text of a device that is shown, in characters; what follows is cut.
const TEXT_MAX: usize = 400;

/// A moment as people read it, and as machines do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    /// `12 s ago`.
    pub(crate) age: String,
    /// `12 s`: how long it lasts since then.
    pub(crate) lasted: String,
    /// `2026-03-01 09:30:00 UTC`.
    pub(crate) absolute: String,
    /// RFC 3339, for `datetime`.
    pub(crate) datetime: String,
}

impl Moment {
    pub(super) fn new(at: Timestamp, now: Timestamp) -> Self {
        Self {
            age: age(at, now),
            lasted: span(elapsed(at, now)),
            absolute: at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            datetime: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// How long ago `at` was, in words.
fn age(at: Timestamp, now: Timestamp) -> String {
    let elapsed = elapsed(at, now);
    if elapsed.as_secs() < 5 {
        "just now".to_owned()
    } else {
        format!("{} ago", span(elapsed))
    }
}

/// From `at` to `now`. A moment in the future is one of a clock that runs ahead, and no time has passed.
fn elapsed(at: Timestamp, now: Timestamp) -> SignedDuration {
    now.duration_since(at).max(SignedDuration::ZERO)
}

/// A length of time in its largest fitting unit.
fn span(elapsed: SignedDuration) -> String {
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

/// `32 GiB`, `512 MiB`.
pub(super) fn memory(mib: u64) -> String {
    if mib < 1024 {
        format!("{mib} MiB")
    } else {
        format!("{} GiB", (mib + 512) / 1024)
    }
}

/// Text of a device's choosing, fit to stand in a page: one line, bounded, and without the characters that
/// change the direction of what stands around them. (Escaping is the template's part.)
pub(super) fn clean(text: &str) -> String {
    let mut cleaned: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() || redirects(c) { ' ' } else { c })
        .take(TEXT_MAX)
        .collect();
    if text.trim().chars().nth(TEXT_MAX).is_some() {
        cleaned.push('…');
    }
    cleaned
}

/// Unicode's explicit directional formatting characters (UAX #9 §2) and line separators.
fn redirects(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
                age(now - SignedDuration::from_secs(seconds), now),
                expected,
                "{seconds} s"
            );
        }
        assert_eq!(age(Timestamp::MIN, Timestamp::MAX), "7304481 days ago");
    }

    #[test]
    fn moments_are_absolute_too() {
        let at: Timestamp = "2026-03-01T09:30:00.987Z".parse().unwrap();
        let moment = Moment::new(at, at);
        assert_eq!(moment.lasted, "0 s");
        assert_eq!(moment.absolute, "2026-03-01 09:30:00 UTC");
        assert_eq!(moment.datetime, "2026-03-01T09:30:00Z");
    }

    #[test]
    fn memory_is_rounded_to_what_is_on_the_label() {
        for (mib, expected) in [
            (512, "512 MiB"),
            (1024, "1 GiB"),
            (15_872, "16 GiB"),
            (64_211, "63 GiB"),
        ] {
            assert_eq!(memory(mib), expected);
        }
    }

    #[test]
    fn foreign_text_stays_one_bounded_line() {
        assert_eq!(clean(" a\r\nb\u{0}c\u{202e}d\u{2028}e "), "a  b c d e");
        assert_eq!(clean(&"ä".repeat(400)).chars().count(), 400);
        let long = clean(&"ä".repeat(401));
        assert!(long.ends_with("ä…") && long.chars().count() == 401);
    }
}
