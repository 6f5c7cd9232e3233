//! The TOML file as it is written; unknown keys are refused, with the place where they stand.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use orfe_platform::config_file;
use orfe_tunnel::TcpStack;
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::policy::{AllowTable, DnsTable};
use super::{ConfigError, HostPort};
use crate::span::Span;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "lines of the form `key = value`")]
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
    pub(super) dns: DnsTable,
    #[serde(default)]
    pub(super) session: SessionTable,
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[tls]`"
)]
pub(super) struct TlsTable {
    pub(super) certificate_file: PathBuf,
    pub(super) key_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[coder]`"
)]
pub(super) struct CoderTable {
    pub(super) url: Spanned<Url>,
    pub(super) psk_file: PathBuf,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) slots: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[tunnel]`"
)]
pub(super) struct TunnelTable {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    #[serde(default = "yes")]
    pub(super) websocket: bool,
    #[serde(default)]
    pub(super) also_listen: Vec<SocketAddr>,
    pub(super) also_endpoints: Option<Vec<HostPort>>,
    pub(super) threads: Option<NonZeroU8>,
    #[serde(default)]
    pub(super) tcp_stack: TcpStackName,
}

/// See [`TcpStack`]; the whole of it is in `docs/gateway.md`.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TcpStackName {
    #[default]
    Auto,
    Namespace,
    Smoltcp,
}

impl From<TcpStackName> for TcpStack {
    fn from(name: TcpStackName) -> Self {
        match name {
            TcpStackName::Auto => Self::Auto,
            TcpStackName::Namespace => Self::Namespace,
            TcpStackName::Smoltcp => Self::Smoltcp,
        }
    }
}

impl Default for TunnelTable {
    fn default() -> Self {
        Self {
            enabled: true,
            websocket: true,
            also_listen: Vec::new(),
            also_endpoints: None,
            threads: None,
            tcp_stack: TcpStackName::default(),
        }
    }
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, whose entries begin with the line `[[policy.allow]]`"
)]
pub(super) struct PolicyTable {
    #[serde(default)]
    pub(super) allow: Vec<Spanned<AllowTable>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[session]`"
)]
pub(super) struct SessionTable {
    pub(super) heartbeat: Option<Spanned<Span>>,
    pub(super) hold_down: Option<Span>,
    pub(super) start_grace: Option<Span>,
}

/// Intervals of heartbeats that can work: below, the fleet would do nothing else; above, a device that is gone
/// would count as there for ever.
const HEARTBEATS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);

/// What the parser says in words of Rust or of its own, and how a person says it.
const PLAIN: [(&str, &str); 8] = [
    (", expected u8", ": a number of slots is from 1 to 64"),
    (", expected path string", ": a path stands in quotes"),
    (
        ", expected a sequence",
        ": this is a list, such as `[443]` or the tables that begin with `[[policy.allow]]`",
    ),
    (
        ", expected socket address",
        ": this takes an IP address and a port, such as \"0.0.0.0:7443\"",
    ),
    (
        "invalid socket address syntax",
        "this takes an IP address and a port, such as \"0.0.0.0:7443\"",
    ),
    ("relative URL without a base", "a URL begins with `https://`"),
    ("invalid type: map", "invalid type: table"),
    ("invalid type: sequence", "invalid type: list"),
];

/// Reads and parses the file.
pub(crate) fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    parse(path, &text(path)?)
}

/// Reads and parses the file, and checks those values that are told with their place.
pub(super) fn read_checked(path: &Path) -> Result<ConfigFile, ConfigError> {
    let text = text(path)?;
    let raw = parse(path, &text)?;
    let refused = |at: Range<usize>, message: String, hint: &'static str| {
        let (line, column) = config_file::place(&text, at.start);
        ConfigError::Value {
            path: path.to_owned(),
            line,
            column,
            message,
            hint,
        }
    };
    if let Some(coder) = &raw.coder
        && let Some(fault) = coder_url_fault(coder.url.get_ref())
    {
        let hint = "it is of the form https://coder.example.com";
        return Err(refused(coder.url.span(), fault, hint));
    }
    for allow in &raw.policy.allow {
        if let Err((message, hint)) = allow.get_ref().entry() {
            return Err(refused(allow.span(), message, hint));
        }
    }
    if let Some(heartbeat) = &raw.session.heartbeat
        && !HEARTBEATS.contains(&heartbeat.get_ref().0)
    {
        let given = text.get(heartbeat.span()).unwrap_or_default();
        let message = format!("{given} is no interval of heartbeats: it is from 100ms to 5m");
        return Err(refused(heartbeat.span(), message, "such as heartbeat = \"15s\""));
    }
    Ok(raw)
}

/// Why a URL is none of a Coder. What may be a secret is not repeated.
fn coder_url_fault(url: &Url) -> Option<String> {
    let part = if !url.username().is_empty() || url.password().is_some() {
        "a user or a password"
    } else if url.query().is_some() {
        "a query (`?…`)"
    } else if url.fragment().is_some() {
        "a fragment (`#…`)"
    } else if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Some("the URL of Coder begins with `https://` or `http://`, and names a host".to_owned());
    } else {
        return None;
    };
    Some(format!("the URL of Coder may not hold {part}"))
}

fn text(path: &Path) -> Result<String, ConfigError> {
    fs_err::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
    config_file::parse(text, &PLAIN).map_err(|error| ConfigError::Toml {
        path: path.to_owned(),
        line: error.line,
        column: error.column,
        message: error.message,
    })
}
