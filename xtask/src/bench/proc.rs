//! Readings of Linux's `/proc`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A process of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process(pub(super) u32);

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) rss_bytes: u64,
    /// The most it ever was.
    pub(super) peak_rss_bytes: u64,
    /// CPU time of all threads that live now.
    pub(super) cpu_ns: u64,
    /// Voluntary context switches of all threads that live now.
    pub(super) wakeups: u64,
}

impl Process {
    pub(super) fn read(self) -> Result<Reading> {
        let folder = PathBuf::from(format!("/proc/{}", self.0));
        let mut reading = Reading {
            rss_bytes: field(&folder.join("status"), "VmRSS:")? * 1024,
            peak_rss_bytes: field(&folder.join("status"), "VmHWM:")? * 1024,
            cpu_ns: 0,
            wakeups: 0,
        };
        for task in std::fs::read_dir(folder.join("task")).context("the process is gone")? {
            let task = task?.path();
            let Ok(schedstat) = std::fs::read_to_string(task.join("schedstat")) else {
                // The thread has ended since it was listed.
                continue;
            };
            let running = schedstat.split(' ').next().context("an empty schedstat")?;
            reading.cpu_ns += running.parse::<u64>().context("an odd schedstat")?;
            reading.wakeups += field(&task.join("status"), "voluntary_ctxt_switches:").unwrap_or_default();
        }
        Ok(reading)
    }

    /// Voluntary context switches of the threads that live now, by name and number: which thread wakes.
    pub(super) fn wakeups_by_thread(self) -> Result<BTreeMap<String, u64>> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0)).context("the process is gone")?;
        let mut wakeups = BTreeMap::new();
        for task in tasks {
            let task = task?;
            // The thread may have ended since it was listed.
            let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else {
                continue;
            };
            let Ok(switches) = field(&task.path().join("status"), "voluntary_ctxt_switches:") else {
                continue;
            };
            let name = format!("{} {}", name.trim_end(), task.file_name().display());
            wakeups.insert(name, switches);
        }
        Ok(wakeups)
    }

    /// The helper that keeps an agent's private network namespace, if it has one.
    pub(super) fn helper(self) -> Option<Self> {
        let is_helper = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(b"namespace-helper"))
        };
        children(self.0).into_iter().find(is_helper).map(Self)
    }

    /// The sum over an agent and its namespace helper: what the agent takes, its provisioners aside.
    pub(super) fn read_with_helper(self) -> Result<Reading> {
        let mut sum = self.read()?;
        if let Some(helper) = self.helper() {
            sum.add(&helper.read()?);
        }
        Ok(sum)
    }

    /// The sum over the process and what it has started, as far as that still runs.
    pub(super) fn read_with_children(self) -> Result<Reading> {
        let mut sum = self.read()?;
        for child in children(self.0) {
            // It may have ended since.
            if let Ok(reading) = Process(child).read_with_children() {
                sum.add(&reading);
            }
        }
        Ok(sum)
    }
}

impl Reading {
    fn add(&mut self, other: &Self) {
        self.rss_bytes += other.rss_bytes;
        self.peak_rss_bytes += other.peak_rss_bytes;
        self.cpu_ns += other.cpu_ns;
        self.wakeups += other.wakeups;
    }
}

/// The processes that any thread of `pid` has started and that still run.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// Segments that the TCP of the process's network namespace has sent again so far.
pub(super) fn resent_segments(pid: u32) -> Option<u64> {
    parse_resent(&std::fs::read_to_string(format!("/proc/{pid}/net/snmp")).ok()?)
}

/// `RetransSegs` of `/proc/net/snmp`: a line of names, and below it one of numbers.
pub(super) fn parse_resent(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let column = names.split_whitespace().position(|name| name == "RetransSegs")?;
    numbers.split_whitespace().nth(column)?.parse().ok()
}

/// The first number of the line that begins with `name`.
fn field(file: &Path, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("no {name}"))?;
    let number = line
        .split_whitespace()
        .next()
        .with_context(|| format!("an empty {name}"))?;
    number.parse().with_context(|| format!("an odd {name} {number}"))
}

/// Processor, cores and kernel, in words.
pub(super) fn machine() -> Result<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("an unknown processor", |rest| {
            rest.trim_start_matches(['\t', ' ', ':'])
        });
    let cores = std::thread::available_parallelism().context("cannot count cores")?;
    let kernel =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    Ok(format!("{model}, {cores} cores, Linux {}", kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resent_segments_are_found_by_their_name() {
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoMin OutSegs RetransSegs InErrs\nTcp: 200 17 4 0\n";
        assert_eq!(parse_resent(snmp), Some(4));
        assert_eq!(parse_resent("Tcp: OutSegs\nTcp: 17\n"), None);
    }

    #[test]
    fn this_process_is_read() {
        let reading = Process(std::process::id()).read_with_children().unwrap();
        assert!(reading.rss_bytes > 0 && reading.peak_rss_bytes >= reading.rss_bytes);
    }
}
