//! TUN mode: the tunnel as a network device of this host.
//!
//! What is changed, and how it goes away again:
//!
//! | change | by | goes with |
//! |---|---|---|
//! | device, addresses, MTU, queue length | tun-rs | the process: the device lives as long as its descriptor (utun: its socket; Wintun: its handle) |
//! | routes to the given networks | `route_manager` (netlink, routing socket, IP helper) | the device |
//! | split DNS, only when asked for: Linux | `resolvectl` | the device; also taken back by [`HostTunnel::stop`] |
//! | … macOS | a file for each domain in `/etc/resolver` | [`HostTunnel::stop`], or after a crash the next start |
//! | … Windows | rules of the name resolution policy table, in the registry | [`HostTunnel::stop`], or after a crash the next start |
//! | Linux: forwarding of bridges, a table that guards the device | `/proc/sys`, `nft` | [`HostTunnel::stop`], or after a crash the next start |
//!
//! What outlives a killed process is written to a journal before it is done; see the module `journal`. Device, addresses and routes are not
//! in it on any system: there is no moment at which they are there and the process is not. Routes go through a library because that is well-formed netlink with errors as numbers, and one
//! that tun-rs brings along where it sets routes. The table goes through `nft`, whose language is the stable interface and whose transactions
//! are atomic: either the whole table is there or nothing of it.
//!
//! `/etc/resolv.conf` is never written. `ip_forward` is never switched on for the whole host: forwarding is enabled for
//! the bridges and the device alone. The table drops what would go into the tunnel from anywhere else, and what comes out of it
//! unasked.

mod change;
mod dns;
mod imp;
mod journal;
mod program;
mod routes;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use orfe_tunnel_core::{AllowedIp, Node, PublicKey};
use socket2::Socket;
use tokio::sync::watch;

use self::change::Change;
use self::journal::Journal;
use super::{DataPath, DataPathConfig, Interface, TunDevice, TunOptions};
pub use crate::client::SplitDns;
use crate::client::TunnelStatus;
use crate::connections::{SocketKind, Sockets};
use crate::dial::BoxFuture;
use crate::udp::UdpPort;

/// What TUN mode is made from.
#[derive(Debug)]
pub struct HostTunnelConfig {
    /// The device. Its addresses are single hosts of the tunnel (`/32`, `/128`) or networks.
    pub device: TunOptions,
    /// What is reached through the tunnel. None of them may contain the gateway's outer address.
    pub networks: Vec<AllowedIp>,
    /// Names that are looked up through the tunnel; `None` leaves DNS as it is.
    pub dns: Option<SplitDns>,
    /// Bridges whose containers may use the tunnel, such as `docker0`, with this host's address in it.
    pub bridges: Vec<String>,
    /// Where the journal is kept: a folder that only this user writes to.
    pub state: PathBuf,
    /// The outer side.
    pub udp: UdpPort,
    /// Keys and peers.
    pub node: Node,
    /// The peer at the other end.
    pub gateway: PublicKey,
}

/// Why TUN mode could not be set up. Everything that had been changed is taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostTunnelError {
    /// The device could not be made.
    #[error("TUN device `{name}` cannot be made, which needs {}", imp::DEVICE_NEEDS)]
    Device {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The gateway would be reached through the tunnel that leads to it.
    #[error(
        "network {network} contains the gateway's own address {endpoint}; leave it out of the routed networks"
    )]
    Loop {
        /// The network.
        network: AllowedIp,
        /// The gateway's outer address.
        endpoint: IpAddr,
    },
    /// A route was refused.
    #[error("route to {network} through `{device}` cannot be set")]
    Route {
        /// The network.
        network: AllowedIp,
        /// The device.
        device: String,
        /// What the system said.
        source: io::Error,
    },
    /// A name that is no interface's.
    #[error("`{name}` is no name of a network interface: 1 to 15 letters, digits, `-`, `_` or `.`")]
    InterfaceName {
        /// The name.
        name: String,
    },
    /// DNS cannot be split here.
    #[error("split DNS cannot be set up for `{device}`: {reason}. {}", imp::DNS_REMEDY)]
    Dns {
        /// The device.
        device: String,
        /// Why.
        reason: String,
    },
    /// Containers cannot be let into the tunnel.
    #[error(
        "containers cannot be let into the tunnel: {reason}. {}",
        imp::FORWARDING_REMEDY
    )]
    Forwarding {
        /// Why.
        reason: String,
    },
    /// The journal cannot be kept, and without it nothing is changed.
    #[error("no journal of changes to this host can be kept")]
    Journal {
        /// What the system said.
        #[from]
        source: journal::JournalError,
    },
    /// The threads could not be started.
    #[error("the data path cannot be started")]
    Start(#[source] io::Error),
}

