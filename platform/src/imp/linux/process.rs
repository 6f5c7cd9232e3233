//! Processes by `/proc` (proc(5)), signals by pidfd.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, PidfdFlags, pidfd_open, pidfd_send_signal};
use zeroize::Zeroizing;

use crate::imp::unix::process::{kill, raw_pid, raw_signal};
pub(crate) use crate::imp::unix::process::{raise_file_limit, reap, user_id};
use crate::process::{Entry, ProcessId, Signal};

/// Buffers for an environment: nearly all fit into the first; the second is more than what the kernel lets a
/// process start with under the default stack limit (2 MiB).
const ENVIRONMENT_BUFFERS: [usize; 2] = [64 << 10, 4 << 20];

pub(crate) fn let_go_of_code() -> io::Result<()> {
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        if let Some((begin, length)) = code_of_a_file(line) {
            forget(begin, length)?;
        }
    }
    Ok(())
}

/// Begin and length of a mapping, if it is code of a file and nobody may have written to it (proc(5)).
fn code_of_a_file(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let is_code = words.next() == Some("r-xp");
    // Offset, device and inode come before the path.
    let is_of_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (begin, end) = (address(begin)?, address(end)?);
    (is_code && is_of_file).then_some((begin, end.checked_sub(begin)?))
}

