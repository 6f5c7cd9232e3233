//! Looking at the machine's processes through `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Whether this system shows its processes in `/proc`; a test that needs it says that it is skipped.
pub(crate) fn shown() -> bool {
    let shown = Path::new("/proc/self/environ").exists();
    if !shown {
        eprintln!("SKIPPED: this system has no /proc");
    }
    shown
}

/// Pids of the processes that were started with something inside `folder` in their environment.
pub(crate) fn of_folder(folder: &Path) -> Vec<u32> {
    let needle = format!("={}/", folder.display()).into_bytes();
    all()
        .into_iter()
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.windows(needle.len()).any(|window| window == needle)
        })
        .filter(|&pid| !is_zombie(pid))
        .collect()
}

/// Pids of `root` and of everything below it.
pub(crate) fn tree(root: u32) -> BTreeSet<u32> {
    let parents: BTreeMap<u32, u32> = all()
        .into_iter()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut tree = BTreeSet::from([root]);
    loop {
        let below: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| tree.contains(parent) && !tree.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if below.is_empty() {
            return tree;
        }
        tree.extend(below);
    }
}

/// A process that was seen once, told from a later one with the same pid by the moment of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pid: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl Seen {
    pub(crate) fn pid(self) -> u32 {
        self.pid
    }

    /// Whether that very process still runs.
    pub(crate) fn runs(self) -> bool {
        started(self.pid) == Some(self.started) && !is_zombie(self.pid)
    }
}

/// `root` and everything below it, those too that have no environment to be known by.
pub(crate) fn seen_tree(root: u32) -> Vec<Seen> {
    tree(root)
        .into_iter()
        .filter_map(|pid| {
            Some(Seen {
                pid,
                started: started(pid)?,
            })
        })
        .collect()
}

/// The argv of a process, joined by spaces; empty when it has ended.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// SIGKILL, to a process that the test started or that belongs to one.
pub(crate) fn kill_9(pid: u32) {
    send(pid, Signal::SIGKILL);
}

pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).unwrap();
    assert!(pid > 1);
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn all() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    after_name(pid)?.split(' ').nth(1)?.parse().ok()
}

/// Field 22 of `/proc/PID/stat`; the state is field 3.
fn started(pid: u32) -> Option<u64> {
    after_name(pid)?.split(' ').nth(19)?.parse().ok()
}

fn is_zombie(pid: u32) -> bool {
    after_name(pid).is_some_and(|rest| rest.starts_with('Z'))
}

/// `/proc/PID/stat` from the state on; the name before it may hold spaces and parentheses.
fn after_name(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}
