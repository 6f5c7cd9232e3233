//! Who a process is beyond its number, the table of all processes, and this machine.
//!
//! Numbers of processes are used again, so a process is known by its number *and* the time it started
//! ([`ProcessId`]); every function that acts on one checks both first. On Linux the check and the signal go through a
//! pidfd, which leaves no moment in between; elsewhere a moment of microseconds is left.
//!
//! | | Linux | macOS | Windows |
//! |---|---|---|---|
//! | start time | field 22 of `/proc/<pid>/stat`, clock ticks since boot | `proc_pidinfo`, µs since 1970 | `GetProcessTimes`, 100 ns since 1601 |
//! | table | `/proc` | `proc_listallpids` | toolhelp snapshot |
//! | [`Signal::Terminate`], [`Signal::Interrupt`] | yes | yes | no such thing: an error |
//! | [`carries`] | `/proc/<pid>/environ` | cannot tell | cannot tell |
//!
//! What can fail: the process is gone (never an error, always a value), it belongs to somebody else, or the process
//! file system is not mounted.

use std::ffi::OsStr;
use std::io;

use crate::imp;
pub use crate::machine::{boot_id, free_space, hostname, machine_id};

/// Why a question about processes, or about this machine, has no answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}{}", of_process(*pid))]
pub struct ProcessError {
    /// What was being done, as a verb.
    pub action: &'static str,
    /// The process in question, where it was about one.
    pub pid: Option<u32>,
    /// What the system said.
    pub source: io::Error,
}

impl ProcessError {
    pub(crate) fn new(action: &'static str, pid: Option<u32>, source: io::Error) -> Self {
        Self { action, pid, source }
    }
}

fn of_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// A process that cannot be mistaken for a later one with the same number, within one boot.
///
/// To recognise it after a restart of the agent, keep [`boot_id`] beside it: start times begin anew with each boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// The process's number.
    pub pid: u32,
    /// When it started, in the system's own unit. Only for comparing.
    pub start_time: u64,
}

/// A row of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The process.
    pub id: ProcessId,
    /// The number of its parent: who it is handed to when the first one dies, on Unix.
    pub parent: u32,
    /// The number of its process group; 0 on Windows.
    pub group: u32,
    /// The number of its session; 0 on Windows.
    pub session: u32,
    /// Whether it has ended, and only waits for its parent to take notice.
    pub zombie: bool,
}

/// What [`send`] asks of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`.
    Terminate,
    /// `SIGINT`.
    Interrupt,
    /// `SIGKILL`, or `TerminateProcess`.
    Kill,
}

/// This process.
pub fn current() -> Result<ProcessId, ProcessError> {
    let pid = std::process::id();
    identify(pid)?.ok_or_else(|| {
        ProcessError::new(
            "find this process in the process table",
            Some(pid),
            io::ErrorKind::NotFound.into(),
        )
    })
}

/// The numeric id of the effective user; 0 on Windows.
pub fn user_id() -> u32 {
    imp::process::user_id()
}

/// Lets this process open `wanted` files at once, or as many as the system lets it, if that is more than now. Most systems
/// begin with 1024 for the sake of programs that use select(2); children inherit what is set here.
///
/// Gives how many it may open now; `None` where there is no limit.
pub fn raise_file_limit(wanted: u64) -> Result<Option<u64>, ProcessError> {
    imp::process::raise_file_limit(wanted)
        .map_err(|source| ProcessError::new("raise the number of open files", None, source))
}

/// Takes the program's code out of this process's memory; what runs again is mapped again, from the system's cache where it
/// still is. For a process that has done nearly all it will ever do and lives on: what its start took is nobody's any more.
///
/// Data stays, and so does whatever was written. Nothing is done where that is not known to be possible.
pub fn let_go_of_code() -> Result<(), ProcessError> {
    imp::process::let_go_of_code().map_err(|source| ProcessError::new("let go of the code of", None, source))
}

/// The process that has the number `pid` now, a zombie too; `None` if there is none.
pub fn identify(pid: u32) -> Result<Option<ProcessId>, ProcessError> {
    Ok(look_up(pid)?.map(|entry| entry.id))
}

/// Whether it still runs. A zombie does not. Where it cannot be told (the process file system is gone) the answer is
/// yes, so that nothing is started beside it.
pub fn is_alive(id: &ProcessId) -> bool {
    match look_up(id.pid) {
        Ok(Some(entry)) => entry.id == *id && !entry.zombie,
        Ok(None) => false,
        Err(_) => true,
    }
}

/// All processes that this user can see. They come and go while the table is read: it is no snapshot.
pub fn table() -> Result<Vec<Entry>, ProcessError> {
    imp::process::table().map_err(|source| ProcessError::new("read the process table", None, source))
}

/// Sends a signal to exactly this process. `false` when it is not there any more.
pub fn send(id: &ProcessId, signal: Signal) -> Result<bool, ProcessError> {
    imp::process::send(id, signal).map_err(|source| ProcessError::new("send a signal", Some(id.pid), source))
}

