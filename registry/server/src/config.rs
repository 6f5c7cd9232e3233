//! Configuration: read once, checked whole, and only then anything is opened.
//!
//! `file` reads the TOML, [`Config::resolve`] lays flags and environment over it, reads the files that it names, and
//! yields a [`Config`] in which everything is valid. A value comes from a flag, else the environment, else the
//! file, else the default.

mod error;
pub(crate) mod file;
pub mod policy;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use orfe_platform::private;
use orfe_protocol::desired::{Coder, Credential, SLOTS_MAX};
use orfe_protocol::name::HostName;
use orfe_protocol::secret::Secret;
use orfe_tunnel::TcpStack;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use url::Url;

pub use self::error::ConfigError;
use self::file::ConfigFile;
pub use self::policy::{DnsConfig, PolicyEntry};

/// Largest PSK or certificate file that is read, in bytes.
const FILE_MAX: u64 = 128 * 1024;

/// Further UDP addresses of the gateway: each is a rung that devices try before WebSocket, and costs them 0.75 s where it is blocked.
const ALSO_MAX: usize = 4;

/// Longest public URL; a join code has room for 255 bytes.
const URL_MAX: usize = 200;

/// Everything that `serve` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the database, the keys and the admin socket.
    pub data: PathBuf,
    /// Where agents connect; port 0 takes any.
    pub listen: SocketAddr,
    /// How agents reach it from where they are; none: derived from `listen`, good on this machine only.
    pub public_url: Option<Url>,
    /// UDP address of the gateway; port 0 takes any.
    pub wireguard: SocketAddr,
    /// How devices reach it; none: the host of the public URL and the port of `wireguard`.
    pub wireguard_endpoint: Option<HostPort>,
    /// Loopback address of the dashboard; port 0 takes any.
    pub dashboard: SocketAddr,
    /// Certificate and key in PEM; none: one of our own making, whose key join codes pin.
    pub tls: Option<TlsPem>,
    /// What provisioners connect to; none: devices enrol and idle.
    pub coder: Option<Coder>,
    /// Provisioners on each device, 1 to [`SLOTS_MAX`].
    pub slots: u8,
    pub docker_required: bool,
    /// Whether devices reach what policy names through the gateway.
    pub tunnel: bool,
    /// Whether devices whose network passes no UDP may send the tunnel's datagrams over WebSocket.
    pub tunnel_websocket: bool,
    /// Further UDP addresses of the gateway, such as one at port 443; port 0 takes any.
    pub wireguard_also: Vec<SocketAddr>,
    /// Further ways to the gateway that devices try after the first; none: the first one's host at the ports of
    /// `wireguard_also`.
    pub also_endpoints: Option<Vec<HostPort>>,
    /// Threads of the gateway, at most four; none: one for each core.
    pub gateway_threads: Option<NonZeroU8>,
    /// The gateway's TCP stack: as a rule the kernel's where this system allows it private network namespaces, else smoltcp.
    pub gateway_tcp_stack: TcpStack,
    pub policy: Vec<PolicyEntry>,
    pub dns: DnsConfig,
    pub session: SessionConfig,
}

/// A certificate chain and its private key.
#[derive(Clone)]
pub struct TlsPem {
    pub certificate_chain: Vec<u8>,
    pub private_key: zeroize::Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for TlsPem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TlsPem([redacted])")
    }
}

/// How sessions are kept.
#[derive(Debug, Clone, Copy)]
pub struct SessionConfig {
    /// Interval of heartbeats in a small fleet; it grows with the number of sessions.
    pub heartbeat: Duration,
    /// From the end of a session to `offline`.
    pub hold_down: Duration,
    /// From the registry's start to `offline` for devices that do not come back.
    pub start_grace: Duration,
    /// How long one frame may take to be sent before the device counts as stuck.
    pub send_timeout: Duration,
    /// Claims that one source address may make in a second, on the average and at once.
    pub claims_per_second: f64,
    pub claims_at_once: f64,
    /// Sessions that are kept at one time.
    pub sessions_max: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            hold_down: Duration::from_secs(45),
            start_grace: Duration::from_secs(300),
            send_timeout: Duration::from_secs(10),
            claims_per_second: 5.0,
            claims_at_once: 20.0,
            sessions_max: 50_000,
        }
    }
}

