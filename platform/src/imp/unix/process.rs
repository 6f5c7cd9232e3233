//! Signals and waiting, the same on Linux and macOS.

use std::io;

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal as Raw, WaitOptions, getrlimit, kill_process, setrlimit, waitpid,
};

use crate::process::Signal;

pub(crate) fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// `None` for numbers that no process can have; 0 and negative ones mean groups to the system.
pub(crate) fn raw_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

pub(crate) fn raw_signal(signal: Signal) -> Raw {
    match signal {
        Signal::Terminate => Raw::TERM,
        Signal::Interrupt => Raw::INT,
        Signal::Kill => Raw::KILL,
    }
}

/// Sends a signal by number; the caller has checked who it is.
pub(crate) fn kill(pid: Pid, signal: Signal) -> io::Result<bool> {
    match kill_process(pid, raw_signal(signal)) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn raise_file_limit(wanted: u64) -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if current.is_none_or(|current| current >= raised) {
        return Ok(current);
    }
    let limit = Rlimit {
        current: Some(raised),
        maximum,
    };
    setrlimit(Resource::Nofile, limit)?;
    Ok(Some(raised))
}

pub(crate) fn reap(pid: u32) -> io::Result<bool> {
    let Some(pid) = raw_pid(pid) else { return Ok(false) };
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(waited) => Ok(waited.is_some()),
        Err(Errno::CHILD) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
