//! Private folders and files by owner and mode.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use crate::private::PrivateFileError;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const ANY_FOR_OTHERS: u32 = 0o077;
const READABLE_BY_ALL: u32 = 0o004;

/// Device and inode: they go with a folder that is moved, and a copy has others.
pub(crate) fn folder_id(path: &Path) -> io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    Ok(format!("{:x}:{:x}", metadata.dev(), metadata.ino()))
}

pub(crate) fn create_dir(path: &Path) -> Result<(), PrivateFileError> {
    let wrong = |found| PrivateFileError::WrongKind {
        path: path.to_path_buf(),
        found,
        wanted: "a folder",
    };
    // Looked at first only for the better message; what counts is the opened folder below.
    if path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_symlink())
    {
        return Err(wrong("a symlink"));
    }
    if let Err(error) = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
    {
        return Err(match error.kind() {
            io::ErrorKind::AlreadyExists => wrong("something else"),
            _ => PrivateFileError::new("create", path, error),
        });
    }
    // Opened once and then checked and changed by descriptor, so nobody can swap it in between.
    let folder = open_with(path, OFlags::DIRECTORY).map_err(|error| {
        let swapped = is_symlink_error(&error) || error.kind() == io::ErrorKind::NotADirectory;
        if swapped {
            wrong("a symlink")
        } else {
            PrivateFileError::new("open", path, error)
        }
    })?;
    let metadata = folder
        .metadata()
        .map_err(|error| PrivateFileError::new("look at", path, error))?;
    check_owner(metadata.uid(), path)?;
    check_mode(metadata.mode(), WRITABLE_BY_OTHERS, FOLDER_MODE, path)?;
    if metadata.mode() & 0o7777 != FOLDER_MODE {
        folder
            .set_permissions(std::fs::Permissions::from_mode(FOLDER_MODE))
            .map_err(|error| PrivateFileError::new("change the mode of", path, error))?;
    }
    Ok(())
}

pub(crate) fn create_missing_dir(path: &Path) -> Result<(), PrivateFileError> {
    // Followed, if it is a symlink: whoever made it could as well have named its target.
    let metadata = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create_dir(path),
        metadata => metadata.map_err(|error| PrivateFileError::new("look at", path, error))?,
    };
    if !metadata.is_dir() {
        return Err(PrivateFileError::WrongKind {
            path: path.to_path_buf(),
            found: "something else",
            wanted: "a folder",
        });
    }
    check_owner(metadata.uid(), path)?;
    check_mode(metadata.mode(), WRITABLE_BY_OTHERS, FOLDER_MODE, path)
}

/// Opens a file for reading without following a symlink, and without hanging on a FIFO.
pub(crate) fn open(path: &Path) -> Result<File, PrivateFileError> {
    open_with(path, OFlags::NONBLOCK).map_err(|error| open_error(path, error))
}

pub(crate) fn check_file(file: &File, path: &Path) -> Result<(), PrivateFileError> {
    let metadata = file
        .metadata()
        .map_err(|error| PrivateFileError::new("look at", path, error))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() {
            "a folder"
        } else {
            "something else"
        };
        return Err(PrivateFileError::WrongKind {
            path: path.to_path_buf(),
            found,
            wanted: "a file",
        });
    }
    check_owner(metadata.uid(), path)?;
    check_mode(metadata.mode(), ANY_FOR_OTHERS, FILE_MODE, path)
}

/// Creates a file that was not there, readable by its owner alone from its first moment on.
pub(crate) fn is_readable_by_all(path: &Path) -> Result<bool, PrivateFileError> {
    let metadata = path
        .metadata()
        .map_err(|error| PrivateFileError::new("look at", path, error))?;
    Ok(metadata.mode() & READABLE_BY_ALL != 0)
}

pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Opens a file for reading and writing, made with mode 0600 when it is missing; follows no symlink.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Opens a file for appending, made with mode 0600 when it is missing; follows no symlink.
pub(crate) fn open_append(path: &Path) -> Result<File, PrivateFileError> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(|error| open_error(path, error))
}

/// Makes a rename in `folder` survive a power cut.
pub(crate) fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

fn open_error(path: &Path, error: io::Error) -> PrivateFileError {
    if is_symlink_error(&error) {
        PrivateFileError::WrongKind {
            path: path.to_path_buf(),
            found: "a symlink",
            wanted: "a file",
        }
    } else {
        PrivateFileError::new("open", path, error)
    }
}

/// How the system says that `NOFOLLOW` met a symlink.
fn is_symlink_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn check_owner(owner: u32, path: &Path) -> Result<(), PrivateFileError> {
    let wanted = rustix::process::geteuid().as_raw();
    if owner == wanted {
        Ok(())
    } else {
        Err(PrivateFileError::ForeignOwner {
            path: path.to_path_buf(),
            owner,
            wanted,
        })
    }
}

fn check_mode(mode: u32, forbidden: u32, wanted: u32, path: &Path) -> Result<(), PrivateFileError> {
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(PrivateFileError::Exposed {
        path: path.to_path_buf(),
        found: format!("mode {:04o}", mode & 0o7777),
        mend: format!("chmod {wanted:o} {}", path.display()),
    })
}
