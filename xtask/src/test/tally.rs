//! Counts tests by reading what `cargo test` prints.
//!
//! Two kinds of lines matter: libtest's `test result:` of each test binary, and `SKIPPED: reason`, which
//! a test prints when this machine lacks what it needs. libtest takes such a test for passed; here it
//! is counted as skipped.

use std::collections::BTreeSet;

/// The counts of one or more test binaries.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub passed: usize,
    pub failed: usize,
    /// Reasons for each test that did not run, in full or in part.
    pub skipped: Vec<String>,
}

/// Reads the lines of one run of `cargo test -- --show-output`.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Test and reason, so that a test that repeats itself is counted once.
    skipped: BTreeSet<(String, String)>,
    /// The test whose captured output is being read.
    test: String,
    /// Whether the lines read belong to the captured output of tests that passed.
    in_successes: bool,
}

impl Reader {
    /// Reads one line; says whether a person wants to see it.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if let Some(test) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            test.clone_into(&mut self.test);
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.result(counts);
            return !counts.starts_with("ok. 0 passed; 0 failed; 0 ignored");
        }
        if let Some(reason) = line.trim_start().strip_prefix("SKIPPED: ") {
            self.skipped.insert((self.test.clone(), reason.trim().to_owned()));
            return true;
        }
        !self.in_successes && !line.is_empty() && !says_nothing(line)
    }

    /// The counts so far.
    pub(crate) fn tally(&self) -> Tally {
        let mut skipped: Vec<String> = self
            .skipped
            .iter()
            .map(|(test, reason)| {
                if test.is_empty() {
                    reason.clone()
                } else {
                    format!("{test}: {reason}")
                }
            })
            .collect();
        let passed = self.passed.saturating_sub(skipped.len());
        skipped.extend((0..self.ignored).map(|_| "ignored by an attribute".to_owned()));
        Tally {
            passed,
            failed: self.failed,
            skipped,
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
    fn result(&mut self, counts: &str) {
        self.in_successes = false;
        self.test.clear();
        let words: Vec<&str> = counts.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<usize>() else {
                continue;
            };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Lines of which there are hundreds: tests that passed, and binaries without tests.
fn says_nothing(line: &str) -> bool {
    (line.starts_with("test ") && line.ends_with(" ... ok"))
        || line == "running 0 tests"
        || line.starts_with("   Doc-tests ")
}

#[cfg(test)]
mod tests {
    use super::{Reader, Tally};

    const OUTPUT: &str = "
running 4 tests
test key::round_trip ... ok
test netns::client ... ok
test real::smoke ... ok
test broken ... FAILED

successes:

---- netns::client stdout ----
noise
SKIPPED: not root
SKIPPED: not root

successes:
    key::round_trip

failures:

---- broken stdout ----
assertion failed

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 2 tests
SKIPPED: ORFE_REAL_CODER is not set
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.00s
";

    #[test]
    fn tests_that_were_skipped_are_not_counted_as_passed() {
        let mut reader = Reader::default();
        let shown: Vec<&str> = OUTPUT.lines().filter(|line| reader.line(line)).collect();

        let expected = Tally {
            passed: 3,
            failed: 1,
            skipped: vec![
                "ORFE_REAL_CODER is not set".to_owned(),
                "netns::client: not root".to_owned(),
                "ignored by an attribute".to_owned(),
            ],
        };
        assert_eq!(reader.tally(), expected);
        assert!(shown.contains(&"test broken ... FAILED"));
        assert!(shown.contains(&"assertion failed"));
        assert!(!shown.contains(&"noise"), "{shown:?}");
        assert!(!shown.contains(&"test key::round_trip ... ok"), "{shown:?}");
    }
}
