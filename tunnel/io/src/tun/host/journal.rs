//! The journal: what this process has changed and has not taken back yet.
//!
//! One change a line, in a file that is replaced as a whole and synced *before* the change is made. Whoever opens it next
//! takes back what stands in it, latest first: after a crash that is the next process. A lock beside it keeps two
//! processes from taking back each other's changes.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use orfe_platform::private::{self, PrivateFileError};

use super::{Change, imp};

const FILE: &str = "tun-changes";
const LOCK: &str = "tun-changes.lock";
/// Far more than a host has bridges.
const MAX_BYTES: u64 = 64 << 10;

/// Why the journal cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process has it.
    #[error("{} is held by another process; only one tunnel on this host can use it", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The lock cannot be made.
    #[error("{} cannot be locked", path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Changes that are made and not taken back.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    changes: Vec<Change>,
    /// Held as long as the journal is open; the system gives it back whatever happens to us.
    lock: File,
}

impl Journal {
    /// Whether one was ever kept there.
    pub(super) fn exists(state: &Path) -> bool {
        state.join(FILE).exists()
    }

    /// Opens the journal of a state folder and takes back what an earlier process left.
    pub(super) fn open(state: &Path) -> Result<Self, JournalError> {
        private::create_dir(state)?;
        let path = state.join(LOCK);
        let lock = private::open_append(&path)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::Busy { path: path.clone() },
            TryLockError::Error(source) => JournalError::Lock {
                path: path.clone(),
                source,
            },
        })?;
        let path = state.join(FILE);
        let text = match private::read(&path, MAX_BYTES) {
            Err(error) if error.is_not_found() => Vec::new(),
            other => other?,
        };
        let mut journal = Self {
            path,
            changes: Vec::new(),
            lock,
        };
        for line in String::from_utf8_lossy(&text).lines() {
            match line.parse() {
                Ok(change) => journal.changes.push(change),
                Err(error) => {
                    tracing::warn!(%error, path = %journal.path.display(), "a line of the journal is left out");
                }
            }
        }
        if !journal.changes.is_empty() {
            tracing::info!(
                changes = journal.changes.len(),
                "an earlier process left changes to this host; taking them back"
            );
            journal.undo();
        }
        Ok(journal)
    }

    /// Notes a change that is about to be made. One that is noted already is taken back once.
    pub(super) fn note(&mut self, change: Change) -> Result<(), JournalError> {
        if self.has(&change) {
            return Ok(());
        }
        self.changes.push(change);
        self.write()
    }

    /// Whether a change is noted.
    pub(super) fn has(&self, change: &Change) -> bool {
        self.changes.contains(change)
    }

    /// Forgets a change that was not made after all.
    #[cfg(any(test, target_os = "linux"))]
    pub(super) fn forget(&mut self, change: &Change) -> Result<(), JournalError> {
        self.changes.retain(|noted| noted != change);
        self.write()
    }

    /// Takes back all changes, latest first. What fails is said and kept for the next time.
    pub(super) fn undo(&mut self) {
        self.undo_those(|_| true);
    }

    /// Takes back these changes, latest first.
    pub(super) fn undo_those(&mut self, these: impl Fn(&Change) -> bool) {
        let mut left = Vec::new();
        while let Some(change) = self.changes.pop() {
            if !these(&change) {
                left.push(change);
            } else if let Err(error) = imp::undo(&change) {
                tracing::warn!(%change, %error, "a change to this host could not be taken back; the next start tries again");
                left.push(change);
            }
        }
        left.reverse();
        self.changes = left;
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the journal of changes to this host still names what is gone");
        }
    }

    fn write(&self) -> Result<(), JournalError> {
        let lines: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        let mut text = lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        Ok(private::write(&self.path, text.as_bytes())?)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Closing it alone would not do: a program that another thread starts has it, too, until it is that program.
        let _ = self.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        // An interface that does not exist: taking it back finds nothing to do.
        Change::Forwarding {
            interface: "no-such-link".to_owned(),
            was: false,
        }
    }

    #[test]
    fn a_change_is_noted_once_and_may_be_taken_back_without_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert!(!Journal::exists(&state));
        let mut journal = Journal::open(&state).unwrap();
        let dns = Change::Dns {
            interface: "no-such-link".to_owned(),
        };
        for noted in [dns.clone(), change(), change()] {
            journal.note(noted).unwrap();
        }
        assert_eq!(journal.changes.len(), 2);
        journal.undo_those(|change| matches!(change, Change::Forwarding { .. }));
        assert_eq!(journal.changes, std::slice::from_ref(&dns));
        journal.forget(&dns).unwrap();
        assert!(!journal.has(&dns));
        assert_eq!(std::fs::read_to_string(state.join(FILE)).unwrap(), "");
        assert!(Journal::exists(&state));
    }

    #[test]
    fn what_is_given_back_is_free_though_a_child_has_it_for_a_moment_more() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = Journal::open(&state).unwrap();
        let of_child = first.lock.try_clone().unwrap();
        drop(first);
        Journal::open(&state).unwrap();
        drop(of_child);
    }

    #[test]
    fn what_was_noted_is_taken_back_by_the_next_and_by_nobody_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut first = Journal::open(&state).unwrap();
        first.note(change()).unwrap();
        assert!(matches!(Journal::open(&state), Err(JournalError::Busy { .. })));
        drop(first);
        assert_eq!(
            std::fs::read_to_string(state.join(FILE)).unwrap(),
            "forwarding no-such-link 0\n"
        );
        let second = Journal::open(&state).unwrap();
        assert!(second.changes.is_empty());
        assert_eq!(std::fs::read_to_string(state.join(FILE)).unwrap(), "");
    }
}
