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
//! [`Places::of`] is a pure function of an injected [`Environment`], so each system's table is tested on every system. It
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

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The configuration file. It need not exist.
    pub config_file: PathBuf,
    /// The folder for state: keys, desired state, logs. To be made with mode 0700.
    pub state_dir: PathBuf,
    /// The unix socket, or on Windows the named pipe, by which the CLI speaks to the daemon.
    pub control_socket: PathBuf,
}

impl Places {
    /// The places of `scope` in `environment`.
    pub fn of(scope: Scope, environment: &Environment<'_>) -> Result<Self, PathError> {
        let places = match environment.os {
            Os::Linux => Self::linux(scope, environment)?,
            Os::MacOs => Self::macos(scope, environment)?,
            Os::Windows => Self::windows(scope, environment)?,
        };
        if environment.os != Os::Windows {
            check_socket_path(&places.control_socket)?;
        }
        Ok(places)
    }

    fn linux(scope: Scope, environment: &Environment<'_>) -> Result<Self, PathError> {
        if scope == Scope::System {
            return Ok(Self {
                config_file: "/etc/orfe/agent.toml".into(),
                state_dir: "/var/lib/orfe".into(),
                control_socket: "/run/orfe/agent.sock".into(),
            });
        }
        let config = environment.xdg("configuration", "XDG_CONFIG_HOME", ".config")?;
        let state = environment.xdg("state folder", "XDG_STATE_HOME", ".local/state")?;
        let runtime = environment
            .absolute("XDG_RUNTIME_DIR")
            .map_or_else(|| temporary_runtime(environment.uid), |path| path.join("orfe"));
        Ok(Self {
            config_file: config.join("orfe/agent.toml"),
            state_dir: state.join("orfe"),
            control_socket: runtime.join("agent.sock"),
        })
    }

    fn macos(scope: Scope, environment: &Environment<'_>) -> Result<Self, PathError> {
        let (base, runtime) = match scope {
            Scope::System => ("/Library/Application Support/Orfe".into(), "/var/run/orfe".into()),
            Scope::User => (
                environment
                    .required("state folder", "HOME")?
                    .join("Library/Application Support/Orfe"),
                // Its own TMPDIR is too long for a socket's path.
                temporary_runtime(environment.uid),
            ),
        };
        Ok(Self {
            config_file: base.join("agent.toml"),
            state_dir: base.join("State"),
            control_socket: runtime.join("agent.sock"),
        })
    }

