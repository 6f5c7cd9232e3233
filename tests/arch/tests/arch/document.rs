//! What ARCHITECTURE.md says: the table of folders and crates, and the edges.
//!
//! Edges are written as `from → to, to` with ` · ` between; `{a,b}` names several folders, `x/*` all of the table's
//! folders in `x`, and a name without its folder (`store`) the one folder of the table that ends in it.

use std::collections::BTreeSet;

use crate::Finding;
use crate::workspace::Member;

const PATH: &str = "ARCHITECTURE.md";

/// The document, parsed.
pub(crate) struct Document {
    rows: Vec<Row>,
    /// Allowed `(from, to)` by folder.
    pub(crate) edges: BTreeSet<(String, String)>,
}

/// One folder of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    line: usize,
    folder: String,
    /// Some rows leave the name open.
    package: Option<String>,
}

impl Document {
    pub(crate) fn parse(text: &str) -> Self {
        let rows: Vec<Row> = text
            .lines()
            .enumerate()
            .flat_map(|(index, line)| rows(index + 1, line))
            .collect();
        let edges = edges(text, &rows);
        Self { rows, edges }
    }

    /// Every member stands in the table, under its name where the table gives one.
    pub(crate) fn check_members(&self, members: &[Member]) -> Vec<Finding> {
        let check = |member: &Member| {
            let manifest = format!("{}/Cargo.toml", member.folder);
            let Some(row) = self.rows.iter().find(|row| row.folder == member.folder) else {
                return Some(Finding::new(
                    &manifest,
                    1,
                    "the table in ARCHITECTURE.md does not know this crate",
                ));
            };
            let named = row.package.as_deref().filter(|package| *package != member.name)?;
            let rule = format!(
                "the table in ARCHITECTURE.md calls this crate `{named}`, not `{}`",
                member.name
            );
            Some(Finding::new(&manifest, member.line_of("name"), rule))
        };
        members.iter().filter_map(check).collect()
    }

    /// Every folder of the table exists.
    pub(crate) fn check_folders(&self, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
        let missing = self.rows.iter().filter(|row| !exists(&row.folder));
        missing
            .map(|row| Finding::new(PATH, row.line, format!("there is no folder `{}`", row.folder)))
            .collect()
    }
}

