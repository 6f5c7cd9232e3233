//! Processes by handle and by the toolhelp snapshot.
#![expect(
    unsafe_code,
    reason = "the system's calls have no safe wrapper among our dependencies"
)]

use std::ffi::OsStr;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};

use windows_sys::Win32::Foundation::{
    ERROR_INVALID_PARAMETER, ERROR_NO_MORE_FILES, FILETIME, INVALID_HANDLE_VALUE, WAIT_OBJECT_0,
};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_ACCESS_RIGHTS, PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_SYNCHRONIZE, PROCESS_TERMINATE, TerminateProcess, WaitForSingleObject,
};

use crate::process::{Entry, ProcessId, Signal};

/// What an ended process is said to have returned.
const KILLED_EXIT_CODE: u32 = 1;

pub(crate) fn user_id() -> u32 {
    0
}

/// There is no such limit here.
#[expect(clippy::unnecessary_wraps, reason = "the signature of the other systems")]
pub(crate) fn raise_file_limit(_wanted: u64) -> io::Result<Option<u64>> {
    Ok(None)
}

/// The system does as it likes.
#[expect(clippy::unnecessary_wraps, reason = "the signature of the other systems")]
pub(crate) fn let_go_of_code() -> io::Result<()> {
    Ok(())
}

pub(crate) fn look_up(pid: u32) -> io::Result<Option<Entry>> {
    let Some(process) = open(pid, 0)? else {
        return Ok(None);
    };
    let Some(start_time) = running_since(&process)? else {
        return Ok(None);
    };
    Ok(Some(Entry {
        id: ProcessId { pid, start_time },
        parent: 0,
        group: 0,
        session: 0,
        zombie: false,
    }))
}

pub(crate) fn table() -> io::Result<Vec<Entry>> {
    // SAFETY: takes no pointers; the result is checked before it is owned.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    if snapshot == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is valid, and nobody else owns it.
    let snapshot = unsafe { OwnedHandle::from_raw_handle(snapshot.cast()) };
    // SAFETY: all fields are integers, for which zero is a value.
    let mut row: PROCESSENTRY32W = unsafe { std::mem::zeroed() };
    row.dwSize = size_of::<PROCESSENTRY32W>() as u32;
    // SAFETY: the handle is a snapshot, and `row` says its own size.
    let mut more = unsafe { Process32FirstW(snapshot.as_raw_handle().cast(), &raw mut row) };
    let mut entries = Vec::new();
    while more != 0 {
        // One that cannot be looked up is gone or the system's own.
        if let Ok(Some(entry)) = look_up(row.th32ProcessID) {
            entries.push(Entry {
                parent: row.th32ParentProcessID,
                ..entry
            });
        }
        // SAFETY: as above.
        more = unsafe { Process32NextW(snapshot.as_raw_handle().cast(), &raw mut row) };
    }
    let end = io::Error::last_os_error();
    if end.raw_os_error() == Some(ERROR_NO_MORE_FILES.cast_signed()) {
        drop_reused_parents(&mut entries);
        Ok(entries)
    } else {
        Err(end)
    }
}

/// The number of a parent stays in the table when the parent is gone, and somebody else may have it by now: a parent
/// that is younger than its child is none.
fn drop_reused_parents(entries: &mut [Entry]) {
    let known: std::collections::HashMap<u32, u64> = entries
        .iter()
        .map(|entry| (entry.id.pid, entry.id.start_time))
        .collect();
    for entry in entries {
        if known
            .get(&entry.parent)
            .is_some_and(|start_time| *start_time > entry.id.start_time)
        {
            entry.parent = 0;
        }
    }
}

pub(crate) fn send(id: &ProcessId, signal: Signal) -> io::Result<bool> {
    if signal != Signal::Kill {
        // A console event reaches a whole group, and the program cannot tell what is meant by it.
        return Err(io::ErrorKind::Unsupported.into());
    }
    let Some(process) = open(id.pid, PROCESS_TERMINATE)? else {
        return Ok(false);
    };
    if running_since(&process)? != Some(id.start_time) {
        return Ok(false);
    }
    // SAFETY: the handle is open, with the right to do this.
    if unsafe { TerminateProcess(process.as_raw_handle().cast(), KILLED_EXIT_CODE) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

fn open(pid: u32, more: PROCESS_ACCESS_RIGHTS) -> io::Result<Option<OwnedHandle>> {
    let rights = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE | more;
    // SAFETY: takes no pointers; the result is checked before it is owned.
    let handle = unsafe { OpenProcess(rights, 0, pid) };
    if handle.is_null() {
        let error = io::Error::last_os_error();
        // This is how the system says that nobody has the number.
        let nobody = error.raw_os_error() == Some(ERROR_INVALID_PARAMETER.cast_signed());
        return if nobody { Ok(None) } else { Err(error) };
    }
    // SAFETY: the handle is valid, and nobody else owns it.
    Ok(Some(unsafe { OwnedHandle::from_raw_handle(handle.cast()) }))
}

/// When it started, in 100 ns since 1601; `None` when it has ended and only handles keep its number.
fn running_since(process: &OwnedHandle) -> io::Result<Option<u64>> {
    // SAFETY: the handle is open with the right to wait; zero milliseconds do not block.
    if unsafe { WaitForSingleObject(process.as_raw_handle().cast(), 0) } == WAIT_OBJECT_0 {
        return Ok(None);
    }
    let zero = FILETIME {
        dwLowDateTime: 0,
        dwHighDateTime: 0,
    };
    let (mut created, mut exited, mut kernel, mut user) = (zero, zero, zero, zero);
    // SAFETY: the handle is open with the right to ask, and the four places live through the call.
    let done = unsafe {
        GetProcessTimes(
            process.as_raw_handle().cast(),
            &raw mut created,
            &raw mut exited,
            &raw mut kernel,
            &raw mut user,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some(
        u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime),
    ))
}

/// Reading another process's environment takes undocumented structures.
pub(crate) fn carries(_id: &ProcessId, _name: &OsStr, _value: &OsStr) -> Option<bool> {
    None
}

/// There are no zombies.
#[expect(clippy::unnecessary_wraps, reason = "the same signature on each system")]
pub(crate) fn reap(_pid: u32) -> io::Result<bool> {
    Ok(false)
}

#[expect(clippy::unnecessary_wraps, reason = "the same signature on each system")]
pub(crate) fn become_subreaper() -> io::Result<bool> {
    Ok(false)
}

#[expect(clippy::unnecessary_wraps, reason = "the same signature on each system")]
pub(crate) fn set_non_dumpable() -> io::Result<()> {
    Ok(())
}
