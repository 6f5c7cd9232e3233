//! How a command that failed says so.
//!
//! ```text
//! error: cannot read the join code
//!   because: the join code is cut short or mistyped (its checksum does not fit)
//! hint: copy the whole line that `orfe-registry join-code create` printed
//! ```
//!
//! A [`Failure`] carries the hint and the exit code; everything else that goes wrong is exit code 1 without a hint.

use std::fmt;
use std::process::ExitCode;

/// Exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    NotHealthy = 3,
    NotPermitted = 4,
    NotRunning = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure that says what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    hint: Option<String>,
    exit: Exit,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: None,
            exit: Exit::Failed,
            source: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// A hint for when there is none yet.
    pub(crate) fn hint_or(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<orfe_platform::private::PrivateFileError> for Failure {
    fn from(error: orfe_platform::private::PrivateFileError) -> Self {
        let hint = error.hint();
        let denied = matches!(error, orfe_platform::private::PrivateFileError::Denied { .. });
        let exit = if denied { Exit::NotPermitted } else { Exit::Failed };
        Self::new(format!("cannot use {}", error.path().display()))
            .hint(hint)
            .exit(exit)
            .because(error)
    }
}

/// The failure and its causes in one line, for the log and for a provisioner's status.
pub(crate) fn one_line(failure: &Failure) -> String {
    let text = with_causes(failure);
    match &failure.hint {
        Some(hint) => format!("{text} ({hint})"),
        None => text,
    }
}

/// The error and its causes in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What stands on the terminal.
pub(crate) fn render(error: &anyhow::Error) -> String {
    use std::fmt::Write as _;

    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        let _ = writeln!(text, "  because: {cause}");
    }
    let hint = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Failure>()?.hint.as_deref());
    if let Some(hint) = hint {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

/// Prints the failure to standard error and gives the code to exit with.
#[expect(clippy::print_stderr, reason = "this is where a command's failure is told")]
pub(crate) fn print(error: &anyhow::Error) -> ExitCode {
    eprint!("{}", render(error));
    exit(error).into()
}

/// What the command exits with.
pub(crate) fn exit(error: &anyhow::Error) -> Exit {
    let exit = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Failure>().map(|failure| failure.exit));
    exit.unwrap_or(Exit::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::new("cannot read the join code")
            .because(std::io::Error::other("cut short"))
            .hint("copy the whole line".to_owned());
        assert_eq!(
            render(&anyhow::Error::from(failure)),
            "error: cannot read the join code\n  because: cut short\nhint: copy the whole line\n"
        );
    }

    #[test]
    fn the_hint_is_found_behind_context() {
        let error = anyhow::Error::from(Failure::new("no").hint("do".to_owned())).context("while joining");
        assert_eq!(render(&error), "error: while joining\n  because: no\nhint: do\n");
    }
}
