//! The demo's folder: fresh, private, short, and gone at the end.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// Longest path of a folder in which sockets still have room: a socket's path must stay below 100
/// bytes, and our longest name below the folder is `registry/admin.sock`.
const FOLDER_MAX: usize = 70;

/// Where everything of one demo lives.
#[derive(Debug)]
pub(crate) struct Folder {
    temp: TempDir,
    keep: bool,
}

impl Folder {
    /// Makes the folder, mode 0700, in the usual place for temporary files, or in `/tmp` when the
    /// usual place has too long a path for unix sockets.
    pub(crate) fn create(keep: bool) -> Result<Self> {
        let usual = std::env::temp_dir();
        let base = if usual.as_os_str().len() + "/orfe-xxxxxx".len() <= FOLDER_MAX {
            usual
        } else {
            PathBuf::from("/tmp")
        };
        let temp = tempfile::Builder::new()
            .prefix("orfe-")
            .permissions(Permissions::from_mode(0o700))
            .disable_cleanup(keep)
            .tempdir_in(&base)
            .with_context(|| format!("cannot make the demo's folder in {}", base.display()))?;
        let folder = Self { temp, keep };
        for part in ["coder", "log", "tmp", "bin"] {
            folder.make(part)?;
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The log of the part `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.join("log").join(format!("{name}.log"))
    }

    /// Where the parts put temporary files; also what marks a process as one of this demo's
    /// ([`leftover`](super::leftover)).
    pub(crate) fn tmp(&self) -> PathBuf {
        self.join("tmp")
    }

    /// Writes a file that only its owner can read.
    pub(crate) fn write_private(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.join(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Removes the folder, unless it is kept.
    pub(crate) fn remove(self) -> Result<()> {
        if self.keep {
            let _path = self.temp.keep();
            return Ok(());
        }
        let path = self.temp.path().to_path_buf();
        self.temp
            .close()
            .with_context(|| format!("cannot remove {}", path.display()))
    }

    fn make(&self, name: &str) -> Result<()> {
        let path = self.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))
    }
}

/// Whether `path` holds a demo's folder: what a keeper may remove.
pub(crate) fn is_demo_folder(path: &Path) -> bool {
    path.is_absolute()
        && path
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b"orfe-"))
        && path.join("log").is_dir()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::{FOLDER_MAX, Folder, is_demo_folder};

    #[test]
    fn the_folder_is_private_short_and_gone_at_the_end() {
        let folder = Folder::create(false).unwrap();
        let path = folder.path().to_path_buf();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(path.as_os_str().len() <= FOLDER_MAX, "{}", path.display());
        assert!(is_demo_folder(&path));
        let secret = folder.write_private("psk", b"x").unwrap();
        assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        folder.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_is_kept_stays_with_what_is_in_it() {
        let folder = Folder::create(true).unwrap();
        let log = folder.log("registry");
        std::fs::write(&log, "line").unwrap();
        let path = folder.path().to_path_buf();

        folder.remove().unwrap();

        assert!(log.exists());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn nothing_but_a_demo_folder_is_taken_for_one() {
        let other = tempfile::Builder::new().prefix("orfe-").tempdir().unwrap();
        for path in [
            Path::new("/"),
            Path::new("/tmp"),
            Path::new("orfe-x"),
            other.path(),
        ] {
            assert!(!is_demo_folder(path), "{}", path.display());
        }
    }
}
