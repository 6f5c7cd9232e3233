//! Which way a connection goes: a pure function of the policy's table and the target.
//!
//! While a tunnel is wanted, a name of the policy goes through the tunnel or nowhere, and so does an address in a network
//! of the policy. The inner addresses of the tunnel's own ends are refused unless policy has a rule for them. Everything else
//! goes directly, or through the machine owner's own HTTP proxy, and never to this machine
//! itself or to its link. A name that is not the policy's and resolves to an address behind the tunnel is refused: whoever
//! answers for that name is not asked for a way into the cluster.
//!
//! Other names below a suffix of the gateway's DNS go through the tunnel or nowhere, too: their addresses are asked inside
//! it, and only those that lie in a network of the policy are dialled.
//!
//! Datagrams follow the same rules with UDP ports of their own. An HTTP proxy carries none, so what the owner sends through
//! one is refused as a datagram and does not slip past it.

mod address;
mod lookup;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use orfe_tunnel_core::AllowedIp;

pub(super) use self::address::AddressRule;
pub(super) use self::lookup::Lookup;
use super::refusal::Refusal;
use super::target::{Host, Target, TargetError};
use super::upstream::UpstreamProxy;

const DNS_PORT: u16 = 53;

/// Whether the desired state wants a tunnel. "Wanted" says nothing about whether it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TunnelWanted {
    /// Policy names are public names: they are resolved and dialled like any other.
    Off,
    /// Policy names go through the tunnel or nowhere. The default, because it fails closed.
    #[default]
    Wanted,
}

/// Everything that the proxy routes by. A new value takes effect with the next request; connections that are open
/// stay as they are until they are cut.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    names: BTreeMap<String, PolicyName>,
    networks: Vec<PolicyNetwork>,
    /// Inner addresses of the tunnel's own ends, which no rule of the policy has to name.
    ends: BTreeSet<IpAddr>,
    /// Names at and below these are asked of `dns_server`; in lower case, without dots at their ends.
    suffixes: Vec<String>,
    dns_server: Option<SocketAddr>,
    tunnel: TunnelWanted,
    upstream_proxy: Option<Arc<UpstreamProxy>>,
}

#[derive(Debug, Clone)]
struct PolicyName {
    inner: IpAddr,
    ports: BTreeSet<u16>,
    udp_ports: BTreeSet<u16>,
}

#[derive(Debug, Clone)]
struct PolicyNetwork {
    network: AllowedIp,
    ports: NetworkPorts,
    udp_ports: BTreeSet<u16>,
}

/// TCP ports of a network that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkPorts {
    All,
    /// These and no others, be they none.
    Only(BTreeSet<u16>),
}

impl NetworkPorts {
    /// These and no others.
    pub fn of(ports: impl IntoIterator<Item = u16>) -> Self {
        Self::Only(ports.into_iter().collect())
    }

    fn contain(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(ports) => ports.contains(&port),
        }
    }
}

/// What is to be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A connection.
    Tcp,
    /// Datagrams.
    Udp,
}

/// The way that a connection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Through the tunnel to an inner address.
    Tunnel,
    /// From this machine's own network.
    Direct,
    /// Through the machine owner's own HTTP proxy.
    Upstream,
}

/// What to do with a target.
#[derive(Debug)]
pub(super) enum Decision {
    Go(Way),
    Refuse(Refusal),
}

/// A route with all that is needed to take it.
#[derive(Debug)]
pub(super) enum Way {
    Tunnel(SocketAddr),
    /// Through the tunnel, at an address that is asked there.
    Lookup(Lookup),
    Direct(AddressRule),
    Upstream(Arc<UpstreamProxy>),
}

impl Way {
    pub(super) fn route(&self) -> Route {
        match self {
            Self::Tunnel(_) | Self::Lookup(_) => Route::Tunnel,
            Self::Direct(_) => Route::Direct,
            Self::Upstream(_) => Route::Upstream,
        }
    }
}

impl Routes {
    /// An empty table.
    pub fn new(tunnel: TunnelWanted) -> Self {
        Self {
            tunnel,
            ..Self::default()
        }
    }