/// `host:port`; the host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// Text that is no `host:port`.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not of the form host:port")]
pub struct InvalidHostPort(String);

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let invalid = || InvalidHostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port: u16 = port.parse().map_err(|_| invalid())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fits = match bracketed {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.parse::<Ipv4Addr>().is_ok() || host.parse::<HostName>().is_ok(),
        };
        if fits && port != 0 {
            Ok(Self {
                host: host.to_owned(),
                port,
            })
        } else {
            Err(invalid())
        }
    }
}

impl TryFrom<String> for HostPort {
    type Error = InvalidHostPort;

    fn try_from(text: String) -> Result<Self, InvalidHostPort> {
        text.parse()
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// What flags and environment say; none falls through to the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub data: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    pub public_url: Option<Url>,
    pub wireguard: Option<SocketAddr>,
    pub wireguard_endpoint: Option<HostPort>,
    pub dashboard: Option<SocketAddr>,
}

impl Config {
    /// A registry in `data` that is reachable on this machine only, on ports that the system chooses, without a tunnel
    /// and without a Coder.
    pub fn local(data: PathBuf) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            data,
            listen: any,
            public_url: None,
            wireguard: any,
            wireguard_endpoint: None,
            dashboard: any,
            tls: None,
            coder: None,
            slots: 1,
            docker_required: false,
            tunnel: false,
            tunnel_websocket: true,
            wireguard_also: Vec::new(),
            also_endpoints: None,
            gateway_threads: None,
            // The running program may be another than this one, and then it is no helper.
            gateway_tcp_stack: TcpStack::Smoltcp,
            policy: Vec::new(),
            dns: DnsConfig::default(),
            session: SessionConfig::default(),
        }
    }

    /// Reads the file, if one is named, lays `overrides` over it, and reads what it names. `default_data` is used when
    /// nothing names the data folder.
    pub fn resolve(
        file: Option<&Path>,
        overrides: Overrides,
        default_data: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let raw = file.map(file::read_checked).transpose()?.unwrap_or_default();
        // Paths in the file are relative to its folder, so that it can be moved together with them.
        let folder = file.and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
        let any = Ipv4Addr::UNSPECIFIED;
        let config = Self {
            data: overrides
                .data
                .or(raw.data.as_ref().map(|data| folder.join(data)))
                .or(default_data)
                .ok_or(ConfigError::NoData)?,
            listen: overrides.listen.or(raw.listen).unwrap_or((any, 7443).into()),
            public_url: overrides.public_url.or(raw.public_url.clone()),
            wireguard: overrides
                .wireguard
                .or(raw.wireguard)
                .unwrap_or((any, 51820).into()),
            wireguard_endpoint: overrides.wireguard_endpoint.or(raw.wireguard_endpoint.clone()),
            dashboard: overrides
                .dashboard
                .or(raw.dashboard)
                .unwrap_or((Ipv4Addr::LOCALHOST, 7480).into()),
            tls: read_tls(&raw, &folder)?,
            coder: read_coder(&raw, &folder)?,
            slots: raw.coder.as_ref().and_then(|coder| coder.slots).unwrap_or(1),
            docker_required: raw.docker_required,
            tunnel: raw.tunnel.enabled,
            tunnel_websocket: raw.tunnel.websocket,
            wireguard_also: raw.tunnel.also_listen.clone(),
            also_endpoints: raw.tunnel.also_endpoints.clone(),
            gateway_threads: raw.tunnel.threads,
            gateway_tcp_stack: raw.tunnel.tcp_stack.into(),
            // Each was checked when the file was read.
            policy: raw
                .policy
                .allow
                .iter()
                .filter_map(|allow| allow.get_ref().entry().ok())
                .collect(),
            dns: raw.dns.config(),
            session: session(&raw),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.dashboard.ip().is_loopback() {
            return Err(ConfigError::DashboardNotLoopback {
                address: self.dashboard,
            });
        }
        let udp = std::iter::once(&self.wireguard).chain(&self.wireguard_also);
        let mut seen = std::collections::BTreeSet::new();
        if let Some(address) = udp
            .filter(|address| address.port() != 0)
            .find(|address| !seen.insert(**address))
        {
            return Err(ConfigError::ListenTwice { address: *address });
        }
        if self.wireguard_also.len() > ALSO_MAX {
            return Err(ConfigError::AlsoListen {
                count: self.wireguard_also.len(),
            });
        }
        if let Some(url) = &self.public_url {
            let fits = url.scheme() == "https" && url.host().is_some() && url.as_str().len() <= URL_MAX;
            if !fits || url.path() != "/" || url.query().is_some() || !url.username().is_empty() {
                return Err(ConfigError::PublicUrl { url: url.clone() });
            }
        }
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(ConfigError::Slots { slots: self.slots });
        }
        match policy::named_twice(&self.policy) {
            Some((name, port)) => Err(ConfigError::PolicyTwice { name, port }),
            None => Ok(()),
        }
    }

    /// What is allowed and still is probably not meant.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.public_url.is_none() {
            warnings.push(
                "no public URL: join codes work on this machine only; name one with `--public-url`"
                    .to_owned(),
            );
        }
        let Some(coder) = &self.coder else {
            warnings.push("no [coder] in the configuration: devices enrol and stay idle".to_owned());
            return warnings;
        };
        let Some(host) = coder.url.host_str().filter(|_| self.tunnel) else {
            return warnings;
        };
        if coder.is_past_proxies() {
            warnings.push(format!(
                "Coder's URL names this machine's loopback (`{host}`), which Go programs dial past every proxy: devices would go around the tunnel"
            ));
        }
        let port = coder.url.port_or_known_default().unwrap_or_default();
        let mut entries = self
            .policy
            .iter()
            .filter(|entry| entry.name().is_some_and(|name| name.as_str() == host));
        if entries.clone().next().is_none() {
            warnings.push(format!(
                "the policy does not name `{host}`: devices dial Coder directly"
            ));
        } else if !entries.any(|entry| entry.ports.contains(port)) {
            warnings.push(format!(
                "the policy does not allow port {port} of `{host}`, which Coder's URL names"
            ));
        }
        warnings
    }
}

