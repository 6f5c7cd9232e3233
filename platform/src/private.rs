//! Folders and files that only their owner may read.
//!
//! [`create_dir`] makes a folder of mode 0700, or checks one that is there: it must be a real folder (no
//! symlink), belong to the user that asks, and have been writable by nobody else. [`write()`] replaces
//! a file atomically: a temporary file of mode 0600 in the same folder, synced, renamed over the old one,
//! and the folder synced; after a crash the file holds the old contents or the new ones. [`read`] refuses a
//! file that others may read, because what stands in it is then no secret any more.
//!
//! On Windows the same is said with access control lists: full access for the system, administrators and
//! the owner, nothing inherited.
//!
//! What can fail: the disk is full or read-only, permissions, and contents that were tampered with. Each
//! has its own [`PrivateFileError`], and [`PrivateFileError::hint`] says what to do about it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::imp;

/// How a temporary file of [`write()`] ends; it also begins with a dot.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Why a private folder or file could not be made, written or read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// The disk, or the user's quota on it, is full.
    #[error("cannot {action} {path}: the disk is full")]
    DiskFull {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    #[error("cannot {action} {path}: the file system is read-only")]
    ReadOnly {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
    },
    /// The system does not let this user do it.
    #[error("cannot {action} {path}: permission denied")]
    Denied {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
    },
    /// The file, or a folder above it, is not there.
    #[error("cannot {action} {path}: there is no such file or folder")]
    NotFound {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
    },
    /// Something is there already, where a new file or folder was to be.
    #[error("cannot {action} {path}: it is there already")]
    Exists {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
    },
    /// Something else stands where the folder or file should be: a symlink, a socket.
    #[error("{path} is {found}, not {wanted}")]
    WrongKind {
        /// What was looked at.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// The folder or file belongs to another user.
    #[error("{path} belongs to user {owner}, not to user {wanted} that asks for it")]
    ForeignOwner {
        /// What was looked at.
        path: PathBuf,
        /// Its owner's numeric id.
        owner: u32,
        /// The numeric id of this process's effective user.
        wanted: u32,
    },
    /// Others than the owner may read or write it.
    #[error("{path} is open to other users ({found})")]
    Exposed {
        /// What was looked at.
        path: PathBuf,
        /// Its mode, or who is let in.
        found: String,
        /// The command that mends it.
        mend: String,
    },
    /// The file is larger than what it can rightly be.
    #[error("{path} is larger than {max_bytes} bytes")]
    TooLarge {
        /// What was read.
        path: PathBuf,
        /// The most that was allowed.
        max_bytes: u64,
    },
    /// Anything else.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PrivateFileError {
    /// Sorts a system error by what a person would do about it.
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { action, path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { action, path },
            io::ErrorKind::PermissionDenied => Self::Denied { action, path },
            io::ErrorKind::NotFound => Self::NotFound { action, path },
            io::ErrorKind::AlreadyExists => Self::Exists { action, path },
            _ => Self::Io { action, path, source },
        }
    }

    /// The file or folder in question.
    pub fn path(&self) -> &Path {
        match self {
            Self::DiskFull { path, .. }
            | Self::ReadOnly { path, .. }
            | Self::Denied { path, .. }
            | Self::NotFound { path, .. }
            | Self::Exists { path, .. }
            | Self::WrongKind { path, .. }
            | Self::ForeignOwner { path, .. }
            | Self::Exposed { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    /// Whether the file is simply not there, which for state means "not written yet".
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// What to do about it, for the `hint:` line. `None` where nothing is known that would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::DiskFull { path, .. } => {
                Some(format!("free some space on the disk of `{}`", path.display()))
            }
            Self::ReadOnly { .. } => {
                Some("remount the file system writable, or choose another folder".to_owned())
            }
            Self::Denied { path, .. } => Some(format!(
                "run it as the user that owns `{}`, or choose another folder",
                path.display()
            )),
            Self::Exists { path, .. } => {
                Some(format!("move `{}` away, or choose another name", path.display()))
            }
            Self::WrongKind { path, wanted, .. } => {
                Some(format!("move `{}` away and put {wanted} there", path.display()))
            }
            Self::ForeignOwner { path, .. } => Some(format!(
                "find out who made `{}`, then remove it or choose another place",
                path.display()
            )),
            Self::Exposed { mend, .. } => {
                Some(format!("run `{mend}`, and replace what others may have read"))
            }
            Self::NotFound { .. } | Self::TooLarge { .. } | Self::Io { .. } => None,
        }
    }
}

/// Makes `path`, and the folders above it that are missing, with mode 0700; or checks it when it is there.
///
/// A folder of our own that others may read is closed to them. One that others could *write* is refused: what
/// stands in it may not be ours.
pub fn create_dir(path: &Path) -> Result<(), PrivateFileError> {
    imp::files::create_dir(path)
}

/// What tells this folder from every other one of this machine, a copy of it included, for as long as the machine runs.
pub fn folder_id(path: &Path) -> Result<String, PrivateFileError> {
    imp::files::folder_id(path).map_err(|error| PrivateFileError::new("look at", path, error))
}