    fn windows(scope: Scope, environment: &Environment<'_>) -> Result<Self, PathError> {
        let (variable, pipe) = match scope {
            Scope::System => ("ProgramData", r"\\.\pipe\orfe".to_owned()),
            Scope::User => {
                let name = (environment.var)("USERNAME").ok_or(PathError::NoVariable {
                    what: "control pipe",
                    variable: "USERNAME",
                })?;
                (
                    "LOCALAPPDATA",
                    format!(r"\\.\pipe\orfe-{}", name.to_string_lossy()),
                )
            }
        };
        // Joined by hand: `PathBuf::join` uses the separator of the system that this was built for.
        let mut base = environment.required("state folder", variable)?.into_os_string();
        base.push(r"\Orfe");
        let below = |name: &str| {
            let mut path = base.clone();
            path.push(name);
            PathBuf::from(path)
        };
        Ok(Self {
            config_file: below(r"\agent.toml"),
            state_dir: below(r"\State"),
            control_socket: pipe.into(),
        })
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
mod tests {
    use super::*;

    #[test]
    fn linux_system() {
        let places = places(Scope::System, Os::Linux, &[]).unwrap();
        assert_eq!(places.config_file, Path::new("/etc/orfe/agent.toml"));
        assert_eq!(places.state_dir, Path::new("/var/lib/orfe"));
        assert_eq!(places.control_socket, Path::new("/run/orfe/agent.sock"));
    }

    #[test]
    fn linux_user_with_and_without_xdg() {
        let variables = [
            ("HOME", "/home/ada"),
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_STATE_HOME", "/s"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
        ];
        let with = places(Scope::User, Os::Linux, &variables).unwrap();
        assert_eq!(with.config_file, Path::new("/c/orfe/agent.toml"));
        assert_eq!(with.state_dir, Path::new("/s/orfe"));
        assert_eq!(with.control_socket, Path::new("/run/user/7/orfe/agent.sock"));

        let without = places(Scope::User, Os::Linux, &variables[..1]).unwrap();
        assert_eq!(
            without.config_file,
            Path::new("/home/ada/.config/orfe/agent.toml")
        );
        assert_eq!(without.state_dir, Path::new("/home/ada/.local/state/orfe"));
        assert_eq!(without.control_socket, Path::new("/tmp/orfe-7/agent.sock"));
    }

    #[test]
    fn relative_xdg_folder_is_ignored() {
        let variables = [
            ("HOME", "/home/ada"),
            ("XDG_STATE_HOME", "state"),
            ("XDG_RUNTIME_DIR", ""),
        ];
        let places = places(Scope::User, Os::Linux, &variables).unwrap();
        assert_eq!(places.state_dir, Path::new("/home/ada/.local/state/orfe"));
        assert_eq!(places.control_socket, Path::new("/tmp/orfe-7/agent.sock"));
    }

    #[test]
    fn no_home_is_an_error_that_names_it() {
        let error = places(Scope::User, Os::Linux, &[]).unwrap_err();
        assert_eq!(
            error,
            PathError::NoVariable {
                what: "configuration",
                variable: "HOME"
            }
        );
        assert!(error.hint().contains("HOME"));
    }

    #[test]
    fn macos_and_windows() {
        let mac = places(Scope::System, Os::MacOs, &[]).unwrap();
        assert_eq!(
            mac.state_dir,
            Path::new("/Library/Application Support/Orfe/State")
        );
        assert_eq!(mac.control_socket, Path::new("/var/run/orfe/agent.sock"));
        let mac = places(Scope::User, Os::MacOs, &[("HOME", "/Users/ada")]).unwrap();
        assert_eq!(
            mac.config_file,
            Path::new("/Users/ada/Library/Application Support/Orfe/agent.toml")
        );

        let variables = [
            ("ProgramData", r"C:\ProgramData"),
            ("LOCALAPPDATA", r"C:\U\AppData\Local"),
            ("USERNAME", "ada"),
        ];
        let windows = places(Scope::System, Os::Windows, &variables).unwrap();
        assert_eq!(windows.config_file, Path::new(r"C:\ProgramData\Orfe\agent.toml"));
        assert_eq!(windows.state_dir, Path::new(r"C:\ProgramData\Orfe\State"));
        assert_eq!(windows.control_socket, Path::new(r"\\.\pipe\orfe"));
        let windows = places(Scope::User, Os::Windows, &variables).unwrap();
        assert_eq!(windows.state_dir, Path::new(r"C:\U\AppData\Local\Orfe\State"));
        assert_eq!(windows.control_socket, Path::new(r"\\.\pipe\orfe-ada"));
    }

    #[test]
    fn long_socket_path_is_refused_with_its_length() {
        let runtime = format!("/{}", "r".repeat(90));
        let variables = [("HOME", "/home/ada"), ("XDG_RUNTIME_DIR", runtime.as_str())];
        let error = places(Scope::User, Os::Linux, &variables).unwrap_err();
        assert!(
            matches!(error, PathError::SocketPathTooLong { length: 107, .. }),
            "{error}"
        );
        check_socket_path(Path::new(&"p".repeat(100))).unwrap();
        assert!(check_socket_path(Path::new(&"p".repeat(101))).is_err());
    }

    #[test]
    fn root_means_the_system() {
        let lookup = |_: &str| None;
        let environment = |os, uid| Environment {
            os,
            uid,
            var: &lookup,
        };
        assert_eq!(environment(Os::Linux, 0).default_scope(), Scope::System);
        assert_eq!(environment(Os::MacOs, 501).default_scope(), Scope::User);
        assert_eq!(environment(Os::Windows, 0).default_scope(), Scope::User);
    }

    fn places(scope: Scope, os: Os, variables: &[(&str, &str)]) -> Result<Places, PathError> {
        let lookup = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(value))
        };
        Places::of(
            scope,
            &Environment {
                os,
                uid: 7,
                var: &lookup,
            },
        )
    }
}
