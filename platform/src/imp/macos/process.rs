//! Processes by libproc.
#![expect(unsafe_code, reason = "libproc has no safe wrapper among our dependencies")]

use std::ffi::OsStr;
use std::io;

use crate::imp::unix::process::{kill, raw_pid};
pub(crate) use crate::imp::unix::process::{raise_file_limit, reap, user_id};
use crate::process::{Entry, ProcessId, Signal};

/// The system does as it likes.
#[expect(clippy::unnecessary_wraps, reason = "the signature of the other systems")]
pub(crate) fn let_go_of_code() -> io::Result<()> {
    Ok(())
}

pub(crate) fn look_up(pid: u32) -> io::Result<Option<Entry>> {
    let Some(raw) = raw_pid(pid) else { return Ok(None) };
    let size = libc::c_int::try_from(size_of::<libc::proc_bsdinfo>()).map_err(io::Error::other)?;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut info: libc::proc_bsdinfo = unsafe { std::mem::zeroed() };
    // Argument 1 asks for zombies too.
    // SAFETY: the buffer is `size` bytes long and lives through the call.
    let filled = unsafe {
        libc::proc_pidinfo(
            raw.as_raw_nonzero().get(),
            libc::PROC_PIDTBSDINFO,
            1,
            (&raw mut info).cast(),
            size,
        )
    };
    if filled != size {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(None),
            _ => Err(error),
        };
    }
    let session = rustix::process::getsid(Some(raw)).map_or(0, |session| session.as_raw_nonzero().get());
    Ok(Some(Entry {
        id: ProcessId {
            pid,
            start_time: info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec,
        },
        parent: info.pbi_ppid,
        group: info.pbi_pgid,
        session: session.cast_unsigned(),
        zombie: info.pbi_status == libc::SZOMB,
    }))
}

pub(crate) fn table() -> io::Result<Vec<Entry>> {
    // SAFETY: a null buffer asks for the number of processes.
    let count = unsafe { libc::proc_listallpids(std::ptr::null_mut(), 0) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // Room for those that start in between.
    let mut pids = vec![0_i32; count + 64];
    let bytes = libc::c_int::try_from(pids.len() * size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: the buffer is `bytes` long and lives through the call.
    let filled = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast(), bytes) };
    let filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
    pids.truncate(filled);
    // One that cannot be looked up is gone or belongs to somebody else.
    Ok(pids
        .into_iter()
        .filter_map(|pid| look_up(u32::try_from(pid).ok()?).ok().flatten())
        .collect())
}

pub(crate) fn send(id: &ProcessId, signal: Signal) -> io::Result<bool> {
    let Some(pid) = raw_pid(id.pid) else {
        return Ok(false);
    };
    if look_up(id.pid)?.map(|entry| entry.id) != Some(*id) {
        return Ok(false);
    }
    kill(pid, signal)
}

/// The system shows environments by `KERN_PROCARGS2` only to root, and not those of protected programs.
pub(crate) fn carries(_id: &ProcessId, _name: &OsStr, _value: &OsStr) -> Option<bool> {
    None
}

#[expect(clippy::unnecessary_wraps, reason = "the same signature on each system")]
pub(crate) fn become_subreaper() -> io::Result<bool> {
    Ok(false)
}

#[expect(clippy::unnecessary_wraps, reason = "the same signature on each system")]
pub(crate) fn set_non_dumpable() -> io::Result<()> {
    Ok(())
}