/// The rows of one line of the table: `` | `a/`, `b/` | `package` | … | ``.
fn rows(line: usize, text: &str) -> Vec<Row> {
    let Some(cells) = text.strip_prefix('|') else {
        return Vec::new();
    };
    let mut cells = cells.split('|');
    let folders = quoted(cells.next().unwrap_or_default());
    let package = quoted(cells.next().unwrap_or_default())
        .first()
        .map(|name| (*name).to_owned());
    let row = |folder: &str| Row {
        line,
        folder: folder.to_owned(),
        package: package.clone(),
    };
    folders
        .into_iter()
        .filter_map(|name| name.strip_suffix('/'))
        .map(row)
        .collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// All pairs from the quoted texts with an arrow in them; a text may run over a line's end.
fn edges(text: &str, rows: &[Row]) -> BTreeSet<(String, String)> {
    let from_title = text.split_once("Allowed edges").map_or("", |(_, rest)| rest);
    let paragraph = from_title
        .split("\n\n")
        .next()
        .unwrap_or_default()
        .replace('\n', " ");
    let arrows = quoted(&paragraph)
        .into_iter()
        .filter_map(|rule| rule.split_once('→'));
    arrows
        .flat_map(|(from, to)| {
            let to = names(to, rows);
            names(from, rows)
                .into_iter()
                .flat_map(move |from| to.clone().into_iter().map(move |to| (from.clone(), to)))
        })
        .collect()
}

/// The folders that a list such as `agent/{a,b}, tunnel/*, store` stands for.
fn names(list: &str, rows: &[Row]) -> Vec<String> {
    let (mut parts, mut in_braces) = (vec![String::new()], false);
    for c in list.chars() {
        in_braces = (in_braces || c == '{') && c != '}';
        match (c, parts.last_mut()) {
            (',', _) if !in_braces => parts.push(String::new()),
            (_, Some(part)) => part.push(c),
            (_, None) => {}
        }
    }
    parts.iter().flat_map(|part| expand(part.trim(), rows)).collect()
}

fn expand(name: &str, rows: &[Row]) -> Vec<String> {
    if let Some((before, rest)) = name.split_once('{') {
        let (inside, after) = rest.split_once('}').unwrap_or((rest, ""));
        return inside
            .split(',')
            .flat_map(|one| expand(&format!("{before}{}{after}", one.trim()), rows))
            .collect();
    }
    let folders = || rows.iter().map(|row| row.folder.as_str());
    if let Some(parent) = name.strip_suffix('*') {
        return folders()
            .filter(|folder| folder.starts_with(parent))
            .map(str::to_owned)
            .collect();
    }
    let suffix = format!("/{name}");
    let full = folders()
        .find(|folder| *folder == name)
        .or_else(|| folders().find(|f| f.ends_with(&suffix)));
    vec![full.unwrap_or(name).to_owned()]
}

mod tests {
    use super::*;

    const TEXT: &str = "\
# Title
| folder | crate | what |
|---|---|---|
| `wire/` | `our-wire` | x |
| `agent/core/` | `our-core` | `not/a/row/` |
| `agent/os/` | `our-os` | x |
| `tests/a/`, `tests/b/` | | x |

Allowed edges among `ours`: `agent/core → wire` · `agent/{core,os} →
os` · `tests/a → agent/*, wire`. The end.

`wire → agent/core` stands outside.
";

    #[test]
    fn rows_and_edges_are_read() {
        let document = Document::parse(TEXT);
        let folders: Vec<&str> = document.rows.iter().map(|row| row.folder.as_str()).collect();
        assert_eq!(folders, ["wire", "agent/core", "agent/os", "tests/a", "tests/b"]);
        assert_eq!(document.rows[1].package.as_deref(), Some("our-core"));
        assert_eq!(document.rows[3].package, None);
        let edges: Vec<(&str, &str)> = document
            .edges
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .collect();
        assert_eq!(
            edges,
            [
                ("agent/core", "agent/os"),
                ("agent/core", "wire"),
                ("agent/os", "agent/os"),
                ("tests/a", "agent/core"),
                ("tests/a", "agent/os"),
                ("tests/a", "wire"),
            ]
        );
    }

    #[test]
    fn a_text_without_table_or_edges_allows_nothing() {
        let document = Document::parse("Allowed edges");
        assert!(document.rows.is_empty() && document.edges.is_empty());
    }

    #[test]
    fn members_outside_the_table_and_misnamed_ones_are_found() {
        let document = Document::parse(TEXT);
        let member = |name: &str, folder: &str| Member {
            name: name.into(),
            folder: folder.into(),
            manifest: format!("[package]\nname = \"{name}\"\n"),
            dependencies: Vec::new(),
        };
        let members = [
            member("our-wire", "wire"),
            member("any", "tests/b"),
            member("core", "agent/core"),
            member("x", "new"),
        ];
        let findings: Vec<String> = document
            .check_members(&members)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            findings,
            [
                "agent/core/Cargo.toml:2: the table in ARCHITECTURE.md calls this crate `our-core`, not `core`",
                "new/Cargo.toml:1: the table in ARCHITECTURE.md does not know this crate",
            ]
        );
    }

    #[test]
    fn missing_folders_are_found() {
        let findings = Document::parse(TEXT).check_folders(|folder| folder != "agent/os");
        assert_eq!(
            findings,
            [Finding::new(
                "ARCHITECTURE.md",
                6,
                "there is no folder `agent/os`"
            )]
        );
    }
}
