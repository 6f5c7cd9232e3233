//! Moments, sizes and foreign words as text.

use jiff::Timestamp;

use crate::elapsed::{ago, lasted};

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
            age: ago(at, now),
            lasted: lasted(at, now),
            absolute: at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            datetime: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
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
