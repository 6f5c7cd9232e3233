//! Runs every target over its part of the committed corpus.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::{Path, PathBuf};

use orfe_replay::TARGETS;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

#[test]
fn what_was_found_once_stays_mended() {
    for (name, target) in TARGETS {
        let folder = corpus(name);
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(files.len() >= 5, "{name}: {} inputs are no corpus", files.len());
        for file in files {
            println!("{}", file.display());
            target(&std::fs::read(&file).unwrap());
        }
    }
}

#[test]
fn every_target_is_fuzzed_and_no_other() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is missing"
        );
    }
    // `cargo xtask test` takes its list from this folder.
    let mut files: Vec<String> = std::fs::read_dir(fuzz.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut names: Vec<String> = TARGETS.iter().map(|(name, _)| format!("{name}.rs")).collect();
    names.sort();
    assert_eq!(files, names);
}

/// The corpus again and again: whatever an input leaves behind would add up.
#[cfg(target_os = "linux")]
#[test]
fn nothing_grows() {
    const ROUNDS: usize = 100;
    const ALLOWED_KIB: u64 = 8 * 1024;
    let inputs: Vec<_> = TARGETS
        .iter()
        .flat_map(|(name, target)| {
            let files = std::fs::read_dir(corpus(name)).unwrap();
            files.map(|entry| (*target, std::fs::read(entry.unwrap().path()).unwrap()))
        })
        .collect();
    let all = || inputs.iter().for_each(|(target, bytes)| target(bytes));
    // Allocators and lazy statics take theirs first.
    (0..ROUNDS / 4).for_each(|_| all());
    let before = resident_kib();
    (0..ROUNDS).for_each(|_| all());
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < ALLOWED_KIB, "{grown} KiB more after {ROUNDS} rounds");
}

#[cfg(target_os = "linux")]
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
