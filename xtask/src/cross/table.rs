//! What the checks for other systems came to.

use std::fmt;
use std::time::Duration;

/// What became of one check.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed {
        warnings: usize,
    },
    /// Why; the errors were shown as they came.
    Failed(String),
    /// This machine lacks something.
    Skipped(String),
}

#[derive(Debug)]
pub(crate) struct Row {
    pub target: &'static str,
    pub what: String,
    pub took: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn passed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Passed { .. }))
    }

    pub(crate) fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// Target and reason of each check that was not made.
    pub(crate) fn skipped(&self) -> Vec<String> {
        let reason = |row: &Row| match &row.outcome {
            Outcome::Skipped(reason) => Some(format!("{}: {reason}", row.target)),
            Outcome::Passed { .. } | Outcome::Failed(_) => None,
        };
        self.rows.iter().filter_map(reason).collect()
    }

    fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.rows.iter().filter(|row| is(&row.outcome)).count()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22} {:<30} {:>8}  result", "target", "check", "seconds")?;
        for row in &self.rows {
            let seconds = row.took.as_secs_f64();
            writeln!(
                f,
                "{:<22} {:<30} {seconds:>8.1}  {}",
                row.target, row.what, row.outcome
            )?;
        }
        writeln!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed(),
            self.failed(),
            self.skipped().len()
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { warnings: 0 } => f.write_str("ok"),
            Self::Passed { warnings: 1 } => f.write_str("ok, 1 warning"),
            Self::Passed { warnings } => write!(f, "ok, {warnings} warnings"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Outcome, Row, Table};

    #[test]
    fn what_was_not_checked_is_not_called_passed() {
        let mut table = Table::default();
        for (target, outcome) in [
            ("aarch64-apple-darwin", Outcome::Passed { warnings: 0 }),
            ("x86_64-apple-darwin", Outcome::Passed { warnings: 2 }),
            (
                "x86_64-pc-windows-gnu",
                Outcome::Failed("exit status: 101".to_owned()),
            ),
            ("x86_64-pc-windows-gnu", Outcome::Skipped("no linker".to_owned())),
        ] {
            table.add(Row {
                target,
                what: "clippy: 7 libraries".to_owned(),
                took: Duration::from_millis(61_500),
                outcome,
            });
        }
        let expected = "\
target                 check                           seconds  result
aarch64-apple-darwin   clippy: 7 libraries                61.5  ok
x86_64-apple-darwin    clippy: 7 libraries                61.5  ok, 2 warnings
x86_64-pc-windows-gnu  clippy: 7 libraries                61.5  FAILED: exit status: 101
x86_64-pc-windows-gnu  clippy: 7 libraries                61.5  skipped: no linker
2 passed, 1 failed, 1 skipped
";
        assert_eq!(table.to_string(), expected);
        assert_eq!(table.skipped(), ["x86_64-pc-windows-gnu: no linker"]);
    }
}