/// Makes `path`, and the folders above it that are missing, with mode 0700. One that is there stays as it is, and is refused
/// when anybody else could put files in it: for what is put into a folder that is not ours alone.
pub fn create_missing_dir(path: &Path) -> Result<(), PrivateFileError> {
    imp::files::create_missing_dir(path)
}

/// Replaces the contents of `path` atomically; the file ends up with mode 0600.
///
/// Nothing is left behind on an error. A process that is killed in between leaves a temporary file, which
/// [`remove_leftovers`] takes away.
pub fn write(path: &Path, contents: &[u8]) -> Result<(), PrivateFileError> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(PrivateFileError::WrongKind {
            path: path.to_path_buf(),
            found: "a root",
            wanted: "a file",
        });
    };
    let folder = or_here(folder);
    let random = getrandom::u64().map_err(|error| {
        PrivateFileError::new(
            "make a temporary file for",
            path,
            io::Error::other(error.to_string()),
        )
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{random:016x}{TEMPORARY_SUFFIX}"));
    let temporary = folder.join(temporary);

    let written = write_new(&temporary, contents).and_then(|()| {
        std::fs::rename(&temporary, path).map_err(|error| PrivateFileError::new("replace", path, error))
    });
    if let Err(error) = written {
        // The first error is the one to tell; a leftover is taken away at the next start.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    imp::files::sync_dir(folder).map_err(|error| PrivateFileError::new("sync", folder, error))
}

/// A bare file name has the empty path as its parent.
fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
}

/// A new, empty file of mode 0600 whose contents are not known yet: made first, so that what comes in between is only done
/// when there is a place for its result. Dropped without [`NewFile::fill`], it takes the file away again.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    /// None once it is filled.
    file: Option<File>,
}

/// Makes a file that was not there. What stands at `path` already is left alone, and is an error.
pub fn create_new(path: &Path) -> Result<NewFile, PrivateFileError> {
    let file = imp::files::create_new(path).map_err(|error| PrivateFileError::new("create", path, error))?;
    Ok(NewFile {
        path: path.to_path_buf(),
        file: Some(file),
    })
}

impl NewFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the contents, synced. Nothing is left behind when they cannot be written.
    pub fn fill(mut self, contents: &[u8]) -> Result<(), PrivateFileError> {
        if let Some(file) = &mut self.file {
            file.write_all(contents)
                .and_then(|()| file.sync_all())
                .map_err(|error| PrivateFileError::new("write", &self.path, error))?;
        }
        self.file = None;
        let folder = or_here(self.path.parent().unwrap_or(Path::new("")));
        imp::files::sync_dir(folder).map_err(|error| PrivateFileError::new("sync", folder, error))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Closed first: Windows removes no file that is open.
            drop(file);
            // Nobody is left to tell; what stays is an empty file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens a file for appending, made with mode 0600 when it is missing; checks an existing one as [`read`] does.
pub fn open_append(path: &Path) -> Result<File, PrivateFileError> {
    let file = imp::files::open_append(path)?;
    imp::files::check_file(&file, path)?;
    Ok(file)
}

fn write_new(path: &Path, contents: &[u8]) -> Result<(), PrivateFileError> {
    let mut file =
        imp::files::create_new(path).map_err(|error| PrivateFileError::new("create", path, error))?;
    file.write_all(contents)
        .and_then(|()| file.sync_all())
        .map_err(|error| PrivateFileError::new("write", path, error))
}

/// Reads a file of at most `max_bytes` that only its owner may read.
///
/// The buffer is made once in its full size and never moved, so a caller that puts it into `Zeroizing` knows
/// of every copy.
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, PrivateFileError> {
    let file = imp::files::open(path)?;
    imp::files::check_file(&file, path)?;
    read_bounded(&file, path, max_bytes)
}

/// Whether any user of this machine may read the file: on Unix by its mode alone, elsewhere when it is open to others at all.
pub fn is_readable_by_all(path: &Path) -> Result<bool, PrivateFileError> {
    imp::files::is_readable_by_all(path)
}

fn read_bounded(file: &File, path: &Path, max_bytes: u64) -> Result<Vec<u8>, PrivateFileError> {
    let too_large = || PrivateFileError::TooLarge {
        path: path.to_path_buf(),
        max_bytes,
    };
    let length = file
        .metadata()
        .map_err(|error| PrivateFileError::new("look at", path, error))?
        .len();
    if length > max_bytes {
        return Err(too_large());
    }
    let capacity = usize::try_from(length).map_err(|_| too_large())?;
    let mut contents = vec![0; capacity];
    let mut filled = 0;
    // Read by hand: `read_to_end` would grow the buffer and leave a copy of a secret behind.
    while filled < capacity {
        match (&*file).read(&mut contents[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PrivateFileError::new("read", path, error)),
        }
    }
    contents.truncate(filled);
    Ok(contents)
}

/// Removes the temporary files that a killed [`write()`] left in `folder`, and says how many there were.
///
/// Only for who holds the folder's lock: another process may be in the middle of a write.
pub fn remove_leftovers(folder: &Path) -> Result<usize, PrivateFileError> {
    let list = |error| PrivateFileError::new("list", folder, error);
    let mut removed = 0;
    for entry in std::fs::read_dir(folder).map_err(list)? {
        let entry = entry.map_err(list)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|error| PrivateFileError::new("remove", &path, error))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
