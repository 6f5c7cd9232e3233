//! What a tunnel is made from.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use orfe_tunnel_core::{AllowedIp, PresharedKey, PrivateKey, PublicKey};

/// What a tunnel is made from.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// The device's static key.
    pub private_key: PrivateKey,
    /// The device's addresses inside the tunnel, at most one for each family is used.
    pub addresses: Vec<IpAddr>,
    /// The gateway.
    pub peer: TunnelPeer,
    /// Largest inner packet, 1280 to 9216 bytes. 1280 passes everywhere; more is used at once, unless the path is
    /// measured ([`Tunnel::measure_path`](crate::Tunnel::measure_path)).
    pub mtu: usize,
    /// Where UDP is bound; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Which TCP stack carries the connections.
    pub tcp_stack: TcpStack,
    /// The program that becomes the namespace helper, if one is needed. It has to call
    /// [`run_namespace_helper_if_asked`](crate::run_namespace_helper_if_asked) first of all.
    pub helper: PathBuf,
}

impl TunnelConfig {
    /// The MTU that passes everywhere, IPv6 outside and nested tunnels included.
    pub const DEFAULT_MTU: usize = 1280;

    /// The MTU that can be reached where the path is measured: an Ethernet path over IPv6.
    pub const MEASURED_MTU: usize = orfe_tunnel_core::path::MTU_MAX as usize;

    /// The running program, whatever has become of its file since.
    pub fn this_program() -> PathBuf {
        PathBuf::from("/proc/self/exe")
    }
}

/// What TUN mode adds to a [`TunnelConfig`]: how the tunnel becomes a part of the host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Name of the device, 1 to 15 letters, digits, `-`, `_` or `.`.
    pub device: String,
    /// What the host routes into the tunnel, each once. None of them may contain an outer address of the gateway.
    pub networks: Vec<AllowedIp>,
    /// Names that are looked up through the tunnel; `None` leaves DNS as it is.
    pub dns: Option<SplitDns>,
    /// Bridges whose containers may use the tunnel, such as `docker0`.
    pub bridges: Vec<String>,
    /// Where the journal of changes to the host is kept: a folder that only this user writes to.
    pub state: PathBuf,
}

/// Which names are asked of whom.
#[derive(Debug, Clone)]
pub struct SplitDns {
    /// Name servers inside the tunnel.
    pub servers: Vec<IpAddr>,
    /// Domains with all names below them.
    pub domains: Vec<String>,
}

/// Which TCP stack carries the connections of a tunnel in userspace mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TcpStack {
    /// The kernel's where a private network namespace may be made, smoltcp elsewhere.
    #[default]
    Auto,
    /// The kernel's, in a private network namespace; no tunnel without it.
    Namespace,
    /// smoltcp.
    Smoltcp,
}

impl TcpStack {
    /// The name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Namespace => "namespace",
            Self::Smoltcp => "smoltcp",
        }
    }
}

impl fmt::Display for TcpStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is the name of no TCP stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a TCP stack is `auto`, `namespace` or `smoltcp`")]
pub struct ParseTcpStackError;

impl FromStr for TcpStack {
    type Err = ParseTcpStackError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Auto, Self::Namespace, Self::Smoltcp]
            .into_iter()
            .find(|stack| stack.as_str() == text)
            .ok_or(ParseTcpStackError)
    }
}

/// The gateway as a device knows it.
#[derive(Debug, Clone)]
pub struct TunnelPeer {
    /// The gateway's key.
    pub public_key: PublicKey,
    /// The symmetric key that both mix in, if any.
    pub preshared_key: Option<PresharedKey>,
    /// Where the gateway is; none until [`Tunnel::set_endpoint`](super::Tunnel::set_endpoint) says. Nothing is sent before.
    pub endpoint: Option<SocketAddr>,
    /// What lies behind the gateway.
    pub allowed_ips: Vec<AllowedIp>,
    /// Interval of keepalives; it also keeps the session. Without it the tunnel is made when it is used.
    pub keepalive: Option<Duration>,
}
