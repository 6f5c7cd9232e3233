//! Rules about the text of the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::Finding;
use crate::edges::SANS_IO;
use crate::lexer::{self, TestCode, Token};

/// Crates that may hold `unsafe`; each block's reason is clippy's to ask for.
const UNSAFE_ALLOWED: &[&str] = &["platform", "agent/supervisor", "tunnel/io"];

/// Names that say nothing about what lives in a module.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "misc", "util", "utils"];

/// Paths, or ends of paths, that a sans-IO crate must not write.
const FORBIDDEN_PATHS: &[&[&str]] = &[
    &["Instant", "::", "now"],
    &["SystemTime", "::", "now"],
    &["Timestamp", "::", "now"],
    &["Zoned", "::", "now"],
    &["std", "::", "env"],
    &["std", "::", "fs"],
    &["std", "::", "process"],
    &["std", "::", "thread"],
    &["thread", "::", "sleep"],
];

/// Types that a sans-IO crate must not name at all.
const FORBIDDEN_TYPES: &[&str] = &[
    "TcpListener",
    "TcpStream",
    "ToSocketAddrs",
    "UdpSocket",
    "UnixDatagram",
    "UnixListener",
    "UnixStream",
];

/// Above this many lines of code outside tests a file is named, not failed.
const LARGE_LINES: usize = 400;

/// One source file.
pub(crate) struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    masked: String,
    line_starts: Vec<usize>,
    tests: TestCode,
    /// All of it is compiled for tests only.
    is_test: bool,
}

impl Source {
    fn new(path: String, text: &str) -> Self {
        let masked = lexer::mask(text);
        let tests = lexer::test_code(&lexer::tokens(&masked));
        let is_test = path
            .split('/')
            .rev()
            .skip(1)
            .any(|folder| matches!(folder, "tests" | "benches" | "examples"));
        let line_starts = masked.split_inclusive('\n').scan(0, |next, line| {
            let start = *next;
            *next += line.len();
            Some(start)
        });
        Self {
            line_starts: line_starts.collect(),
            path,
            masked,
            tests,
            is_test,
        }
    }

    fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    fn is_in_test(&self, at: usize) -> bool {
        self.is_test || self.tests.ranges.iter().any(|range| range.contains(&at))
    }

    /// Where a child module's file may stand, without its `.rs`.
    fn child(&self, name: &str) -> String {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        match file.trim_end_matches(".rs") {
            "lib" | "main" | "mod" => format!("{folder}/{name}"),
            stem => format!("{folder}/{stem}/{name}"),
        }
    }
}

/// Every Rust source below a member's folder.
pub(crate) fn of_member(root: &Path, folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root.join(folder), &mut paths);
    paths.sort();
    let relative = |path: &Path| {
        path.strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/")
    };
    mark_test_modules(
        paths
            .iter()
            .map(|path| Source::new(relative(path), &fs::read_to_string(path).unwrap()))
            .collect(),
    )
}

