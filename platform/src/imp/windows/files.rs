//! Private folders and files by access control list.
//!
//! New ones get a list of their own that inherits nothing: the system, administrators and the owner have full access,
//! nobody else any. Existing ones are refused when a group that everybody is in has a place in their list.
#![expect(
    unsafe_code,
    reason = "the system's calls have no safe wrapper among our dependencies"
)]

use std::ffi::{OsStr, c_void};
use std::fs::File;
use std::io;
use std::os::windows::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _};
use std::path::Path;

use windows_sys::Win32::Foundation::{
    ERROR_ALREADY_EXISTS, GENERIC_READ, GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, DACL_SECURITY_INFORMATION, GetAce, IsWellKnownSid,
    PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES, WELL_KNOWN_SID_TYPE, WinAnonymousSid, WinAuthenticatedUserSid,
    WinBuiltinGuestsSid, WinBuiltinUsersSid, WinInteractiveSid, WinWorldSid,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_APPEND_DATA, FILE_ATTRIBUTE_NORMAL,
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_CREATION_DISPOSITION, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_READ, FILE_SHARE_WRITE, OPEN_ALWAYS,
};

use super::text::wide;
use crate::private::PrivateFileError;

/// SDDL: protected from inheritance; full access, handed down, for SYSTEM, administrators and the owner.
const FOLDER_LIST: &str = "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;OW)";
/// The same for a file.
const FILE_LIST: &str = "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)";

/// `ACCESS_ALLOWED_ACE_TYPE` of winnt.h.
const ALLOWED: u8 = 0;

/// Groups that hold everybody, or anybody who logs in.
const EVERYBODY: [(WELL_KNOWN_SID_TYPE, &str); 6] = [
    (WinWorldSid, "Everyone"),
    (WinAuthenticatedUserSid, "Authenticated Users"),
    (WinBuiltinUsersSid, "Users"),
    (WinBuiltinGuestsSid, "Guests"),
    (WinInteractiveSid, "Interactive"),
    (WinAnonymousSid, "Anonymous"),
];

/// The folder's own list of rights decides, as it was made or is there.
pub(crate) fn create_missing_dir(path: &Path) -> Result<(), PrivateFileError> {
    if path.is_dir() { Ok(()) } else { create_dir(path) }
}

/// The path: numbers of files are told by no safe function.
pub(crate) fn folder_id(path: &Path) -> io::Result<String> {
    Ok(std::fs::canonicalize(path)?.display().to_string())
}

pub(crate) fn create_dir(path: &Path) -> Result<(), PrivateFileError> {
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty() && !parent.exists())
    {
        create_dir(parent)?;
    }
    let created = with_list(FOLDER_LIST, |attributes| {
        let name = wide(path.as_os_str());
        // SAFETY: the name ends with zero, and the attributes live through the call.
        if unsafe { CreateDirectoryW(name.as_ptr(), attributes) } != 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let there = error.raw_os_error() == Some(ERROR_ALREADY_EXISTS.cast_signed());
        if there { Ok(()) } else { Err(error) }
    });
    created.map_err(|error| PrivateFileError::new("create", path, error))?;
    let folder = open_with(path)?;
    check_kind(&folder, path, "a folder")?;
    check_list(&folder, path)
}

pub(crate) fn open(path: &Path) -> Result<File, PrivateFileError> {
    open_with(path)
}

pub(crate) fn check_file(file: &File, path: &Path) -> Result<(), PrivateFileError> {
    check_kind(file, path, "a file")?;
    check_list(file, path)
}

pub(crate) fn is_readable_by_all(path: &Path) -> Result<bool, PrivateFileError> {
    match check_file(&open(path)?, path) {
        Ok(()) => Ok(false),
        Err(PrivateFileError::Exposed { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    create_file(path, GENERIC_WRITE, CREATE_NEW)
}

pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    create_file(path, GENERIC_READ | GENERIC_WRITE, OPEN_ALWAYS)
}

/// Readable too, because the check of its list asks for that.
pub(crate) fn open_append(path: &Path) -> Result<File, PrivateFileError> {
    create_file(path, GENERIC_READ | FILE_APPEND_DATA, OPEN_ALWAYS)
        .map_err(|error| PrivateFileError::new("open", path, error))
}

/// The system writes its journal in order; a folder cannot be synced here.
#[expect(clippy::unnecessary_wraps, reason = "the same signature on each system")]
pub(crate) fn sync_dir(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Opens for reading what stands there itself, not what a link points to; folders too.
fn open_with(path: &Path) -> Result<File, PrivateFileError> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)
        .map_err(|error| PrivateFileError::new("open", path, error))
}

fn check_kind(file: &File, path: &Path, wanted: &'static str) -> Result<(), PrivateFileError> {
    let metadata = file
        .metadata()
        .map_err(|error| PrivateFileError::new("look at", path, error))?;
    let found = if metadata.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        "a symlink"
    } else if metadata.is_dir() {
        "a folder"
    } else {
        "a file"
    };
    if found == wanted {
        return Ok(());
    }
    Err(PrivateFileError::WrongKind {
        path: path.to_path_buf(),
        found,
        wanted,
    })
}

