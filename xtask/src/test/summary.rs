//! The last lines of `cargo xtask test`.

use std::fmt;
use std::time::Duration;

use super::tally::Tally;

/// What became of a stage.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It ran; `tally` counts what it checked.
    Ran(Tally),
    /// This machine cannot run it, for this reason.
    Skipped(String),
}

/// What became of all stages.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    stage: &'static str,
    took: Duration,
    verdict: Verdict,
}

impl Summary {
    pub(crate) fn add(&mut self, stage: &'static str, took: Duration, verdict: Verdict) {
        self.rows.push(Row { stage, took, verdict });
    }

    /// Whether nothing failed, and something ran.
    pub(crate) fn passed(&self) -> bool {
        let total = self.total();
        total.failed == 0 && total.passed > 0
    }

    /// All tests of all stages; a skipped stage counts as one skipped.
    fn total(&self) -> Tally {
        let mut total = Tally::default();
        for row in &self.rows {
            match &row.verdict {
                Verdict::Ran(tally) => {
                    total.passed += tally.passed;
                    total.failed += tally.failed;
                    total.skipped.extend(
                        tally
                            .skipped
                            .iter()
                            .map(|reason| format!("{}: {reason}", row.stage)),
                    );
                }
                Verdict::Skipped(reason) => total.skipped.push(format!("{}: {reason}", row.stage)),
            }
        }
        total
    }

    fn skipped_stages(&self) -> Vec<String> {
        let reason = |row: &Row| match &row.verdict {
            Verdict::Skipped(reason) => Some(format!("{}: {reason}", row.stage)),
            Verdict::Ran(_) => None,
        };
        self.rows.iter().filter_map(reason).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        if !total.skipped.is_empty() {
            writeln!(f, "\nskipped:")?;
        }
        for reason in &total.skipped {
            writeln!(f, "  {reason}")?;
        }
        writeln!(f, "\n{:<8} {:>8}  result", "stage", "seconds")?;
        for row in &self.rows {
            writeln!(
                f,
                "{:<8} {:>8.1}  {}",
                row.stage,
                row.took.as_secs_f64(),
                row.verdict
            )?;
        }
        let skipped = self.skipped_stages();
        let run = self.rows.len() - skipped.len();
        if skipped.is_empty() {
            writeln!(f, "stages: {run} run, 0 skipped")?;
        } else {
            writeln!(
                f,
                "stages: {run} run, {} skipped ({})",
                skipped.len(),
                skipped.join("; ")
            )?;
        }
        writeln!(
            f,
            "{} passed, {} failed, {} skipped",
            total.passed,
            total.failed,
            total.skipped.len()
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(_) => f.write_str("skipped"),
            Self::Ran(tally) if tally.failed == 0 => write!(f, "ok ({} passed)", tally.passed),
            Self::Ran(tally) => write!(f, "FAILED ({} of {})", tally.failed, tally.failed + tally.passed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Summary, Tally, Verdict};

    fn ran(passed: usize, failed: usize, skipped: &[&str]) -> Verdict {
        let skipped = skipped.iter().map(|&reason| reason.to_owned()).collect();
        Verdict::Ran(Tally {
            passed,
            failed,
            skipped,
        })
    }

    #[test]
    fn the_last_lines_count_everything_and_hide_nothing() {
        let mut summary = Summary::default();
        summary.add("fmt", Duration::from_millis(1200), ran(1, 0, &[]));
        summary.add("tests", Duration::from_secs(95), ran(40, 0, &["netns: not root"]));
        summary.add(
            "deny",
            Duration::ZERO,
            Verdict::Skipped("cargo-deny is not installed".to_owned()),
        );

        let expected = "
skipped:
  tests: netns: not root
  deny: cargo-deny is not installed

stage     seconds  result
fmt           1.2  ok (1 passed)
tests        95.0  ok (40 passed)
deny          0.0  skipped
stages: 2 run, 1 skipped (deny: cargo-deny is not installed)
41 passed, 0 failed, 2 skipped
";
        assert_eq!(summary.to_string(), expected);
        assert!(summary.passed());
    }

    #[test]
    fn one_failure_fails_the_run_and_so_does_nothing_at_all() {
        let mut summary = Summary::default();
        assert!(!summary.passed(), "an empty run proves nothing");
        summary.add("fmt", Duration::ZERO, ran(1, 0, &[]));
        summary.add("tests", Duration::ZERO, ran(7, 1, &[]));
        assert!(!summary.passed());
        assert!(
            summary.to_string().ends_with("8 passed, 1 failed, 0 skipped\n"),
            "{summary}"
        );
    }
}