fn collect(folder: &Path, paths: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !matches!(name.as_ref(), "target" | "node_modules") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Marks the files of `#[cfg(test)] mod name;` and of all modules below them.
fn mark_test_modules(mut sources: Vec<Source>) -> Vec<Source> {
    let modules: BTreeSet<String> = sources
        .iter()
        .flat_map(|source| source.tests.modules.iter().map(|name| source.child(name)))
        .collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs");
        source.is_test |= modules.iter().any(|module| {
            stem.strip_prefix(module.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
    }
    sources
}

/// All rules, on the sources of one member.
pub(crate) fn check(folder: &str, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let tokens = lexer::tokens(&source.masked);
        findings.extend(check_names(source, &tokens));
        if !UNSAFE_ALLOWED.contains(&folder) {
            let rule = "`unsafe` is for platform, agent/supervisor and tunnel/io";
            let unsafes = tokens.iter().filter(|token| token.text == "unsafe");
            findings.extend(unsafes.map(|token| Finding::new(&source.path, source.line(token.at), rule)));
        }
        if SANS_IO.contains(&folder) {
            findings.extend(check_sans_io(source, &tokens));
        }
    }
    findings
}

fn check_names(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.path.ends_with("/mod.rs") {
        findings.push(Finding::new(
            &source.path,
            1,
            "a module's file is `name.rs` beside `name/`, not `mod.rs`",
        ));
    }
    for pair in tokens
        .windows(2)
        .filter(|pair| pair[0].text == "mod" && EMPTY_NAMES.contains(&pair[1].text))
    {
        let rule = format!(
            "a module named `{}` says nothing; name it by what lives in it",
            pair[1].text
        );
        findings.push(Finding::new(&source.path, source.line(pair[0].at), rule));
    }
    findings
}

fn check_sans_io(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    let tokens: Vec<Token<'_>> = tokens
        .iter()
        .copied()
        .filter(|token| !source.is_in_test(token.at))
        .collect();
    let mut places = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        let starts = |path: &&&[&str]| {
            tokens[index..]
                .iter()
                .map(|token| token.text)
                .take(path.len())
                .eq(path.iter().copied())
        };
        if let Some(path) = FORBIDDEN_PATHS.iter().find(starts) {
            places.insert((token.at, path.concat()));
        }
        if FORBIDDEN_TYPES.contains(&token.text) {
            places.insert((token.at, token.text.to_owned()));
        }
        if token.text == "use" {
            places.extend(forbidden_imports(&tokens[index + 1..]));
        }
    }
    let finding = |(at, what): (usize, String)| {
        let rule = format!("sans-IO: `{what}` has no place here; time and the world are arguments");
        Finding::new(&source.path, source.line(at), rule)
    };
    places.into_iter().map(finding).collect()
}

/// Forbidden paths that a `use` puts together from groups: `use std::{fmt, fs}`.
fn forbidden_imports(tokens: &[Token<'_>]) -> Vec<(usize, String)> {
    let (mut groups, mut prefix) = (Vec::<Vec<&str>>::new(), Vec::<&str>::new());
    let mut found = Vec::new();
    for token in tokens.iter().take_while(|token| token.text != ";") {
        match token.text {
            "{" => groups.push(prefix.clone()),
            "}" => prefix = groups.pop().unwrap_or_default(),
            "," => prefix = groups.last().cloned().unwrap_or_default(),
            text => {
                prefix.push(text);
                // A path that stands in one piece is found without us.
                let in_group = groups.last().is_some_and(|group| !group.is_empty());
                if in_group && FORBIDDEN_PATHS.iter().any(|path| prefix == *path) {
                    found.push((token.at, prefix.concat()));
                }
            }
        }
    }
    found
}

/// Files above the line that the rules name, with their lines of code outside tests; blank and comment lines do
/// not count.
pub(crate) fn large(sources: &[Source]) -> Vec<(&str, usize)> {
    let lines = |source: &Source| {
        let tokens = lexer::tokens(&source.masked);
        let code = tokens.iter().filter(|token| !source.is_in_test(token.at));
        code.map(|token| source.line(token.at))
            .collect::<BTreeSet<_>>()
            .len()
    };
    sources
        .iter()
        .map(|s| (s.path.as_str(), lines(s)))
        .filter(|(_, lines)| *lines > LARGE_LINES)
        .collect()
}

mod tests {
    use super::*;

    /// Findings as `line: rule's first word in backticks`, for a file of the given member.
    fn found(folder: &str, path: &str, text: &str) -> Vec<String> {
        let sources = mark_test_modules(vec![Source::new(format!("{folder}/{path}"), text)]);
        check(folder, &sources).iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn assert_found(findings: &[String], parts: &[&str]) {
        assert_eq!(findings.len(), parts.len(), "{findings:#?}");
        for (finding, part) in findings.iter().zip(parts) {
            assert!(finding.contains(part), "{finding} lacks {part}");
        }
    }

    #[test]
    fn the_world_is_found_in_sans_io_crates() {
        let text = "use std::time::Instant;\nuse std::{fmt, fs, net::{IpAddr, TcpStream}};\nfn f() {\n\
                    let t = Instant :: now();\n    std::fs::read(\"x\");\n std::time::SystemTime::now();\n}\n";
        assert_found(
            &found("agent/core", "src/lib.rs", text),
            &[
                "agent/core/src/lib.rs:2: sans-IO: `std::fs`",
                "agent/core/src/lib.rs:2: sans-IO: `TcpStream`",
                "agent/core/src/lib.rs:4: sans-IO: `Instant::now`",
                "agent/core/src/lib.rs:5: sans-IO: `std::fs`",
                "agent/core/src/lib.rs:6: sans-IO: `SystemTime::now`",
            ],
        );
    }

    #[test]
    fn a_group_within_a_group_is_put_together() {
        assert_found(
            &found(
                "protocol",
                "src/a.rs",
                "use {std::{io::{self, Read}, thread}, serde};",
            ),
            &["`std::thread`"],
        );
        assert_found(
            &found(
                "protocol",
                "src/a.rs",
                "use std::{io, net::IpAddr};\nuse other::{fs, env};",
            ),
            &[],
        );
    }

    #[test]
    fn words_tests_and_other_crates_are_let_be() {
        let text = "// Instant::now()\n/// `std::fs`\nconst A: &str = \"Instant::now TcpStream unsafe\";\n\
                    fn f(now: Instant) {}\n#[cfg(test)]\nmod tests { fn g() { Instant::now(); } }\n";
        assert_found(&found("protocol", "src/lib.rs", text), &[]);
        assert_found(
            &found("protocol", "tests/it/main.rs", "fn f() { Instant::now(); }"),
            &[],
        );
        assert_found(
            &found(
                "agent/daemon",
                "src/main.rs",
                "fn f() { Instant::now(); std::fs::read(1); }",
            ),
            &[],
        );
    }

    #[test]
    fn a_test_module_in_its_own_file_is_test_code() {
        let source = |path: &str, text: &str| Source::new(format!("protocol/src/{path}"), text);
        let sources = mark_test_modules(vec![
            source("lib.rs", "mod a;\n#[cfg(test)]\nmod model;"),
            source("a.rs", "#[cfg(test)]\nmod tests;"),
            source("a/tests.rs", "fn f() { Instant::now(); }"),
            source("model/deep.rs", "fn f() { Instant::now(); }"),
            source("models.rs", "fn f() { Instant::now(); }"),
            source("tests_of_a.rs", "fn f() { Instant::now(); }"),
        ]);
        let findings: Vec<String> = check("protocol", &sources)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_found(
            &findings,
            &["protocol/src/models.rs:1", "protocol/src/tests_of_a.rs:1"],
        );
    }

    #[test]
    fn unsafe_is_found_outside_its_rooms_tests_included() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn g() { unsafe { x() } } }\n#[allow(unsafe_code)]\nfn b() {}\n";
        assert_found(
            &found("registry/store", "src/lib.rs", text),
            &["registry/store/src/lib.rs:3: `unsafe`"],
        );
        for folder in UNSAFE_ALLOWED {
            assert_found(&found(folder, "src/lib.rs", text), &[]);
        }
    }

    #[test]
    fn empty_names_and_mod_files_are_found() {
        assert_found(
            &found("platform", "src/a/mod.rs", "fn a() {}"),
            &["platform/src/a/mod.rs:1: a module's file"],
        );
        assert_found(
            &found(
                "platform",
                "src/lib.rs",
                "mod paths;\npub(crate) mod utils;\nmod helpers { }\n// mod misc;\n",
            ),
            &[
                "platform/src/lib.rs:2: a module named `utils`",
                "platform/src/lib.rs:3: a module named `helpers`",
            ],
        );
    }

    #[test]
    fn sources_are_read_from_disk_without_build_output() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "crate/src/a/b.rs",
            "crate/target/debug/c.rs",
            "crate/node_modules/d.rs",
            "crate/src/e.txt",
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "mod utils;\n").unwrap();
        }
        let findings = check("crate", &of_member(root.path(), "crate"));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "crate/src/a/b.rs:1");
    }

    #[test]
    fn large_files_are_counted_without_tests_and_comments() {
        let code = |lines: usize| "fn a() {}\n".repeat(lines);
        let text = format!(
            "{}// x\n\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            code(400),
            code(100)
        );
        assert!(large(&[Source::new("p/src/a.rs".into(), &text)]).is_empty());
        let sources = [Source::new("p/src/b.rs".into(), &format!("fn b() {{}}\n{text}"))];
        assert_eq!(large(&sources), [("p/src/b.rs", 401)]);
    }
}