fn session(raw: &ConfigFile) -> SessionConfig {
    let default = SessionConfig::default();
    let table = &raw.session;
    SessionConfig {
        heartbeat: table
            .heartbeat
            .as_ref()
            .map_or(default.heartbeat, |span| span.get_ref().0),
        hold_down: table.hold_down.map_or(default.hold_down, |span| span.0),
        start_grace: table.start_grace.map_or(default.start_grace, |span| span.0),
        ..default
    }
}

fn read_coder(raw: &ConfigFile, folder: &Path) -> Result<Option<Coder>, ConfigError> {
    let Some(table) = &raw.coder else { return Ok(None) };
    let path = folder.join(&table.psk_file);
    let bytes = zeroize::Zeroizing::new(private::read(&path, FILE_MAX).map_err(ConfigError::Private)?);
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| ConfigError::Psk { path: path.clone() })?
        .trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(ConfigError::Psk { path });
    }
    let ca_pem = table
        .ca_file
        .as_ref()
        .map(|file| read_ca(&folder.join(file)))
        .transpose()?;
    Ok(Some(Coder {
        url: table.url.get_ref().clone(),
        credential: Credential::Psk(Secret::new(text.to_owned())),
        ca_pem,
    }))
}

fn read_ca(path: &Path) -> Result<String, ConfigError> {
    let pem = read_public(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match (certificates, String::from_utf8(pem)) {
        (Ok(certificates), Ok(text)) if !certificates.is_empty() => Ok(text),
        _ => Err(ConfigError::Pem {
            path: path.to_owned(),
        }),
    }
}

fn read_tls(raw: &ConfigFile, folder: &Path) -> Result<Option<TlsPem>, ConfigError> {
    let Some(table) = &raw.tls else { return Ok(None) };
    let certificate_chain = read_public(&folder.join(&table.certificate_file))?;
    let private_key = private::read(&folder.join(&table.key_file), FILE_MAX).map_err(ConfigError::Private)?;
    Ok(Some(TlsPem {
        certificate_chain,
        private_key: private_key.into(),
    }))
}

/// A file that is no secret, of bounded size.
fn read_public(path: &Path) -> Result<Vec<u8>, ConfigError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs_err::File::open(path)
        .and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes))
        .map_err(|source| ConfigError::Named { source })?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