#[expect(unsafe_code, reason = "there is no safe wrapper for madvise(2)")]
fn forget(begin: usize, length: usize) -> io::Result<()> {
    // SAFETY: the range is a private mapping of a file that cannot be written through and was not, as code is not here: what
    // is read there again is the file's, byte for byte what it was. The pages come back by themselves, this code's too.
    let result = unsafe { libc::madvise(begin as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(crate) fn look_up(pid: u32) -> io::Result<Option<Entry>> {
    if raw_pid(pid).is_none() {
        return Ok(None);
    }
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => match parse_stat(&text) {
            Some(entry) => Ok(Some(entry)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{pid}/stat is malformed"),
            )),
        },
        // ESRCH: it ended between opening and reading. Where /proc itself is missing nothing can be told.
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::metadata("/proc/self/stat")?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn table() -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for folder in std::fs::read_dir("/proc")? {
        let name = folder?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that cannot be looked up is gone or hidden from this user.
        if let Ok(Some(entry)) = look_up(pid) {
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// Parses `/proc/<pid>/stat`. The second field is the program's name in parentheses, and may itself hold spaces and
/// parentheses, so the numbers are counted from the last closing one.
fn parse_stat(text: &[u8]) -> Option<Entry> {
    let text = String::from_utf8_lossy(text);
    let (head, tail) = text.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // `fields[0]` is field 3 of proc_pid_stat(5).
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    // Field 6 is -1 or 0 for some kernel threads.
    let small = |field: usize| Some(u32::try_from(fields.get(field - 3)?.parse::<i64>().ok()?).unwrap_or(0));
    Some(Entry {
        id: ProcessId {
            pid,
            start_time: number(22)?,
        },
        parent: small(4)?,
        group: small(5)?,
        session: small(6)?,
        zombie: matches!(*fields.first()?, "Z" | "X" | "x"),
    })
}

pub(crate) fn send(id: &ProcessId, signal: Signal) -> io::Result<bool> {
    let Some(pid) = raw_pid(id.pid) else {
        return Ok(false);
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Some(pidfd),
        Err(Errno::SRCH) => return Ok(false),
        // Kernels before 5.3, and sandboxes that do not know the call: by number, with a moment in between.
        Err(Errno::NOSYS | Errno::PERM) => None,
        Err(errno) => return Err(errno.into()),
    };
    // The pidfd holds on to whoever had the number when it was opened; if the start time agrees now, it is the one.
    if look_up(id.pid)?.map(|entry| entry.id) != Some(*id) {
        return Ok(false);
    }
    let Some(pidfd) = pidfd else {
        return kill(pid, signal);
    };
    match pidfd_send_signal(&pidfd, raw_signal(signal)) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn carries(id: &ProcessId, name: &OsStr, value: &OsStr) -> Option<bool> {
    for capacity in ENVIRONMENT_BUFFERS {
        let file = std::fs::File::open(format!("/proc/{}/environ", id.pid)).ok()?;
        // Checked after opening: the open file stays with the process that had the number then.
        if look_up(id.pid).ok()?.map(|entry| entry.id) != Some(*id) {
            return None;
        }
        // Its full capacity from the start: a buffer that grows leaves a copy behind.
        let mut environment = Zeroizing::new(Vec::with_capacity(capacity));
        file.take(capacity as u64).read_to_end(&mut environment).ok()?;
        if environment.len() < capacity {
            return Some(holds(&environment, name.as_bytes(), value.as_bytes()));
        }
    }
    None
}

fn holds(environment: &[u8], name: &[u8], value: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|variable| {
        variable
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(b"="))
            == Some(value)
    })
}

pub(crate) fn become_subreaper() -> io::Result<bool> {
    // Any number but zero turns it on.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(true)
}

pub(crate) fn set_non_dumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(
        DumpableBehavior::NotDumpable,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_an_awkward_name() {
        let text = b"4711 (a) R 1 2 (b)) S 20 30 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 9 10\n";
        let entry = parse_stat(text).unwrap();
        assert_eq!(
            entry.id,
            ProcessId {
                pid: 4711,
                start_time: 987_654
            }
        );
        assert_eq!(
            (entry.parent, entry.group, entry.session, entry.zombie),
            (20, 30, 40, false)
        );
    }

    #[test]
    fn stat_of_a_zombie_and_of_a_kernel_thread() {
        let text = b"2 (kthreadd) Z 0 0 -1 0 -1 1 0 0 0 0 0 0 0 0 20 0 1 0 12 0 0";
        let entry = parse_stat(text).unwrap();
        assert!(entry.zombie);
        assert_eq!(entry.session, 0);
    }

    #[test]
    fn stat_cut_short_is_nothing() {
        let whole = b"1 (init) S 0 1 1 0 -1 1 0 0 0 0 0 0 0 0 20 0 1 0 12 0 0";
        for length in 0..whole.len() - 6 {
            assert_eq!(parse_stat(&whole[..length]), None, "{length}");
        }
        assert!(parse_stat(whole).is_some());
    }

    #[test]
    fn code_is_let_go_of_and_runs_again() {
        let resident_code = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let (mut is_code, mut sum) = (false, 0_u64);
            for line in smaps.lines() {
                if let Some(resident) = line.strip_prefix("Rss:").filter(|_| is_code) {
                    sum += resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
                } else if line.contains('-') && !line.starts_with(char::is_uppercase) {
                    is_code = code_of_a_file(line).is_some();
                }
            }
            sum
        };
        let before = resident_code();
        let_go_of_code().unwrap();
        let after = resident_code();
        assert!(after < before, "{before} KiB before, {after} KiB after");
        assert_eq!(parse_stat(b"1 (init) S 0 1"), None);
    }

    #[test]
    fn only_code_of_files_is_let_go_of() {
        let code = "55d0a0000000-55d0a0002000 r-xp 00001000 fd:00 131 /usr/bin/an app";
        assert_eq!(code_of_a_file(code), Some((0x55d0_a000_0000, 0x2000)));
        for other in [
            "55d0a0000000-55d0a0002000 r--p 00000000 fd:00 131 /usr/bin/app",
            "55d0a0000000-55d0a0002000 rw-p 00000000 fd:00 131 /usr/bin/app",
            "7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0 [vdso]",
            "7f0000000000-7f0000002000 r-xp 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(code_of_a_file(other), None, "{other}");
        }
    }

    #[test]
    fn non_dumpable_hides_this_process_from_its_own_user() {
        set_non_dumpable().unwrap();
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
        // Back, so that other tests of this process can be debugged.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
    }
}
