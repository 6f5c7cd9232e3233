//! What is wrong with a configuration, and what to do about it.

use std::net::SocketAddr;
use std::path::PathBuf;

use orfe_platform::private::PrivateFileError;
use orfe_protocol::desired::SLOTS_MAX;
use orfe_protocol::name::HostName;
use url::Url;

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read; the source names it.
    #[error("the configuration could not be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file that the configuration names could not be read; the source names it.
    #[error("a file that the configuration names could not be read")]
    Named {
        #[source]
        source: std::io::Error,
    },
    /// Lines and columns are counted from 1.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Toml {
        path: PathBuf,
        line: usize,
        column: usize,
        message: String,
    },
    /// A value that is of the right type and cannot be used.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Value {
        path: PathBuf,
        line: usize,
        column: usize,
        message: String,
        hint: &'static str,
    },
    #[error(transparent)]
    Private(PrivateFileError),
    #[error("{} holds no PSK", path.display())]
    Psk { path: PathBuf },
    #[error("{} holds no certificate in PEM", path.display())]
    Pem { path: PathBuf },
    #[error("nothing says where the data folder is, and there is no home folder to derive it from")]
    NoData,
    #[error("`{url}` is no public URL of a registry")]
    PublicUrl { url: Url },
    #[error("the dashboard may listen on loopback only, not on {address}")]
    DashboardNotLoopback { address: SocketAddr },
    #[error("{slots} slots; a device runs 1 to {SLOTS_MAX} provisioners")]
    Slots { slots: u8 },
    #[error("the gateway is to listen on UDP {address} twice")]
    ListenTwice { address: SocketAddr },
    #[error("{count} further UDP addresses of the gateway; there may be 4")]
    AlsoListen { count: usize },
    #[error("the policy names port {port} of `{name}` twice")]
    PolicyTwice { name: HostName, port: u16 },
}

/// For a file that the configuration names and that is not there.
const NAMED_FILE: &str =
    "make it, or mend the path in the configuration; it is relative to that file's folder";

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "name the file with `--config`, or leave the flag out to run with defaults"
            }
            Self::Named { source } if source.kind() == std::io::ErrorKind::NotFound => NAMED_FILE,
            Self::Read { .. } | Self::Named { .. } => "see that this user may read the file",
            Self::Toml { .. } => "`orfe-registry config check --help` shows a whole example",
            Self::Value { hint, .. } => hint,
            Self::Private(error) if error.is_not_found() => NAMED_FILE,
            Self::Private(error) => return error.hint(),
            Self::Psk { .. } => "put the value of CODER_PROVISIONER_DAEMON_PSK there, on one line",
            Self::Pem { .. } => "a certificate in PEM begins with `-----BEGIN CERTIFICATE-----`",
            Self::NoData => "name a folder with `--data`",
            Self::PublicUrl { .. } => {
                "it is of the form https://host[:port], at most 200 characters, without a path"
            }
            Self::DashboardNotLoopback { .. } => {
                "use 127.0.0.1 and reach it through an SSH tunnel: ssh -L 7480:127.0.0.1:7480 HOST"
            }
            Self::Slots { .. } => "set `slots` in [coder]",
            Self::ListenTwice { .. } => {
                "name it in `wireguard` or in `also_listen` of [tunnel], and there once"
            }
            Self::AlsoListen { .. } => {
                "shorten `also_listen` in [tunnel]; one at port 443 is what helps most"
            }
            Self::PolicyTwice { .. } => "entries of one name have different ports",
        };
        Some(hint.to_owned())
    }
}
