//! Tables for people: columns as wide as their widest cell, two spaces apart.
//!
//! Cells may hold what a device said of itself, so characters that a terminal would act on are shown as `?`.

use jiff::Timestamp;

/// A table with a head.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(ToString::to_string).collect()],
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text without what a terminal would act on.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// How long ago, in one unit: `12s ago`.
pub(super) fn age(at: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else { return "never".to_owned() };
    let seconds = now.as_second().saturating_sub(at.as_second());
    match seconds {
        ..=0 => "now".to_owned(),
        1..=119 => format!("{seconds}s ago"),
        120..=7_199 => format!("{}m ago", seconds / 60),
        7_200..=172_799 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_harmless() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["a-long-name".to_owned(), "healthy".to_owned()]);
        table.row(["b".to_owned(), "\u{1b}[31mred\n".to_owned()]);
        insta::assert_snapshot!(table.render(), @r"
        NAME         STATE
        a-long-name  healthy
        b            ?[31mred?
        ");
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let shown = |seconds: i64| age(Timestamp::from_second(1_000_000 - seconds).ok(), now);
        assert_eq!(
            [-5, 0, 1, 119, 120, 7_199, 7_200, 172_799, 172_800].map(shown),
            [
                "now", "now", "1s ago", "119s ago", "2m ago", "119m ago", "2h ago", "47h ago", "2d ago"
            ]
        );
        assert_eq!(age(None, now), "never");
    }
}
