//! Who depends on whom: edges among our crates, and what the sans-IO crates pull in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::Finding;
use crate::workspace::{Graph, Member};

/// Crates that decide and never act.
pub(crate) const SANS_IO: &[&str] = &["protocol", "tunnel/core", "agent/core"];

/// The crate that every other may use in its tests.
const TEST_SUPPORT: &str = "tests/support";

/// Edges of crates that are planned and stand in no table yet: how they may be joined when they come.
const PLANNED: &[(&str, &str)] = &[
    ("agent/daemon", "installer"),
    ("installer", "platform"),
    ("installer", "protocol"),
    ("registry/server", "deployment"),
];

/// Packages that do I/O, run tasks, or read clocks. A sans-IO crate must not reach any of them.
const RUNTIMES: &[&str] = &[
    "async-io",
    "async-std",
    "axum",
    "fs-err",
    "hyper",
    "hyper-util",
    "mio",
    "polling",
    "quinn",
    "reqwest",
    "smol",
    "socket2",
    "sqlx",
    "sysinfo",
    "tokio",
    "tokio-rustls",
    "tokio-tungstenite",
    "tokio-util",
    "tungstenite",
];

/// Edges among our crates that nothing allows: normal, build and dev dependencies alike.
pub(crate) fn check(members: &[Member], allowed: &BTreeSet<(String, String)>) -> Vec<Finding> {
    let folders: BTreeMap<&str, &str> = members
        .iter()
        .map(|m| (m.name.as_str(), m.folder.as_str()))
        .collect();
    let mut findings = Vec::new();
    for member in members.iter().filter(|member| !may_use_any(&member.folder)) {
        for dependency in &member.dependencies {
            let Some(to) = folders.get(dependency.name.as_str()) else {
                continue;
            };
            let is_allowed = (dependency.is_dev && *to == TEST_SUPPORT)
                || allowed.contains(&(member.folder.clone(), (*to).to_owned()))
                || PLANNED.contains(&(member.folder.as_str(), *to));
            if !is_allowed {
                let rule = format!(
                    "`{}` must not depend on `{to}`; see \"Allowed edges\"",
                    member.folder
                );
                findings.push(Finding::new(
                    &manifest(member),
                    member.line_of(&dependency.name),
                    rule,
                ));
            }
        }
    }
    findings
}

fn may_use_any(folder: &str) -> bool {
    folder == "xtask" || folder.starts_with("tests/")
}

fn manifest(member: &Member) -> String {
    format!("{}/Cargo.toml", member.folder)
}

/// Runtimes that a sans-IO crate reaches through its normal dependencies, with the shortest way to each.
pub(crate) fn check_sans_io(members: &[Member], graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members
        .iter()
        .filter(|member| SANS_IO.contains(&member.folder.as_str()))
    {
        for way in ways(&member.name, graph)
            .into_iter()
            .filter(|way| way.last().is_some_and(|end| is_runtime(end)))
        {
            let line = way.get(1).map_or(1, |first| member.line_of(first));
            let rule = format!("sans-IO: no I/O or runtime in here, but {}", way.join(" → "));
            findings.push(Finding::new(&manifest(member), line, rule));
        }
    }
    findings
}

fn is_runtime(name: &str) -> bool {
    RUNTIMES.contains(&name)
}

/// The shortest way from a package to each that it reaches, not going on behind a runtime: one finding is enough.
fn ways<'a>(start: &'a str, graph: &'a Graph) -> Vec<Vec<&'a str>> {
    let mut seen = BTreeSet::from([start]);
    let mut queue = VecDeque::from([vec![start]]);
    let mut ways = Vec::new();
    while let Some(way) = queue.pop_front() {
        let here = way.last().copied().unwrap_or(start);
        for next in graph.get(here).into_iter().flatten() {
            if seen.insert(next) {
                let longer: Vec<&str> = way.iter().copied().chain([next.as_str()]).collect();
                ways.push(longer.clone());
                if !is_runtime(next) {
                    queue.push_back(longer);
                }
            }
        }
    }
    ways
}

mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn member(name: &str, folder: &str, normal: &[&str], dev: &[&str]) -> Member {
        let lines = |names: &[&str]| {
            names
                .iter()
                .fold(String::new(), |text, name| text + name + ".workspace = true\n")
        };
        let dependency = |is_dev| {
            move |name: &&str| Dependency {
                name: (*name).to_owned(),
                is_dev,
            }
        };
        Member {
            name: name.into(),
            folder: folder.into(),
            manifest: format!(
                "[package]\n[dependencies]\n{}[dev-dependencies]\n{}",
                lines(normal),
                lines(dev)
            ),
            dependencies: normal
                .iter()
                .map(dependency(false))
                .chain(dev.iter().map(dependency(true)))
                .collect(),
        }
    }

    fn found(members: &[Member]) -> Vec<String> {
        let allowed = BTreeSet::from([("agent/core".to_owned(), "protocol".to_owned())]);
        check(members, &allowed).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn allowed_edges_pass() {
        let members = [
            member("wire", "protocol", &["serde"], &["support"]),
            member("core", "agent/core", &["wire"], &["support", "wire"]),
            member("support", "tests/support", &["core", "wire"], &[]),
            member("xtask", "xtask", &["core", "support"], &[]),
            member("installer", "installer", &["wire"], &[]),
        ];
        assert_eq!(found(&members), [""; 0]);
    }

    #[test]
    fn forbidden_edges_are_found_in_every_section() {
        let members = [
            member("wire", "protocol", &["core"], &[]),
            member("core", "agent/core", &["wire", "support"], &["store"]),
            member("store", "registry/store", &[], &["core"]),
            member("support", "tests/support", &[], &[]),
        ];
        let rule =
            |from: &str, to: &str| format!("`{from}` must not depend on `{to}`; see \"Allowed edges\"");
        assert_eq!(
            found(&members),
            [
                format!("protocol/Cargo.toml:3: {}", rule("protocol", "agent/core")),
                format!("agent/core/Cargo.toml:4: {}", rule("agent/core", "tests/support")),
                format!(
                    "agent/core/Cargo.toml:6: {}",
                    rule("agent/core", "registry/store")
                ),
                format!(
                    "registry/store/Cargo.toml:4: {}",
                    rule("registry/store", "agent/core")
                ),
            ]
        );
    }

    #[test]
    fn a_runtime_is_found_behind_other_packages_and_only_in_sans_io_crates() {
        let members = [
            member("core", "agent/core", &["serde", "middle"], &["tokio"]),
            member("daemon", "agent/daemon", &["tokio"], &[]),
        ];
        let edges = [
            ("core", vec!["serde", "middle"]),
            ("middle", vec!["deep", "serde"]),
            ("deep", vec!["tokio"]),
            ("tokio", vec!["mio", "middle"]),
            ("daemon", vec!["tokio"]),
        ];
        let graph: Graph = edges
            .into_iter()
            .map(|(from, to)| (from.into(), to.into_iter().map(Into::into).collect()))
            .collect();
        assert_eq!(
            check_sans_io(&members, &graph)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["agent/core/Cargo.toml:4: sans-IO: no I/O or runtime in here, but core → middle → deep → tokio",]
        );
    }
}
