//! Where the agent's configuration, state and control socket are.
//!
//! | | Linux system | Linux user | macOS system | macOS user | Windows system | Windows user |
//! |---|---|---|---|---|---|---|
//! | config | `/etc/orfe/agent.toml` | `$XDG_CONFIG_HOME/orfe/` | `/Library/Application Support/Orfe/` | `~/Library/Application Support/Orfe/` | `%ProgramData%\Orfe\` | `%LOCALAPPDATA%\Orfe\` |
//! | state | `/var/lib/orfe` | `$XDG_STATE_HOME/orfe` | config + `State` | config + `State` | config + `State` | config + `State` |
//! | control | `/run/orfe/agent.sock` | `$XDG_RUNTIME_DIR/orfe/agent.sock` | `/var/run/orfe/agent.sock` | `/tmp/orfe-<uid>/agent.sock` | `\\.\pipe\orfe` | `\\.\pipe\orfe-<user>` |
//!
//! Without the XDG variables (or with relative ones, which the XDG base directory specification says to ignore) they
//! are `~/.config`, `~/.local/state` and `/tmp/orfe-<uid>`.
//!
//! [`Places`] are pure functions of an injected [`Environment`], so each system's table is tested on every system. It
//! makes no folder: who uses one calls [`crate::private::create_dir`], which also checks that `/tmp/orfe-<uid>`
//! was not made by somebody else.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The longest path of a unix socket that we use, in bytes. `sockaddr_un` holds 108 on Linux and 104 on macOS,
/// with the closing zero; 100 leaves room for a suffix.
pub const MAX_SOCKET_PATH: usize = 100;

/// Why the places could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The variable that everything else hangs on is not there.
    #[error(
        "cannot tell where the {what} is: the environment variable {variable} is not set to an absolute path"
    )]
    NoVariable {
        /// What was looked for.
        what: &'static str,
        /// The variable's name.
        variable: &'static str,
    },
    /// The path does not fit into a socket address.
    #[error(
        "the control socket's path {path} has {length} bytes, and {MAX_SOCKET_PATH} is the most a unix socket takes"
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
}

impl PathError {
    /// What to do about it, for the `hint:` line.
    pub fn hint(&self) -> String {
        match self {
            Self::NoVariable { variable, .. } => format!("set {variable}, or name the places by flags"),
            Self::SocketPathTooLong { .. } => "choose a shorter path with `--control`".to_owned(),
        }
    }
}

/// The operating systems with a table of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Os {
    /// Linux.
    Linux,
    /// macOS.
    MacOs,
    /// Windows.
    Windows,
}

impl Os {
    /// The system that this program was built for.
    pub const fn current() -> Self {
        if cfg!(windows) {
            Self::Windows
        } else if cfg!(target_os = "macos") {
            Self::MacOs
        } else {
            Self::Linux
        }
    }
}

/// Whether the agent is the machine's or one user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A service of the machine.
    System,
    /// A program of one ordinary user.
    User,
}

/// The part of the world that decides about places.
pub struct Environment<'a> {
    /// Which table to use.
    pub os: Os,
    /// The numeric id of the effective user; 0 on Windows, where nothing asks for it.
    pub uid: u32,
    /// Looks up an environment variable.
    pub var: &'a dyn Fn(&str) -> Option<OsString>,
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The lookup is left out: it reaches variables that hold secrets.
        f.debug_struct("Environment")
            .field("os", &self.os)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

impl Environment<'static> {
    /// This process's own.
    pub fn of_process() -> Self {
        Self {
            os: Os::current(),
            uid: crate::process::user_id(),
            var: &|name| std::env::var_os(name),
        }
    }
}

impl Environment<'_> {
    /// The scope that is meant when nobody says: the system's for root, else the user's. Windows services say
    /// theirs.
    pub fn default_scope(&self) -> Scope {
        if self.os != Os::Windows && self.uid == 0 {
            Scope::System
        } else {
            Scope::User
        }
    }

    fn absolute(&self, name: &str) -> Option<PathBuf> {
        let value = PathBuf::from((self.var)(name)?);
        // `Path::is_absolute` answers for the system that this was built for, the table may be another's.
        let absolute = match self.os {
            Os::Windows => value
                .to_string_lossy()
                .as_bytes()
                .get(1..3)
                .is_some_and(|rest| rest == b":\\"),
            Os::Linux | Os::MacOs => value.to_string_lossy().starts_with('/'),
        };
        absolute.then_some(value)
    }

    fn required(&self, what: &'static str, variable: &'static str) -> Result<PathBuf, PathError> {
        self.absolute(variable)
            .ok_or(PathError::NoVariable { what, variable })
    }

    /// An XDG base folder: the variable, or its fallback in the home folder.
    fn xdg(&self, what: &'static str, name: &str, fallback: &str) -> Result<PathBuf, PathError> {
        match self.absolute(name) {
            Some(path) => Ok(path),
            None => Ok(self.required(what, "HOME")?.join(fallback)),
        }
    }
}

