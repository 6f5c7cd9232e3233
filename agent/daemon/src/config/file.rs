//! The config file, raw.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use orfe_platform::config_file;
use orfe_tunnel::TcpStack;
use serde::Deserialize;

use super::containers::RawContainers;
use super::http_proxy::RawHttpProxy;
use super::tunnel::RawBridges;
use super::{LogFormat, TunnelMode, words};
use crate::failure::{Exit, Failure};

/// What may stand in `agent.toml`. Unknown names are errors: a mistyped one would silently do nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "lines of the form `key = value`")]
pub(super) struct Raw {
    pub(super) state: Option<PathBuf>,
    pub(super) control: Option<PathBuf>,
    #[serde(default)]
    pub(super) provisioner: RawProvisioner,
    #[serde(default)]
    pub(super) proxy: RawProxy,
    #[serde(default)]
    pub(super) forward: Option<Vec<RawForward>>,
    #[serde(default)]
    pub(super) http_proxy: RawHttpProxy,
    #[serde(default)]
    pub(super) tunnel: RawTunnel,
    #[serde(default)]
    pub(super) containers: RawContainers,
    #[serde(default)]
    pub(super) log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[proxy]`"
)]
pub(super) struct RawProxy {
    pub(super) listen: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[[forward]]`"
)]
pub(super) struct RawForward {
    pub(super) listen: SocketAddr,
    pub(super) to: String,
    #[serde(default)]
    pub(super) exposed: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[provisioner]`"
)]
pub(super) struct RawProvisioner {
    pub(super) coder: Option<PathBuf>,
    pub(super) path: Option<String>,
    pub(super) drain_timeout_s: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[tunnel]`"
)]
pub(super) struct RawTunnel {
    #[serde(default, deserialize_with = "words::tcp_stack_of_file")]
    pub(super) tcp_stack: Option<TcpStack>,
    pub(super) mode: Option<TunnelMode>,
    pub(super) split_dns: Option<bool>,
    pub(super) bridges: Option<RawBridges>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[log]`"
)]
pub(super) struct RawLog {
    pub(super) filter: Option<String>,
    pub(super) format: Option<LogFormat>,
}

/// What the parser says in words of Rust or of its own, and how a person says it.
const PLAIN: [(&str, &str); 7] = [
    (
        ", expected u64",
        ", expected a whole number of seconds, such as 600",
    ),
    (", expected path string", ", expected a path in quotes"),
    (
        ", expected a sequence",
        ", expected tables that begin with the line `[[forward]]`",
    ),
    (
        ", expected socket address",
        ", expected an IP address and a port, such as \"127.0.0.1:1080\"",
    ),
    (
        "invalid socket address syntax",
        "this takes an IP address and a port, such as \"127.0.0.1:1080\"",
    ),
    ("invalid type: map", "invalid type: table"),
    ("invalid type: sequence", "invalid type: list"),
];

/// Reads the file. One that is not there is empty, unless it was asked for by name.
pub(super) fn read(path: &Path, named: bool) -> Result<Raw, Failure> {
    let cannot = |error: std::io::Error| {
        use std::io::ErrorKind;
        let (hint, exit) = match error.kind() {
            ErrorKind::PermissionDenied => (
                "run it as the user that owns the file, or with sudo",
                Exit::NotPermitted,
            ),
            ErrorKind::NotFound => ("check the name after `--config`, or in ORFE_CONFIG", Exit::Usage),
            ErrorKind::InvalidData => ("it has to be text in UTF-8", Exit::Usage),
            ErrorKind::IsADirectory => ("name the file in that folder", Exit::Usage),
            _ => ("see what keeps the system from reading it", Exit::Failed),
        };
        Failure::new(format!("cannot read the config file {}", path.display()))
            .hint(hint.to_owned())
            .exit(exit)
            .because(error)
    };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let mut raw = parse(path, &text)?;
            raw.count_paths_from(&folder_of(path)?).map_err(|key| {
                Failure::new(format!("`{key}` in the config file {} is empty", path.display()))
                    .hint("name a path there, or leave the key out for its default".to_owned())
                    .exit(Exit::Usage)
            })?;
            Ok(raw)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Ok(Raw::default()),
        Err(error) => Err(cannot(error)),
    }
}

/// The folder of the file, from the root on.
fn folder_of(file: &Path) -> Result<PathBuf, Failure> {
    let mut folder = super::absolute(file)?;
    folder.pop();
    Ok(folder)
}

impl Raw {
    /// Paths in the file are relative to its folder: the same file means the same wherever a command was started from.
    /// An empty one is an error with its key's name: it would be the folder itself.
    fn count_paths_from(&mut self, folder: &Path) -> Result<(), &'static str> {
        let paths = [
            ("state", &mut self.state),
            ("control", &mut self.control),
            ("provisioner.coder", &mut self.provisioner.coder),
        ];
        for (key, path) in paths {
            let Some(path) = path else { continue };
            if path.as_os_str().is_empty() {
                return Err(key);
            }
            if key != "provisioner.coder" || !super::is_bare_name(path) {
                *path = folder.join(&*path);
            }
        }
        Ok(())
    }
}

/// Parses the file's text; an error names line and column.
pub(super) fn parse(path: &Path, text: &str) -> Result<Raw, Failure> {
    config_file::parse(text, &PLAIN).map_err(|error| {
        Failure::new(format!(
            "the config file {}, line {}, column {} is not right: {}",
            path.display(),
            error.line,
            error.column,
            error.message
        ))
        .hint("`orfe --config /dev/null config show` prints every setting and its default".to_owned())
        .exit(Exit::Usage)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        parse(Path::new("/etc/orfe/agent.toml"), text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn mistakes_are_found_by_line_and_column() {
        assert_eq!(
            complaint("[log]\nfilter = \n"),
            "the config file /etc/orfe/agent.toml, line 2, column 10 is not right: \
             string values must be quoted, expected literal string"
        );
        assert!(
            complaint("[provisioner]\ncodre = \"x\"\n").contains("line 2, column 1"),
            "{}",
            complaint("codre=1")
        );
        assert!(complaint("[log]\nformat = \"xml\"\n").contains("line 2, column 10"));
        assert!(complaint("[provisioner]\ndrain_timeout_s = -1\n").contains("line 2, column 19"));
    }

    #[test]
    fn what_is_of_a_wrong_type_is_told_what_may_stand_there() {
        assert_eq!(
            complaint("tunnel = 3\n"),
            "the config file /etc/orfe/agent.toml, line 1, column 10 is not right: \
             invalid type: integer `3`, expected a table, which begins with the line `[tunnel]`"
        );
        for (text, expected) in [
            (
                "proxy = 3",
                "expected a table, which begins with the line `[proxy]`",
            ),
            (
                "forward = [3]",
                "expected a table, which begins with the line `[[forward]]`",
            ),
            (
                "[forward]\nlisten = \"127.0.0.1:1\"",
                "type: table, expected tables that begin with the line `[[forward]]`",
            ),
            (
                "provisioner = 3",
                "expected a table, which begins with the line `[provisioner]`",
            ),
            (
                "http_proxy = \"off\"",
                "expected a table, which begins with the line `[http_proxy]`",
            ),
            (
                "containers = true",
                "expected a table, which begins with the line `[containers]`",
            ),
            ("log = 3", "expected a table, which begins with the line `[log]`"),
            (
                "tunnel = [\"auto\", \"userspace\"]",
                "line 1, column 10 is not right: invalid type: list, expected a table, which begins with the line `[tunnel]`",
            ),
            (
                "[[tunnel]]\nmode = \"tun\"",
                "line 1, column 1 is not right: invalid type: list, expected a table, which begins with the line `[tunnel]`",
            ),
            (
                "forward = [[\"127.0.0.1:1\", \"a.lan:1\"]]",
                "type: list, expected a table, which begins with the line `[[forward]]`",
            ),
            (
                "[containers]\nenabled = true",
                "boolean `true`, expected \"auto\" or \"off\"",
            ),
            (
                "[containers]\nhost_gateway = true",
                "boolean `true`, expected \"on\" or \"off\"",
            ),
            (
                "[containers]\ndoor = \"udp\"",
                "string \"udp\", expected \"auto\", \"socket\" or \"tcp\"",
            ),
            ("[log]\nformat = 1", "integer `1`, expected \"human\" or \"json\""),
            (
                "[tunnel]\nmode = true",
                "boolean `true`, expected \"userspace\", \"tun\" or \"off\"",
            ),
            (
                "[tunnel]\ntcp_stack = 3",
                "integer `3`, expected \"auto\", \"namespace\" or \"smoltcp\"",
            ),
            ("[tunnel]\nbridges = true", "this is \"auto\", \"off\", or a list"),
            ("[proxy]\nlisten = 3", "expected an IP address and a port"),
            (
                "[proxy]\nlisten = \"1080\"",
                "this takes an IP address and a port",
            ),
            ("state = 3", "expected a path in quotes"),
            (
                "[provisioner]\ndrain_timeout_s = -1",
                "expected a whole number of seconds",
            ),
        ] {
            let complaint = complaint(text);
            assert!(complaint.contains(expected), "{text}: {complaint}");
        }
    }

    #[test]
    fn an_empty_path_is_not_the_folder_of_the_file() {
        for (text, key) in [
            ("state = \"\"", "state"),
            ("control = \"\"", "control"),
            ("[provisioner]\ncoder = \"\"", "provisioner.coder"),
        ] {
            let mut raw = parse(Path::new("x"), text).unwrap();
            assert_eq!(raw.count_paths_from(Path::new("/etc/orfe")), Err(key));
        }
    }

    #[test]
    fn an_empty_file_is_fine() {
        assert!(parse(Path::new("x"), "").unwrap().state.is_none());
    }
}
