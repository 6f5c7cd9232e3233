//! Readings of Linux's `/proc`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A process of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process(pub(super) u32);

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) rss_bytes: u64,
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
            cpu_ns: 0,
            wakeups: 0,
        };
        for task in std::fs::read_dir(folder.join("task")).context("the process is gone")? {
            let task = task?.path();
            let schedstat = std::fs::read_to_string(task.join("schedstat")).context("no schedstat")?;
            let running = schedstat.split(' ').next().context("an empty schedstat")?;
            reading.cpu_ns += running.parse::<u64>().context("an odd schedstat")?;
            reading.wakeups += field(&task.join("status"), "voluntary_ctxt_switches:")?;
        }
        Ok(reading)
    }
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