/// Where things are for one scope in one environment. Each place is told when it is asked for: who names the others has no
/// need of what they are derived from.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    scope: Scope,
    environment: &'a Environment<'a>,
}

impl<'a> Places<'a> {
    /// The places of `scope` in `environment`.
    pub fn of(scope: Scope, environment: &'a Environment<'a>) -> Self {
        Self { scope, environment }
    }

    /// The configuration file. It need not exist.
    pub fn config_file(&self) -> Result<PathBuf, PathError> {
        const WHAT: &str = "configuration";
        Ok(match (self.environment.os, self.scope) {
            (Os::Linux, Scope::System) => "/etc/orfe/agent.toml".into(),
            (Os::Linux, Scope::User) => (self.environment)
                .xdg(WHAT, "XDG_CONFIG_HOME", ".config")?
                .join("orfe/agent.toml"),
            (Os::MacOs, _) => self.macos(WHAT)?.join("agent.toml"),
            (Os::Windows, _) => self.windows(WHAT, r"\agent.toml")?,
        })
    }

    /// The folder for state: keys, desired state, logs. To be made with mode 0700.
    pub fn state_dir(&self) -> Result<PathBuf, PathError> {
        const WHAT: &str = "state folder";
        Ok(match (self.environment.os, self.scope) {
            (Os::Linux, Scope::System) => "/var/lib/orfe".into(),
            (Os::Linux, Scope::User) => (self.environment)
                .xdg(WHAT, "XDG_STATE_HOME", ".local/state")?
                .join("orfe"),
            (Os::MacOs, _) => self.macos(WHAT)?.join("State"),
            (Os::Windows, _) => self.windows(WHAT, r"\State")?,
        })
    }

    /// The unix socket, or on Windows the named pipe, by which the CLI speaks to the daemon.
    pub fn control_socket(&self) -> Result<PathBuf, PathError> {
        let uid = self.environment.uid;
        let runtime: PathBuf = match (self.environment.os, self.scope) {
            (Os::Windows, Scope::System) => return Ok(r"\\.\pipe\orfe".into()),
            (Os::Windows, Scope::User) => {
                let name = (self.environment.var)("USERNAME").ok_or(PathError::NoVariable {
                    what: "control pipe",
                    variable: "USERNAME",
                })?;
                return Ok(format!(r"\\.\pipe\orfe-{}", name.to_string_lossy()).into());
            }
            (Os::Linux, Scope::System) => "/run/orfe".into(),
            (Os::Linux, Scope::User) => (self.environment)
                .absolute("XDG_RUNTIME_DIR")
                .map_or_else(|| temporary_runtime(uid), |path| path.join("orfe")),
            (Os::MacOs, Scope::System) => "/var/run/orfe".into(),
            // The user's own TMPDIR is too long for a socket's path.
            (Os::MacOs, Scope::User) => temporary_runtime(uid),
        };
        let socket = runtime.join("agent.sock");
        check_socket_path(&socket)?;
        Ok(socket)
    }

    /// The folder of everything but the socket.
    fn macos(&self, what: &'static str) -> Result<PathBuf, PathError> {
        let support = "Library/Application Support/Orfe";
        Ok(match self.scope {
            Scope::System => Path::new("/").join(support),
            Scope::User => self.environment.required(what, "HOME")?.join(support),
        })
    }

    fn windows(&self, what: &'static str, below: &str) -> Result<PathBuf, PathError> {
        let variable = match self.scope {
            Scope::System => "ProgramData",
            Scope::User => "LOCALAPPDATA",
        };
        // Joined by hand: `PathBuf::join` uses the separator of the system that this was built for.
        let mut path = self.environment.required(what, variable)?.into_os_string();
        path.push(r"\Orfe");
        path.push(below);
        Ok(path.into())
    }
}

/// Checks that a path of one's own choice fits into a unix socket's address.
pub fn check_socket_path(path: &Path) -> Result<(), PathError> {
    let length = path.as_os_str().as_encoded_bytes().len();
    if length > MAX_SOCKET_PATH {
        return Err(PathError::SocketPathTooLong {
            path: path.to_path_buf(),
            length,
        });
    }
    Ok(())
}

/// The runtime folder of a user whose session has none.
fn temporary_runtime(uid: u32) -> PathBuf {
    format!("/tmp/orfe-{uid}").into()
}

#[cfg(test)]
mod tests;
