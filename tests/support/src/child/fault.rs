//! Misbehaviour that no server can cause, told to the child by a variable: a comma-separated list of
//!
//! - `ignore-term` — TERM, HUP and INT change nothing; only KILL and QUIT end it;
//! - `crash-ms:N` — panics N ms after the start, exit 2;
//! - `exit-ms:N:CODE` — ends silently N ms after the start with CODE;
//! - `hang` — prints nothing at all, for ever, and ignores TERM, HUP and INT;
//! - `garbage` — plain text, broken JSON and bytes that are no UTF-8 on stderr, between its lines;
//! - `long-line` — one line of 1 MiB on stderr;
//! - `drain-ms:N` — takes N ms between TERM and its end, as with a build running;
//! - `grandchild-s:N` — starts `sleep N` in its own process group, as terraform would run, and leaves it behind.
//!
//! Times are as written: [`crate::scale`] does not change them.

use std::str::FromStr;
use std::time::Duration;

/// The variable's name.
pub const VARIABLE: &str = "CODER_STAND_IN_FAULT";

/// What the child was told to do wrong; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent faults, each there or not"
)]
pub struct Faults {
    /// `ignore-term`.
    pub ignore_term: bool,
    /// `crash-ms`.
    pub crash_after: Option<Duration>,
    /// `exit-ms`: after how long, and the exit code.
    pub exit_after: Option<(Duration, u8)>,
    /// `hang`.
    pub hang: bool,
    /// `garbage`.
    pub garbage: bool,
    /// `long-line`.
    pub long_line: bool,
    /// `drain-ms`.
    pub drain: Option<Duration>,
    /// `grandchild-s`: whole seconds.
    pub grandchild_seconds: Option<u32>,
}

/// A word of the variable is not known.
#[derive(Debug, thiserror::Error)]
#[error("unknown fault {0:?}")]
pub struct UnknownFault(String);

impl FromStr for Faults {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let mut faults = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            faults.add(word).ok_or_else(|| UnknownFault(word.to_owned()))?;
        }
        Ok(faults)
    }
}

impl Faults {
    fn add(&mut self, word: &str) -> Option<()> {
        let mut parts = word.split(':');
        let name = parts.next()?;
        let mut number = || parts.next()?.parse::<u32>().ok();
        let millis = |number: u32| Duration::from_millis(u64::from(number));
        match name {
            "ignore-term" => self.ignore_term = true,
            "hang" => self.hang = true,
            "garbage" => self.garbage = true,
            "long-line" => self.long_line = true,
            "crash-ms" => self.crash_after = Some(millis(number()?)),
            "drain-ms" => self.drain = Some(millis(number()?)),
            "grandchild-s" => self.grandchild_seconds = Some(number()?),
            "exit-ms" => {
                let after = millis(number()?);
                self.exit_after = Some((after, u8::try_from(number()?).ok()?));
            }
            _ => return None,
        }
        parts.next().is_none().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_list() {
        let faults: Faults = "ignore-term,crash-ms:250,exit-ms:10:3,drain-ms:5"
            .parse()
            .unwrap();
        assert!(faults.ignore_term);
        assert_eq!(faults.crash_after, Some(Duration::from_millis(250)));
        assert_eq!(faults.exit_after, Some((Duration::from_millis(10), 3)));
        assert_eq!(faults.drain, Some(Duration::from_millis(5)));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for bad in [
            "crash",
            "crash-ms:",
            "crash-ms:x",
            "hang:1",
            "exit-ms:1",
            "exit-ms:1:999",
            "party",
        ] {
            assert!(bad.parse::<Faults>().is_err(), "{bad}");
        }
    }
}
