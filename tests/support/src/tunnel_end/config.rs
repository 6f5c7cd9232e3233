//! The configuration of `tunnel-end`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use orfe_tunnel::{AllowedIp, PrivateKey, TcpStack};
use orfe_tunnel_core::{HandshakeLimits, Node, NodeConfig, PeerConfig};
use serde::Deserialize;

use super::Result;

/// What stands on standard input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which data path.
    pub mode: Mode,
    /// Our key, base64.
    private_key: String,
    /// Where UDP is bound.
    pub listen: SocketAddr,
    /// Largest inner packet.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Our inner addresses, `ADDRESS/PREFIX`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The device's name, in the modes that have one.
    #[serde(default = "default_device")]
    pub device: String,
    /// Whether the device exchanges large packets with the kernel.
    #[serde(default = "default_true")]
    pub offload: bool,
    /// The other ends; the first is the gateway of a device.
    pub peers: Vec<Peer>,
    /// The TCP stack, in the modes without a device; `auto` unless it says so.
    #[serde(default)]
    tcp_stack: Option<String>,
    /// The local proxy of mode `userspace`.
    #[serde(default)]
    pub proxy: Option<LocalProxy>,
    /// What a gateway lets its peers reach.
    #[serde(default)]
    pub policy: Vec<Named>,
    /// A gateway's threads; as many as suit the machine unless it says so.
    #[serde(default)]
    pub threads: Option<NonZeroU8>,
    /// Mode `tun` with routes and all that belongs to it; without it there is the bare device.
    #[serde(default)]
    pub host: Option<Host>,
}

/// The local proxy of an end without a device.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalProxy {
    /// Where it listens, on loopback.
    pub listen: SocketAddr,
    /// The names that it reaches through the tunnel.
    pub names: BTreeMap<String, Reached>,
}

/// What a name stands for inside the tunnel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reached {
    /// Its address.
    pub address: IpAddr,
    /// The ports that may be reached there.
    pub ports: Vec<u16>,
}

/// One entry of a gateway's policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// What it is called.
    pub name: String,
    /// Its address inside the tunnel.
    pub address: IpAddr,
    /// Where its ports lead.
    pub ports: BTreeMap<u16, SocketAddr>,
}

/// What TUN mode changes on the host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Networks to be routed.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Bridges that are let into the tunnel.
    #[serde(default)]
    pub bridges: Vec<String>,
    /// Where the journal is.
    pub state: PathBuf,
}

/// Which data path an end has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A TUN device on the host.
    Tun,
    /// No device: TCP of its own, behind a local proxy.
    Userspace,
    /// The cluster's end, with a policy.
    Gateway,
}

/// Another end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its key, base64.
    pub public_key: String,
    /// Where it is, if this end is to start.
    #[serde(default)]
    pub endpoint: Option<SocketAddr>,
    /// What it may use inside.
    pub allowed_ips: Vec<String>,
    /// Keepalive in seconds.
    #[serde(default)]
    pub keepalive: Option<u16>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("mode", &self.mode)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// The interval of keepalives.
    pub fn keepalive(&self) -> Option<Duration> {
        self.keepalive.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

impl Config {
    /// Our key.
    pub fn private_key(&self) -> Result<PrivateKey> {
        Ok(self.private_key.parse()?)
    }

    /// The TCP stack that is asked for.
    pub fn tcp_stack(&self) -> Result<TcpStack> {
        Ok(self
            .tcp_stack
            .as_deref()
            .unwrap_or(TcpStack::Auto.as_str())
            .parse()?)
    }

    /// Our inner addresses with their prefix lengths.
    pub fn inner(&self) -> Result<Vec<(IpAddr, u8)>> {
        self.addresses
            .iter()
            .map(|text| {
                let (address, prefix) = text.split_once('/').ok_or("an address without prefix length")?;
                Ok((address.parse()?, prefix.parse()?))
            })
            .collect()
    }

    /// A node with all peers.
    pub fn node(&self) -> Result<Node> {
        let now = std::time::Instant::now();
        let config = NodeConfig {
            private_key: self.private_key()?,
            mtu: usize::from(self.mtu),
            limits: HandshakeLimits::default(),
        };
        let mut node = Node::new(config, now);
        for peer in &self.peers {
            let allowed_ips: Result<Vec<AllowedIp>> =
                peer.allowed_ips.iter().map(|text| Ok(text.parse()?)).collect();
            let config = PeerConfig {
                public_key: peer.public_key.parse()?,
                preshared_key: None,
                endpoint: peer.endpoint,
                allowed_ips: allowed_ips?,
                keepalive: peer.keepalive(),
            };
            node.set_peer(config, now)?;
        }
        Ok(node)
    }
}

fn default_mtu() -> u16 {
    1420
}

fn default_device() -> String {
    "tun%d".to_owned()
}

fn default_true() -> bool {
    true
}
