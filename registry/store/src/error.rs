//! Why the store could not do something.

use std::path::PathBuf;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// SQLite's primary result codes (<https://sqlite.org/rescode.html>) that mean something to a person.
mod code {
    pub(super) const BUSY: u32 = 5;
    pub(super) const READONLY: u32 = 8;
    pub(super) const CORRUPT: u32 = 11;
    pub(super) const FULL: u32 = 13;
    pub(super) const CANTOPEN: u32 = 14;
    pub(super) const NOTADB: u32 = 26;
}

/// What went wrong. Nothing was changed, whichever it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("{what}: the database {path} could not be opened or created")]
    CannotOpen {
        what: &'static str,
        path: PathBuf,
        source: Source,
    },
    #[error("{what}: {path} is not a SQLite database")]
    NotADatabase {
        what: &'static str,
        path: PathBuf,
        source: Source,
    },
    #[error("{what}: the database {path} is damaged")]
    Corrupt {
        what: &'static str,
        path: PathBuf,
        source: Source,
    },
    #[error("{what}: no room is left on the disk of {path}")]
    DiskFull {
        what: &'static str,
        path: PathBuf,
        source: Source,
    },
    #[error("{what}: the database {path} cannot be written")]
    ReadOnly {
        what: &'static str,
        path: PathBuf,
        source: Source,
    },
    #[error("{what}: another process keeps the database {path} locked")]
    Busy {
        what: &'static str,
        path: PathBuf,
        source: Source,
    },
    #[error("the database {path} has version {found}; this program knows versions up to {known}")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("version {version} of the database {path} was not made by this program")]
    Foreign { path: PathBuf, version: i64 },
    #[error("{what}: the database {path} failed")]
    Query {
        what: &'static str,
        path: PathBuf,
        source: Source,
    },
    #[error("the {column} that the database holds cannot be read")]
    Content { column: &'static str, source: Source },
    #[error("{what}: none of the inner addresses is free")]
    AddressesExhausted { what: &'static str },
    #[error("a value does not fit the database: {what}")]
    OutOfRange { what: &'static str },
}

impl StoreError {
    /// What to do about it, in a sentence.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::CannotOpen { .. } => "see that its folder exists and that this user may write there",
            Self::NotADatabase { .. } => "move the file away, or name another folder with `--data`",
            Self::Corrupt { .. } => "stop the registry and restore the file from a backup",
            Self::DiskFull { .. } => "free some space, or move the data folder to a larger disk",
            Self::ReadOnly { .. } => {
                "see that this user may write the file and its folder, and that the disk is not mounted read-only"
            }
            Self::Busy { .. } => "see which process has the file open, and stop it",
            Self::Newer { .. } => "run the version of the registry that wrote it, or a later one",
            Self::Foreign { .. } => "run the version of the registry that wrote it, or restore a backup",
            Self::AddressesExhausted { .. } => {
                "the address range is used up; revoked devices keep their addresses"
            }
            Self::Query { .. } | Self::Content { .. } | Self::OutOfRange { .. } => return None,
        })
    }
}

/// Turns the engine's errors into ours; made by whoever knows the file.
#[derive(Debug, Clone)]
pub(crate) struct ErrorContext {
    pub(crate) path: PathBuf,
}

impl ErrorContext {
    /// For `map_err`: says what was being done.
    pub(crate) fn during(&self, what: &'static str) -> impl Fn(sqlx::Error) -> StoreError + use<'_> {
        move |error| self.classify(what, error)
    }

    fn classify(&self, what: &'static str, error: sqlx::Error) -> StoreError {
        let path = self.path.clone();
        let result_code = error
            .as_database_error()
            .and_then(|error| error.code()?.parse::<u32>().ok());
        // The engine's own error, because sqlx's around it only says the same once more.
        let source: Source = match error {
            sqlx::Error::Database(error) => error.into_error(),
            other => Box::new(other),
        };
        // The low byte of an extended result code is the primary one.
        match result_code.map(|code| code & 0xff) {
            Some(code::BUSY) => StoreError::Busy { what, path, source },
            Some(code::READONLY) => StoreError::ReadOnly { what, path, source },
            Some(code::CORRUPT) => StoreError::Corrupt { what, path, source },
            Some(code::FULL) => StoreError::DiskFull { what, path, source },
            Some(code::CANTOPEN) => StoreError::CannotOpen { what, path, source },
            Some(code::NOTADB) => StoreError::NotADatabase { what, path, source },
            _ => StoreError::Query { what, path, source },
        }
    }
}
