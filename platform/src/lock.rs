//! One process for each state folder.
//!
//! The lock is the operating system's own lock on the file `lock` in the folder, so it ends with the process that
//! holds it, however that dies; there is no stale lock to clean up. The file also holds the process's
//! number, for the message that the second process gives. The file itself stays when the lock ends:
//! removing it would let two processes hold locks on two files of one name.
//!
//! On Windows a locked file cannot be read, so the second process cannot say who holds it.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::imp;
use crate::private::PrivateFileError;

/// The lock's file in the state folder.
const FILE_NAME: &str = "lock";

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process works on this folder.
    #[error("{folder} is in use by {}", holder(*pid))]
    Held {
        /// The state folder.
        folder: PathBuf,
        /// The process that holds it, where it can be told.
        pid: Option<u32>,
    },
    /// The lock file could not be made or written.
    #[error(transparent)]
    File(#[from] PrivateFileError),
}

impl LockError {
    /// What to do about it, for the `hint:` line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Held { .. } => {
                Some("stop the other one first, or give this one its own state folder".to_owned())
            }
            Self::File(error) => error.hint(),
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The right to work on a state folder; given back on drop or when the process ends.
#[derive(Debug)]
pub struct StateLock {
    /// Holds the lock. Programs that are started do not inherit it (close-on-exec).
    file: File,
}

impl StateLock {
    /// Takes the lock of `folder` (which must exist) or says who has it. Never waits.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE_NAME);
        let failed = |action: &'static str| {
            let path = path.clone();
            move |error| PrivateFileError::new(action, &path, error)
        };
        let mut file = imp::files::open_or_create(&path).map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    folder: folder.to_path_buf(),
                    pid: read_pid(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error).into()),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed("write"))?;
        Ok(Self { file })
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // Closing it alone would not do: a program that another thread starts has it, too, until it is that program.
        let _ = self.file.unlock();
    }
}

/// The number that the holder wrote; `None` in the instant before it did.
fn read_pid(file: &mut File) -> Option<u32> {
    // A process number has at most 10 digits; more than that was not written by us.
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_free_though_a_child_has_it_for_a_moment_more() {
        let folder = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(folder.path()).unwrap();
        let of_child = lock.file.try_clone().unwrap();
        drop(lock);
        StateLock::acquire(folder.path()).unwrap();
        drop(of_child);
    }

    #[test]
    fn second_is_refused_and_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(folder.path()).unwrap();
        let error = StateLock::acquire(folder.path()).unwrap_err();
        let LockError::Held { pid, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(*pid, cfg!(unix).then(std::process::id));
        assert!(error.to_string().contains("is in use by"), "{error}");

        drop(lock);
        StateLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn stale_contents_do_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(FILE_NAME),
            "4294967295 and more than a number\n",
        )
        .unwrap();
        let _lock = StateLock::acquire(folder.path()).unwrap();
        let contents = std::fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
        assert_eq!(contents, format!("{}\n", std::process::id()));
    }

    #[test]
    fn missing_folder_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let error = StateLock::acquire(&gone).unwrap_err();
        assert!(error.to_string().contains(&gone.display().to_string()), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn lock_ends_with_its_process_however_it_dies() {
        use std::io::BufRead as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        // flock(1) holds the lock as another process would, and is then killed without a chance to clean up.
        let holder = std::process::Command::new("flock")
            .arg(&path)
            .args(["-c", "echo held; exec sleep 600"])
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(mut holder) = holder else {
            eprintln!("SKIPPED: a killed holder of the lock: there is no flock(1) here");
            return;
        };
        let mut line = String::new();
        std::io::BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(matches!(
            StateLock::acquire(folder.path()),
            Err(LockError::Held { pid: None, .. })
        ));

        // The shell that flock started holds the descriptor too, and ends with its pipe and parent.
        kill_with_children(&mut holder);
        assert!(acquires_within(folder.path(), std::time::Duration::from_secs(10)));
    }

    #[cfg(unix)]
    fn kill_with_children(process: &mut std::process::Child) {
        let table = crate::process::table().unwrap();
        for entry in table.iter().filter(|entry| entry.parent == process.id()) {
            crate::process::send(&entry.id, crate::process::Signal::Kill).unwrap();
        }
        process.kill().unwrap();
        process.wait().unwrap();
    }

    #[cfg(unix)]
    fn acquires_within(folder: &Path, limit: std::time::Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        while std::time::Instant::now() < end {
            if StateLock::acquire(folder).is_ok() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }
}
