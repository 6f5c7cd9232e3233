//! How a command fails: an exit code, a line that says what and where, and a hint.

use std::fmt;
use std::process::ExitCode;

use orfe_platform::private::PrivateFileError;

use crate::api;
use crate::config::ConfigError;
use crate::registry::StartError;
use crate::state_folder::StateFolderError;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_PERMITTED: u8 = 4;
const NOT_RUNNING: u8 = 5;

/// A command that did not succeed. Shown as `error: …` and, when there is something to do, `hint: …`.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// An ordinary failure.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            ..Self::new(message)
        }
    }

    pub(super) fn not_permitted(message: impl Into<String>) -> Self {
        Self {
            code: NOT_PERMITTED,
            ..Self::new(message)
        }
    }

    pub(super) fn not_running(message: impl Into<String>) -> Self {
        Self {
            code: NOT_RUNNING,
            ..Self::new(message)
        }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// What the process exits with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => writeln!(formatter, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<api::Refused> for Failure {
    fn from(refused: api::Refused) -> Self {
        Self::usage(refused.to_string()).hint(refused.hint())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let hint = error.hint();
        Self {
            hint,
            ..Self::usage(crate::chain(&error))
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let denied = matches!(
            error,
            StartError::Folder(StateFolderError::File(
                PrivateFileError::Denied { .. } | PrivateFileError::ForeignOwner { .. }
            ))
        );
        let code = if denied { NOT_PERMITTED } else { FAILED };
        let hint = error.hint();
        Self {
            code,
            message: crate::chain(&error),
            hint,
        }
    }
}