/// Whether the environment that the process was started with holds `name=value`; `None` where that cannot be told:
/// it is gone, belongs to somebody else, or the system does not say.
///
/// An environment may hold secrets, so nothing else of it leaves this function, and the buffer is wiped.
pub fn carries(id: &ProcessId, name: &OsStr, value: &OsStr) -> Option<bool> {
    imp::process::carries(id, name, value)
}

/// Takes notice of a child that has ended, so that it leaves the process table. `false` when it is no zombie child of
/// this process.
///
/// Never for a child that somebody else waits for: their wait would fail.
pub fn reap(pid: u32) -> Result<bool, ProcessError> {
    imp::process::reap(pid).map_err(|source| ProcessError::new("reap a child", Some(pid), source))
}

/// From now on, orphans below this process become its children, not init's. `false` where the system has no such thing
/// (all but Linux).
pub fn become_subreaper() -> Result<bool, ProcessError> {
    imp::process::become_subreaper()
        .map_err(|source| ProcessError::new("become the reaper of orphans", None, source))
}

/// Closes this process's memory, descriptors and core dumps to other processes of the same user. Children are not
/// affected: executing a program opens them again. Nothing happens on macOS and Windows, which ask the
/// debugger's privileges instead.
pub fn set_non_dumpable() -> Result<(), ProcessError> {
    imp::process::set_non_dumpable()
        .map_err(|source| ProcessError::new("make this process non-dumpable", None, source))
}

fn look_up(pid: u32) -> Result<Option<Entry>, ProcessError> {
    imp::process::look_up(pid).map_err(|source| ProcessError::new("look up a process", Some(pid), source))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn this_process_is_alive_and_in_the_table() {
        let id = current().unwrap();
        assert_eq!(id.pid, std::process::id());
        assert!(is_alive(&id));
        let table = table().unwrap();
        let own = table.iter().find(|entry| entry.id == id).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        assert!(!own.zombie);
    }

    #[test]
    fn another_start_time_is_another_process() {
        let id = current().unwrap();
        let other = ProcessId {
            start_time: id.start_time + 1,
            ..id
        };
        assert!(!is_alive(&other));
        // Would end this test run if it were fooled.
        assert!(!send(&other, Signal::Kill).unwrap());
    }

    #[test]
    fn number_of_nobody() {
        // Above the highest number that Linux and macOS give.
        let pid = 0x7fff_fff0;
        assert_eq!(identify(pid).unwrap(), None);
        assert!(!is_alive(&ProcessId { pid, start_time: 1 }));
        assert!(!send(&ProcessId { pid, start_time: 1 }, Signal::Kill).unwrap());
        assert_eq!(identify(u32::MAX).unwrap(), None, "not even a valid number");
        assert_eq!(identify(0).unwrap(), None, "no group by mistake");
    }

    #[test]
    fn signal_reaches_the_process_and_a_zombie_is_not_alive() {
        let mut child = sleeper(&[]);
        let id = identify(child.id()).unwrap().unwrap();
        assert!(is_alive(&id));
        assert!(send(&id, Signal::Terminate).unwrap());
        wait_until(|| !is_alive(&id));
        let table = table().unwrap();
        assert!(
            table.iter().any(|entry| entry.id == id && entry.zombie),
            "nobody waited for it yet"
        );
        assert_eq!(child.wait().unwrap().signal(), Some(15));
        assert_eq!(identify(id.pid).unwrap(), None);
    }

    #[expect(
        clippy::zombie_processes,
        reason = "reaped by number, which is what is tested"
    )]
    #[test]
    fn reaping_takes_zombie_children_only() {
        assert!(!reap(1).unwrap(), "no child of ours");
        let child = sleeper(&[]);
        let id = identify(child.id()).unwrap().unwrap();
        assert!(!reap(id.pid).unwrap(), "it runs");
        assert!(send(&id, Signal::Kill).unwrap());
        wait_until(|| !is_alive(&id));
        assert!(reap(id.pid).unwrap());
        assert_eq!(identify(id.pid).unwrap(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn environment_is_compared_whole() {
        let mut child = sleeper(&[("TMPDIR", "/state/slot-1"), ("OTHER", "TMPDIR=/no")]);
        let id = identify(child.id()).unwrap().unwrap();
        let ask = |name: &str, value: &str| carries(&id, OsStr::new(name), OsStr::new(value));
        // Between fork and exec the environment is still this process's own.
        wait_until(|| ask("TMPDIR", "/state/slot-1") == Some(true));
        assert_eq!(ask("TMPDIR", "/state/slot-"), Some(false));
        assert_eq!(ask("TMPDIR", "/no"), Some(false));
        assert_eq!(ask("MPDIR", "/state/slot-1"), Some(false));
        let reused = ProcessId {
            start_time: id.start_time + 1,
            ..id
        };
        assert_eq!(
            carries(&reused, OsStr::new("TMPDIR"), OsStr::new("/state/slot-1")),
            None
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn sleeper(env: &[(&str, &str)]) -> Child {
        Command::new("sleep")
            .arg("600")
            .env_clear()
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn wait_until(mut condition: impl FnMut() -> bool) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !condition() {
            assert!(std::time::Instant::now() < end, "not within 10 s");
            std::thread::yield_now();
        }
    }
}
