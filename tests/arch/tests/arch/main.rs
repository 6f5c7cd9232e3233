//! Holds the workspace to ARCHITECTURE.md.
//!
//! The document's table says which folders and crates there are, its "Allowed edges" say which of them may depend
//! on which; both are parsed from it, so that there is one place to change. The other rules stand here in code:
//! what the sans-IO crates must not touch, where `unsafe` may stand, and which module names say nothing.
//!
//! Each check is a function from small inputs to a list of [`Finding`]s, and is shown to find something in its own
//! module's tests. The tests in this file run the checks on the workspace itself.

// The conditions always hold here; they mark the modules as test code for the lints.
#[cfg(test)]
mod document;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod lexer;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod workspace;

use std::fmt;

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// `path:line`, the path relative to the workspace.
    place: String,
    rule: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: impl Into<String>) -> Self {
        Self {
            place: format!("{path}:{line}"),
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.rule)
    }
}

/// Fails with every finding on a line of its own.
#[track_caller]
fn assert_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(
        findings.is_empty(),
        "{} place(s) break ARCHITECTURE.md:\n{}",
        findings.len(),
        lines.join("\n")
    );
}

#[test]
fn members_and_folders_are_those_of_the_table() {
    let workspace = workspace::load();
    let document = workspace.document();
    assert_none(&document.check_members(&workspace.members));
    assert_none(&document.check_folders(|folder| workspace.root.join(folder).is_dir()));
}

#[test]
fn edges_are_allowed() {
    let workspace = workspace::load();
    let allowed = workspace.document().edges;
    assert!(
        allowed.contains(&("agent/core".into(), "protocol".into())),
        "the document's edges were not understood"
    );
    assert_none(&edges::check(&workspace.members, &allowed));
}

#[test]
fn sans_io_crates_stay_free_of_runtimes() {
    let workspace = workspace::load();
    assert_none(&edges::check_sans_io(&workspace.members, &workspace.graph));
}

#[test]
fn sources_keep_the_rules() {
    let workspace = workspace::load();
    let mut findings = Vec::new();
    let mut files = 0;
    for member in &workspace.members {
        let sources = sources::of_member(&workspace.root, &member.folder);
        files += sources.len();
        findings.extend(sources::check(&member.folder, &sources));
        for (path, lines) in sources::large(&sources) {
            println!("note: {path} has {lines} lines of code; above 400 two things may live in one room");
        }
    }
    assert!(
        files >= workspace.members.len(),
        "only {files} source files were found"
    );
    assert_none(&findings);
}