fn create_file(path: &Path, access: u32, disposition: FILE_CREATION_DISPOSITION) -> io::Result<File> {
    with_list(FILE_LIST, |attributes| {
        let name = wide(path.as_os_str());
        // SAFETY: the name ends with zero, and the attributes live through the call.
        let handle = unsafe {
            CreateFileW(
                name.as_ptr(),
                access,
                FILE_SHARE_READ | FILE_SHARE_WRITE,
                attributes,
                disposition,
                FILE_ATTRIBUTE_NORMAL,
                std::ptr::null_mut(),
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is valid, and nobody else owns it.
        Ok(unsafe { File::from_raw_handle(handle.cast()) })
    })
}

/// Calls `make` with security attributes that hold the list `sddl`.
fn with_list<T>(sddl: &str, make: impl FnOnce(*const SECURITY_ATTRIBUTES) -> io::Result<T>) -> io::Result<T> {
    let text = wide(OsStr::new(sddl));
    let mut descriptor: PSECURITY_DESCRIPTOR = std::ptr::null_mut();
    // SAFETY: the text ends with zero; the size that we do not ask for may be null.
    let done = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text.as_ptr(),
            SDDL_REVISION_1,
            &raw mut descriptor,
            std::ptr::null_mut(),
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor,
        bInheritHandle: 0,
    };
    let made = make(&raw const attributes);
    // SAFETY: the call above allocated it, and nobody uses it any more.
    unsafe { LocalFree(descriptor) };
    made
}

fn check_list(file: &File, path: &Path) -> Result<(), PrivateFileError> {
    let exposed = |found: &str| PrivateFileError::Exposed {
        path: path.to_path_buf(),
        found: found.to_owned(),
        mend: format!(
            "icacls \"{}\" /inheritance:r /grant:r *S-1-5-18:F *S-1-5-32-544:F *S-1-3-4:F",
            path.display()
        ),
    };
    let mut list: *mut ACL = std::ptr::null_mut();
    let mut descriptor: PSECURITY_DESCRIPTOR = std::ptr::null_mut();
    // SAFETY: the handle is open; what we do not ask for may be null.
    let status = unsafe {
        GetSecurityInfo(
            file.as_raw_handle().cast(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            &raw mut list,
            std::ptr::null_mut(),
            &raw mut descriptor,
        )
    };
    if status != 0 {
        let error = io::Error::from_raw_os_error(status.cast_signed());
        return Err(PrivateFileError::new("read the access list of", path, error));
    }
    let found = if list.is_null() {
        // A missing list lets everybody in.
        Some("no access list")
    } else {
        // SAFETY: the list lies in the descriptor, which is freed below.
        unsafe { everybody_in(list) }
    };
    // SAFETY: the call above allocated it, and nobody uses it any more.
    unsafe { LocalFree(descriptor) };
    found.map_or(Ok(()), |found| Err(exposed(found)))
}

/// The first group of everybody that the list lets in.
///
/// # Safety
/// `list` must be a valid list for the whole call.
unsafe fn everybody_in(list: *const ACL) -> Option<&'static str> {
    // SAFETY: the caller's list is valid.
    let count = u32::from(unsafe { (*list).AceCount });
    for index in 0..count {
        let mut entry: *mut c_void = std::ptr::null_mut();
        // SAFETY: the index is below the count.
        if unsafe { GetAce(list, index, &raw mut entry) } == 0 {
            return Some("an unreadable access list");
        }
        // SAFETY: each entry begins with its header.
        if unsafe { (*entry.cast::<ACE_HEADER>()).AceType } != ALLOWED {
            continue;
        }
        // SAFETY: the type says that it is such an entry, whose last field is where the SID begins.
        let sid = unsafe { &raw mut (*entry.cast::<ACCESS_ALLOWED_ACE>()).SidStart };
        for (group, name) in EVERYBODY {
            // SAFETY: the SID lies in the list.
            if unsafe { IsWellKnownSid(sid.cast(), group) } != 0 {
                return Some(name);
            }
        }
    }
    None
}
