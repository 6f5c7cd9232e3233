//! Tables for people: columns as wide as their widest cell, two spaces apart, and on a terminal no wider than it.
//!
//! Cells may hold what a device said of itself, so characters that a terminal would act on are shown as `?`.

use jiff::Timestamp;

use crate::elapsed::ago;

/// Spaces between two columns.
const GAP: usize = 2;

/// Before what stands below its row.
const INDENT: &str = "  ";

/// Least room in which a last column may go on below itself.
const LAST_MIN: usize = 30;

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

    /// As wide as it must be, or, with a width, no wider than that. What does not fit is never left out: a long
    /// last column goes on below itself, else the columns that have no room stand below their row with their names.
    pub(super) fn render(&self, width: Option<usize>) -> String {
        let widths = self.widths();
        let Some(width) = width else {
            return self.rows.iter().map(|row| line(row, &widths)).collect();
        };
        let mut used = 0;
        let fitting = widths.iter().take_while(|column| {
            used += **column + GAP;
            used <= width + GAP
        });
        let fitting = fitting.count().max(1);
        let left: usize = widths[..widths.len() - 1].iter().map(|column| column + GAP).sum();
        if fitting == widths.len() {
            self.render(None)
        } else if fitting + 1 == widths.len() && width >= left + LAST_MIN {
            self.with_hanging_column(&widths, width)
        } else {
            self.with_rest_below(&widths[..fitting], width)
        }
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }

    /// The last column is wrapped where it stands.
    fn with_hanging_column(&self, widths: &[usize], width: usize) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let (last, others) = row
                .split_last()
                .map_or(("", &[][..]), |(last, others)| (last, others));
            let cells = others.iter().zip(widths);
            let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}  ")).collect();
            hang(&mut text, &cells.concat(), last, Some(width));
        }
        text
    }

    /// What has no column stands below its row, each cell after its column's name.
    fn with_rest_below(&self, widths: &[usize], width: usize) -> String {
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            text.push_str(&line(row, widths));
            if index == 0 {
                continue;
            }
            let named = self.rows[0].iter().zip(row).skip(widths.len());
            let named = named.filter(|(_, cell)| !cell.is_empty());
            let mut below = String::new();
            for (name, cell) in named {
                let item = format!("{} {cell}", name.to_lowercase());
                let together = below.chars().count() + GAP + item.chars().count();
                if !below.is_empty() && INDENT.len() + together > width {
                    hang(&mut text, INDENT, &below, Some(width));
                    below.clear();
                }
                let gap = if below.is_empty() { "" } else { "  " };
                below.push_str(gap);
                below.push_str(&item);
            }
            if !below.is_empty() {
                hang(&mut text, INDENT, &below, Some(width));
            }
        }
        text
    }
}

/// One row, as far as there are widths.
fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths);
    let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
    format!("{}\n", cells.join("  ").trim_end())
}

/// Adds `lead` and `body`, and goes on below the body's beginning where the line is too narrow.
pub(super) fn hang(text: &mut String, lead: &str, body: &str, width: Option<usize>) {
    let indent = lead.chars().count();
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(indent));
    for (index, part) in wrap(body, room.max(1)).iter().enumerate() {
        let lead = if index == 0 {
            lead.to_owned()
        } else {
            " ".repeat(indent)
        };
        text.push_str(format!("{lead}{part}").trim_end());
        text.push('\n');
    }
}

/// Lines of at most `room` characters, broken after spaces and commas; inside a word only where it has no room.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut line, mut used) = (String::new(), 0);
    for word in text.split_inclusive([' ', ',']) {
        if used > 0 && used + word.trim_end().chars().count() > room {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        for c in word.chars() {
            if used >= room && c == ' ' {
                continue;
            }
            if used >= room {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(c);
            used += 1;
        }
    }
    lines.push(line);
    lines
}

/// The text without what a terminal would act on.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// How long ago it was, if it ever was.
pub(super) fn age(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "never".to_owned(), |at| ago(at, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_harmless() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["a-long-name".to_owned(), "healthy".to_owned()]);
        table.row(["b".to_owned(), "\u{1b}[31mred\n".to_owned()]);
        insta::assert_snapshot!(table.render(None), @r"
        NAME         STATE
        a-long-name  healthy
        b            ?[31mred?
        ");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_nothing_is_left_out() {
        let mut table = Table::new(&["NAME", "STATE", "TAGS", "NOTE"]);
        let tags = "gpu=nvidia-rtx4090,location=a-cellar,os=linux";
        let note = "it stands below the stairs";
        for row in [["one", "healthy", tags, note], ["two", "offline", "", ""]] {
            table.row(row.map(ToOwned::to_owned));
        }
        for width in 8..140 {
            let text = table.render(Some(width));
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{width}:\n{text}");
            let solid = |text: &str| text.split_whitespace().collect::<String>();
            for part in [tags, note] {
                assert!(solid(&text).contains(&solid(part)), "{width}:\n{text}");
            }
        }
        assert_eq!(table.render(Some(200)), table.render(None));
        insta::assert_snapshot!(format!("{}{}{}", table.render(Some(100)), table.render(Some(60)), table.render(Some(24))), @r"
        NAME  STATE    TAGS                                           NOTE
        one   healthy  gpu=nvidia-rtx4090,location=a-cellar,os=linux  it stands below the stairs
        two   offline
        NAME  STATE    TAGS
        one   healthy  gpu=nvidia-rtx4090,location=a-cellar,os=linux
          note it stands below the stairs
        two   offline
        NAME  STATE
        one   healthy
          tags
          gpu=nvidia-rtx4090,
          location=a-cellar,
          os=linux
          note it stands below
          the stairs
        two   offline
        ");
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("a bc,def g", 5), ["a bc,", "def g"]);
        assert_eq!(wrap("abcdefg h", 3), ["abc", "def", "g h"]);
        assert_eq!(wrap("abc def", 3), ["abc", "def"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn what_never_was_has_no_age() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(age(None, now), "never");
        assert_eq!(age(Some(now), now), "just now");
    }
}
