//! What to run.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use crate::log_file::LogSpec;

/// A program, and everything that it is given. It inherits nothing else.
#[derive(Debug)]
pub struct Spec {
    /// The number of the slot that it runs in; for logs only.
    pub slot: u32,
    /// The program's absolute path.
    pub program: PathBuf,
    /// Its arguments, without its own name. They can be seen by every user of the machine, so a secret in one of
    /// them is refused.
    pub args: Vec<OsString>,
    /// The whole environment. A later variable of the same name replaces an earlier one.
    pub env: Vec<(OsString, EnvValue)>,
    /// The working folder.
    pub cwd: PathBuf,
    /// Where its output is kept.
    pub log_file: Option<LogSpec>,
    /// The name of one plain variable of `env` whose value no other process has, such as its own `TMPDIR`; by it,
    /// processes are found that escaped from the tree.
    pub marker: Option<OsString>,
    /// More secrets to take out of its output, besides the secret values of `env`: for example the password within a
    /// URL. At least 4 bytes each; shorter ones are left.
    pub secrets: Vec<SecretString>,
}

/// The value of an environment variable.
pub enum EnvValue {
    /// May be shown.
    Plain(OsString),
    /// Is shown nowhere, and taken out of the output.
    Secret(SecretString),
}

impl EnvValue {
    /// The value as the child gets it.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        match self {
            Self::Plain(value) => value,
            Self::Secret(value) => OsStr::new(value.expose_secret()),
        }
    }
}

impl fmt::Debug for EnvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => value.fmt(f),
            Self::Secret(_) => f.write_str("[secret]"),
        }
    }
}

impl<T: Into<OsString>> From<T> for EnvValue {
    fn from(value: T) -> Self {
        Self::Plain(value.into())
    }
}

impl Spec {
    /// All secrets, to be taken out of the output.
    pub(crate) fn all_secrets(&self) -> impl Iterator<Item = &SecretString> {
        let from_env = self.env.iter().filter_map(|(_, value)| match value {
            EnvValue::Secret(secret) => Some(secret),
            EnvValue::Plain(_) => None,
        });
        from_env.chain(&self.secrets)
    }

    /// The marker with its value: the last variable of that name counts, and it must be a plain one.
    pub(crate) fn marker_with_value(&self) -> Option<Marker> {
        let name = self.marker.as_ref()?;
        match self.env.iter().rfind(|(known, _)| known == name)? {
            (_, EnvValue::Plain(value)) => Some(Marker {
                name: name.clone(),
                value: value.clone(),
            }),
            (_, EnvValue::Secret(_)) => None,
        }
    }
}

/// An environment variable that only one tree's processes carry. Not secret: it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Its name.
    pub name: OsString,
    /// Its value.
    pub value: OsString,
}