impl HostTunnelError {
    /// What a person can do about it, where the error does not say so itself.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Device { .. } => Some(imp::DEVICE_HINT),
            Self::Route { .. } => Some("look whether another tunnel leads to the same network"),
            _ => None,
        }
    }
}

/// A tunnel as a device of this host. Dropping it takes back what was changed and waits for the threads: that blocks for
/// some milliseconds, and an asynchronous caller has [`HostTunnel::stop`].
#[derive(Debug)]
pub struct HostTunnel {
    interface: Interface,
    path: Arc<DataPath>,
    journal: SharedJournal,
    unguarded: Option<String>,
}

/// The journal of a tunnel, for changes that are under way on another thread when it ends; none when it has ended.
type SharedJournal = Arc<Mutex<Option<Journal>>>;

impl HostTunnel {
    /// Takes away what an earlier process left, makes the device, starts the data path, and changes the host.
    ///
    /// Blocks for some milliseconds, for `nft` and `resolvectl`.
    pub fn start(config: HostTunnelConfig) -> Result<Self, HostTunnelError> {
        Self::start_telling(config, None)
    }

    /// The same with a state that somebody else has a part in.
    pub(crate) fn start_telling(
        config: HostTunnelConfig,
        publisher: Option<watch::Sender<TunnelStatus>>,
    ) -> Result<Self, HostTunnelError> {
        let mut journal = Journal::open(&config.state)?;
        check(&config)?;
        let changed = Self::change(config, publisher, &mut journal);
        if changed.is_err() {
            journal.undo();
        }
        let (interface, path, unguarded) = changed?;
        Ok(Self {
            interface,
            path: Arc::new(path),
            journal: Arc::new(Mutex::new(Some(journal))),
            unguarded,
        })
    }

    /// On an error there is no device any more; what stands in the journal is to be taken back.
    fn change(
        config: HostTunnelConfig,
        publisher: Option<watch::Sender<TunnelStatus>>,
        journal: &mut Journal,
    ) -> Result<(Interface, DataPath, Option<String>), HostTunnelError> {
        let made = TunDevice::create(&config.device);
        let (device, interface) = made.map_err(|source| HostTunnelError::Device {
            name: config.device.name,
            source,
        })?;
        let name = &interface.name;
        // Before a packet can pass it.
        let unguarded = imp::allow_bridges(name, &config.bridges, journal)?;
        let path = DataPathConfig {
            device,
            udp: config.udp,
            node: config.node,
            gateway: config.gateway,
            stack: "host",
        };
        let path = match publisher {
            Some(publisher) => DataPath::start_telling(path, publisher),
            None => DataPath::start(path),
        };
        let path = path.map_err(HostTunnelError::Start)?;
        let changed = routes::add(&interface, &config.networks).and_then(|()| match &config.dns {
            Some(dns) => dns::split(name, dns, journal),
            None => Ok(()),
        });
        match changed {
            Ok(()) => Ok((interface, path, unguarded)),
            Err(error) => {
                path.stop_blocking();
                Err(error)
            }
        }
    }

    /// The device, by the name that it got.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// The data path.
    pub fn path(&self) -> &DataPath {
        &self.path
    }

