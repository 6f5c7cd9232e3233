//! The TOML file as it is written; unknown keys are refused, with the place where they stand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use orfe_protocol::name::HostName;
use serde::Deserialize;
use url::Url;

use super::{ConfigError, HostPort, PolicyEntry};
use crate::span::Span;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    pub(crate) data: Option<PathBuf>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) public_url: Option<Url>,
    pub(super) wireguard: Option<SocketAddr>,
    pub(super) wireguard_endpoint: Option<HostPort>,
    pub(super) dashboard: Option<SocketAddr>,
    #[serde(default)]
    pub(super) docker_required: bool,
    pub(super) tls: Option<TlsTable>,
    pub(super) coder: Option<CoderTable>,
    #[serde(default)]
    pub(super) tunnel: TunnelTable,
    #[serde(default)]
    pub(super) policy: PolicyTable,
    #[serde(default)]
    pub(super) session: SessionTable,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsTable {
    pub(super) certificate_file: PathBuf,
    pub(super) key_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CoderTable {
    pub(super) url: Url,
    pub(super) psk_file: PathBuf,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) slots: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelTable {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
}

impl Default for TunnelTable {
    fn default() -> Self {
        Self { enabled: true }
    }
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTable {
    #[serde(default)]
    pub(super) allow: Vec<AllowTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowTable {
    name: HostName,
    ports: Vec<u16>,
    upstream: Option<HostPort>,
}

impl AllowTable {
    pub(super) fn entry(&self) -> PolicyEntry {
        PolicyEntry {
            name: self.name.clone(),
            ports: self.ports.clone(),
            upstream: self.upstream.clone(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionTable {
    pub(super) heartbeat: Option<Span>,
    pub(super) hold_down: Option<Span>,
    pub(super) start_grace: Option<Span>,
}

/// Reads and parses the file.
pub(crate) fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let text = fs_err::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = place(&text, start);
        // The parser's message may go over several lines; one is what a terminal shows beside the place.
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        ConfigError::Toml {
            path: path.to_owned(),
            line,
            column,
            message,
        }
    })
}

/// Line and column of a byte, each from 1; columns count characters.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}
