//! Secrets stand in private files, and in no argv and no log.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::demo::Demo;
use crate::fleet::{Fleet, PSK};
use crate::processes;

#[test]
fn no_argv_of_the_demo_ever_holds_a_secret() {
    if !processes::shown() {
        return;
    }
    let mut demo = Demo::start(&[]);
    let root = demo.pid();
    let enough = AtomicBool::new(false);
    let (seen, secrets) = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !enough.load(Ordering::Relaxed) {
                seen.extend(processes::tree(root).into_iter().map(processes::command_line));
            }
            seen
        });
        demo.wait_until_healthy();
        let secrets = secrets_of(&demo.folder());
        processes::send(root, Signal::SIGTERM);
        demo.end();
        enough.store(true, Ordering::Relaxed);
        (sampler.join().unwrap(), secrets)
    });

    for part in ["serve", "join -", "run", "provisionerd start"] {
        assert!(
            seen.iter().any(|line| line.contains(part)),
            "never saw `{part}` in {seen:#?}"
        );
    }
    assert!(
        secrets.len() >= 4,
        "the PSK and the keys of device and registry: {}",
        secrets.len()
    );
    for line in &seen {
        assert!(!line.contains("orfe1-"), "a join code in argv: {line}");
        for (file, secret) in &secrets {
            assert!(
                !line.contains(secret.as_str()),
                "the content of {} in argv: {line}",
                file.display()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_psk_stands_in_private_files_and_in_no_log() {
    let fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;

    let mut holders = Vec::new();
    for file in files(&fleet.path(".")) {
        let content = std::fs::read(&file).unwrap_or_default();
        if contains(&content, PSK.as_bytes()) {
            assert_eq!(mode(&file), 0o600, "{} holds the PSK", file.display());
            holders.push(file);
        }
    }

    assert!(
        holders.iter().any(|file| file.ends_with("state/desired.json")),
        "{holders:?}"
    );
    for holder in &holders {
        let log = holder
            .extension()
            .is_some_and(|end| end == "log" || end == "stdout" || end == "stderr");
        assert!(!log, "{} is a log and holds the PSK", holder.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_files_are_private() {
    let fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;

    for root in ["state", "registry"] {
        let root = fleet.path(root);
        assert_eq!(mode(&root), 0o700, "{}", root.display());
        let own = files(&root).into_iter().filter(|file| !in_a_slot(file));
        let own: Vec<PathBuf> = own.collect();
        assert!(own.len() >= 4, "{own:?}");
        for file in own {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    }
}

/// Contents of the files in the demo's folder that hold one secret each, and the file.
fn secrets_of(folder: &Path) -> Vec<(PathBuf, String)> {
    files(folder)
        .into_iter()
        .filter(|file| {
            file.file_name().is_some_and(|name| name == "psk")
                || file.extension().is_some_and(|end| end == "key")
        })
        .filter_map(|file| {
            let text = std::fs::read_to_string(&file).ok()?.trim().to_owned();
            (text.len() >= 16).then_some((file, text))
        })
        .collect()
}

/// What the provisioner itself writes has the modes that it chooses; the folder around it is private.
fn in_a_slot(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "slots")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().filter_map(Result::ok) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    content.windows(needle.len()).any(|window| window == needle)
}