    /// The data path, for tasks that must not keep the device.
    pub(crate) fn shared_path(&self) -> &Arc<DataPath> {
        &self.path
    }

    /// What was left open at the start because this host has no packet filter, in words for people.
    pub fn unguarded(&self) -> Option<&str> {
        self.unguarded.as_deref()
    }

    /// Lets containers of these bridges into the tunnel, and of no others. Gives what [`HostTunnel::unguarded`] does, as it is
    /// then. What was begun is done though nobody waits for it. A runtime of tokio has to be entered.
    pub fn set_bridges(
        &self,
        bridges: Vec<String>,
    ) -> impl Future<Output = Result<Option<String>, HostTunnelError>> + Send + use<> {
        let (device, journal) = (self.interface.name.clone(), Arc::clone(&self.journal));
        // Programs are run for it.
        let setting = tokio::task::spawn_blocking(move || set_bridges(&device, &bridges, &journal));
        async move {
            setting.await.unwrap_or_else(|error| {
                Err(HostTunnelError::Forwarding {
                    reason: error.to_string(),
                })
            })
        }
    }

    /// Takes back what was changed, and ends the data path and the device.
    pub async fn stop(self) {
        // Programs are run for it, and threads are waited for.
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::error!("the changes to this host were not all taken back; the next start does");
        }
    }
}

/// Sockets of this host that are bound to a device: when its routes are gone, nothing goes another way.
#[derive(Debug)]
pub(crate) struct HostSockets(pub(crate) Interface);

impl Sockets for HostSockets {
    fn socket(&self, kind: SocketKind) -> BoxFuture<'_, io::Result<Socket>> {
        Box::pin(async move {
            let socket = kind.socket()?;
            imp::bind_socket(&socket, &self.0, kind.is_v4())?;
            Ok(socket)
        })
    }
}

impl Drop for HostTunnel {
    fn drop(&mut self) {
        // The device goes before what guards it.
        self.path.stop_blocking();
        // The journal is taken, so that a change which was to be made meanwhile is not.
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut journal) = journal {
            journal.undo();
        }
    }
}

fn set_bridges(
    device: &str,
    bridges: &[String],
    journal: &SharedJournal,
) -> Result<Option<String>, HostTunnelError> {
    if let Some(name) = bridges.iter().find(|name| !change::is_interface(name)) {
        return Err(HostTunnelError::InterfaceName { name: name.clone() });
    }
    match &mut *journal.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(journal) => imp::replace_bridges(device, bridges, journal),
        None => Ok(None),
    }
}

/// Takes away what a killed process left on this host. [`HostTunnel::start`] does so, too; this is for an agent that no
/// longer uses TUN mode.
pub fn clean_up(state: &Path) -> Result<(), HostTunnelError> {
    if Journal::exists(state) {
        Journal::open(state)?;
    }
    Ok(())
}

fn check(config: &HostTunnelConfig) -> Result<(), HostTunnelError> {
    for name in config.bridges.iter().chain([&config.device.name]) {
        if !change::is_interface(name) {
            return Err(HostTunnelError::InterfaceName { name: name.clone() });
        }
    }
    let endpoint = config
        .node
        .stats(&config.gateway)
        .and_then(|stats| stats.endpoint)
        .map(|endpoint| endpoint.ip());
    if let Some(endpoint) = endpoint
        && let Some(network) = config.networks.iter().find(|network| network.contains(endpoint))
    {
        return Err(HostTunnelError::Loop {
            network: *network,
            endpoint,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_that_are_set_when_the_tunnel_has_ended_change_nothing() {
        let ended = Arc::new(Mutex::new(None));
        let bridges = ["no-such-link".to_owned()];
        assert_eq!(set_bridges("no-such-link", &bridges, &ended).unwrap(), None);
        let refused = set_bridges("no-such-link", &["../x".to_owned()], &ended);
        assert!(matches!(refused, Err(HostTunnelError::InterfaceName { .. })));
    }
}