    /// Adds a name of the policy with its inner address and the ports that may be reached there. The name is taken
    /// in any case, with or without its trailing dot; a name that stood there before is replaced.
    ///
    /// # Errors
    /// The text is not a DNS name.
    pub fn add_name(
        &mut self,
        name: &str,
        inner: IpAddr,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<(), TargetError> {
        match Host::parse(name)? {
            Host::Name(name) => {
                let entry = PolicyName {
                    inner: inner.to_canonical(),
                    ports: ports.into_iter().collect(),
                    udp_ports: BTreeSet::new(),
                };
                self.names.insert(name, entry);
                Ok(())
            }
            Host::Ip(_) => Err(TargetError::BadHost),
        }
    }

    /// Lets datagrams through to a name that was added, at these UDP ports. A name that is not there stays unknown.
    pub fn allow_datagrams(&mut self, name: &str, ports: impl IntoIterator<Item = u16>) {
        if let Ok(Host::Name(name)) = Host::parse(name)
            && let Some(entry) = self.names.get_mut(&name)
        {
            entry.udp_ports.extend(ports);
        }
    }

    /// Adds a network that is reached by address, at these ports.
    pub fn add_network(
        &mut self,
        network: AllowedIp,
        ports: NetworkPorts,
        udp_ports: impl IntoIterator<Item = u16>,
    ) {
        self.networks.push(PolicyNetwork {
            network,
            ports,
            udp_ports: udp_ports.into_iter().collect(),
        });
    }

    /// Adds an inner address of one of the tunnel's ends: the gateway's or this device's. It is reached where policy has a
    /// name or a network for it, and refused otherwise: outside the tunnel the same address is somebody else's.
    pub fn add_end(&mut self, address: IpAddr) {
        self.ends.insert(address.to_canonical());
    }

    /// What [`Routes::add_end`] added.
    pub fn ends(&self) -> &BTreeSet<IpAddr> {
        &self.ends
    }

    /// Names at and below `suffix` that policy does not name are asked of the gateway's DNS, at [`Routes::set_dns_servers`],
    /// and reached through the tunnel or not at all. The suffix is taken in any case, with or without its trailing dot.
    ///
    /// # Errors
    /// The text is not a DNS name. The root is none: then every name would be the cluster's.
    pub fn add_suffix(&mut self, suffix: &str) -> Result<(), TargetError> {
        match Host::parse(suffix)? {
            Host::Name(suffix) => {
                self.suffixes.push(suffix);
                Ok(())
            }
            Host::Ip(_) => Err(TargetError::BadHost),
        }
    }

    /// Sets the addresses inside the tunnel at which the gateway answers DNS; the first is asked, over TCP.
    pub fn set_dns_servers(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let first = addresses.into_iter().next();
        self.dns_server = first.map(|address| SocketAddr::new(address, DNS_PORT));
    }

    /// Sets or clears the owner's own proxy, through which everything goes that does not go through the tunnel.
    pub fn set_upstream_proxy(&mut self, proxy: Option<UpstreamProxy>) {
        self.upstream_proxy = proxy.map(Arc::new);
    }

    /// Whether the policy has this name with this port. The name is in lower case, as targets are.
    pub(super) fn names(&self, name: &str, port: u16) -> bool {
        self.names
            .get(name)
            .is_some_and(|entry| entry.ports.contains(&port))
    }

    pub(super) fn decide(&self, target: &Target, transport: Transport) -> Decision {
        let port = target.port;
        let inside = self.behind_tunnel(&target.host, port, transport);
        if self.tunnel == TunnelWanted::Wanted
            && let Some((inner, allowed)) = inside
        {
            return if allowed {
                Decision::Go(Way::Tunnel(SocketAddr::new(inner, port)))
            } else {
                Decision::Refuse(Refusal::PortNotInPolicy(port))
            };
        }
        if let Some(decision) = self.below_suffix(target, transport) {
            return decision;
        }
        let rule = self.address_rule(inside.is_some_and(|(_, allowed)| allowed));
        if let Err(refusal) = rule.check_host(&target.host) {
            return Decision::Refuse(refusal);
        }
        match &self.upstream_proxy {
            Some(proxy) if proxy.applies_to(target) => match transport {
                Transport::Tcp => Decision::Go(Way::Upstream(Arc::clone(proxy))),
                Transport::Udp => Decision::Refuse(Refusal::NoDatagramsThroughProxy),
            },
            _ => Decision::Go(Way::Direct(rule)),
        }
    }

    /// What holds for a name of the cluster that policy does not name; `None` for all other hosts.
    fn below_suffix(&self, target: &Target, transport: Transport) -> Option<Decision> {
        let Host::Name(name) = &target.host else {
            return None;
        };
        let is_below = || self.suffixes.iter().any(|suffix| lookup::is_below(name, suffix));
        if self.tunnel == TunnelWanted::Off || !is_below() {
            return None;
        }
        Some(match self.dns_server {
            None => Decision::Refuse(Refusal::NameNotResolved),
            Some(server) => Decision::Go(Way::Lookup(Lookup {
                name: name.clone(),
                server,
                port: target.port,
                transport,
                networks: self.networks.clone(),
            })),
        })
    }

    fn address_rule(&self, local: bool) -> AddressRule {
        let (inner, networks) = match self.tunnel {
            TunnelWanted::Off => (BTreeSet::new(), Arc::default()),
            TunnelWanted::Wanted => (
                self.names
                    .values()
                    .map(|name| name.inner)
                    .chain(self.ends.iter().copied())
                    .collect(),
                self.networks.iter().map(|entry| entry.network).collect(),
            ),
        };
        AddressRule {
            local,
            inner,
            networks,
        }
    }

    /// The address behind the tunnel that stands for a host, and whether policy allows the port there; `None` for a host
    /// that policy does not know. Names that share an inner address share their ports, and an address has the ports of every
    /// network that it is in, because the gateway sees the address alone.
    fn behind_tunnel(&self, host: &Host, port: u16, transport: Transport) -> Option<(IpAddr, bool)> {
        match host {
            Host::Name(name) => self
                .names
                .get(name)
                .map(|entry| (entry.inner, entry.allows(port, transport))),
            Host::Ip(address) if self.tunnel == TunnelWanted::Wanted => {
                let names = self.names.values().filter(|entry| entry.inner == *address);
                let networks = self
                    .networks
                    .iter()
                    .filter(|entry| entry.network.contains(*address));
                let allowed: Vec<bool> = names
                    .map(|entry| entry.allows(port, transport))
                    .chain(networks.map(|entry| entry.allows(port, transport)))
                    .collect();
                let known = !allowed.is_empty();
                known.then(|| (*address, allowed.contains(&true)))
            }
            Host::Ip(_) => None,
        }
    }
}

impl PolicyName {
    fn allows(&self, port: u16, transport: Transport) -> bool {
        match transport {
            Transport::Tcp => self.ports.contains(&port),
            Transport::Udp => self.udp_ports.contains(&port),
        }
    }
}

impl PolicyNetwork {
    fn allows(&self, port: u16, transport: Transport) -> bool {
        match transport {
            Transport::Tcp => self.ports.contain(port),
            Transport::Udp => self.udp_ports.contains(&port),
        }
    }
}

#[cfg(test)]
mod tests;
