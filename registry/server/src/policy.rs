//! The policy with inner addresses, and what of it holds for whom.
//!
//! One list of rules goes to the gateway; which of them hold for a device or a person goes with each peer, and the device's
//! own desired state names the same ones. All three come from here, so they cannot differ.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use orfe_protocol::desired::{NamedDestination, NetworkDestination, TcpPorts};
use orfe_protocol::name::HostName;
use orfe_protocol::tag::Tags;
use orfe_store::{Peer, Subnet, Ula};
use orfe_tunnel::{Access, Destination, DnsPolicy, Policy, PolicyError, Ports, Rule, Upstream, Via};

use crate::config::policy::{PolicyDestination, PortSet};
use crate::config::{HostPort, PolicyEntry};

/// The gateway's own address inside the tunnel; below those of policy's names.
pub(crate) const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 127, 0, 1);

/// The gateway's address in the network of people's peers.
pub(crate) const PEOPLES_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);

/// For whom something holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who<'a> {
    /// A device with these granted tags.
    Device(&'a Tags),
    Person(&'a Peer),
    /// A device that is about to join through the tunnel: it reaches the registry and nothing else.
    Joining,
}

/// The policy of this registry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SitePolicy {
    entries: Vec<SiteEntry>,
    pub(crate) ula: Ula,
    /// Where agents connect, on this machine; reached inside the tunnel at the gateway's own address and this port.
    registry: SocketAddr,
    dns: DnsPolicy,
}

#[derive(Debug, Clone, PartialEq)]
struct SiteEntry {
    entry: PolicyEntry,
    /// The inner address of its name; none for a network.
    address: Option<Ipv4Addr>,
}

impl SitePolicy {
    /// `addresses` has one for each name of the policy.
    pub(crate) fn new(
        policy: &[PolicyEntry],
        addresses: &BTreeMap<HostName, Ipv4Addr>,
        ula: Ula,
        registry: SocketAddr,
        dns: DnsPolicy,
    ) -> Self {
        let entry = |entry: &PolicyEntry| SiteEntry {
            entry: entry.clone(),
            address: entry.name().and_then(|name| addresses.get(name).copied()),
        };
        Self {
            entries: policy.iter().map(entry).collect(),
            ula,
            registry,
            dns,
        }
    }

    /// The gateway's own inner addresses.
    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        vec![
            OWN_ADDRESS.into(),
            self.ula.address(Subnet::Gateway, OWN_ADDRESS).into(),
            PEOPLES_ADDRESS.into(),
        ]
    }

    /// The port at which the gateway's own addresses answer for the registry.
    pub(crate) fn registry_port(&self) -> u16 {
        self.registry.port()
    }

    /// As the gateway takes it. The last rule is the registry itself.
    pub(crate) fn for_gateway(&self) -> Result<Policy, PolicyError> {
        let registry = Rule {
            name: "registry of the fleet".to_owned(),
            destination: Destination::Name {
                addresses: vec![OWN_ADDRESS.into()],
                via: Via::Upstream(Upstream::Address(on_this_machine(self.registry))),
            },
            tcp: self.registry.port().into(),
            udp: Ports::default(),
        };
        let rules = self.entries.iter().map(|entry| entry.rule(self.ula));
        Policy::of_rules(rules.chain([registry]), self.dns.clone())
    }

    /// Which rules of [`SitePolicy::for_gateway`] hold.
    pub(crate) fn access(&self, who: Who<'_>) -> Access {
        let reaches_registry = !matches!(who, Who::Person(_));
        let entries = self.entries.iter().map(|entry| entry.holds_for(who));
        Access::Rules(entries.chain([reaches_registry]).collect())
    }

    /// The names that hold, as a device is told them.
    pub(crate) fn names(&self, who: Who<'_>) -> BTreeMap<HostName, NamedDestination> {
        let mut names: BTreeMap<HostName, NamedDestination> = BTreeMap::new();
        for SiteEntry { entry, address } in self.holding(who) {
            let (Some(name), Some(address)) = (entry.name(), address) else {
                continue;
            };
            let named = names.entry(name.clone()).or_insert_with(|| NamedDestination {
                address: (*address).into(),
                ports: Vec::new(),
                udp_ports: Vec::new(),
            });
            named.ports.extend(entry.ports.list());
            named.udp_ports.extend(entry.udp_ports.list());
            named.ports.sort_unstable();
            named.udp_ports.sort_unstable();
        }
        names
    }

    /// The networks that hold, as a device is told them.
    pub(crate) fn networks(&self, who: Who<'_>) -> Vec<NetworkDestination> {
        let networks = self.holding(who).filter_map(|SiteEntry { entry, .. }| {
            let PolicyDestination::Network(network) = entry.destination else {
                return None;
            };
            let tcp = &entry.ports;
            Some(NetworkDestination {
                network: network.to_string(),
                // A network for UDP alone is told, too: what a device does not know of, it would send directly.
                ports: if tcp.is_all() {
                    TcpPorts::All
                } else {
                    TcpPorts::only(tcp.list())
                },
                udp_ports: entry.udp_ports.list(),
            })
        });
        networks.collect()
    }

    /// The suffixes whose names the gateway has its resolver asked for, as a device is told them. The root is left out: who
    /// runs a person's client chose to ask the gateway for everything, the owner of a device did not.
    pub(crate) fn dns_suffixes(&self) -> Vec<HostName> {
        let suffixes = self.dns.resolver.iter().flat_map(|_| &self.dns.suffixes);
        suffixes.filter_map(|suffix| suffix.parse().ok()).collect()
    }

    /// What a person's client sends into the tunnel: the gateway, all inner addresses of names, so that a name that comes to
    /// the policy later needs no new configuration, and the networks that hold.
    pub(crate) fn allowed_ips(&self, peer: &Peer) -> Vec<String> {
        let mut allowed = vec![
            format!("{PEOPLES_ADDRESS}/32"),
            "100.127.0.0/16".to_owned(),
            format!("{}/64", self.ula.subnet(Subnet::Policy)),
        ];
        for SiteEntry { entry, .. } in self.holding(Who::Person(peer)) {
            if let PolicyDestination::Network(network) = entry.destination {
                allowed.push(network.to_string());
            }
        }
        allowed.dedup();
        allowed
    }

    /// Whether names that the gateway does not know are asked for on behalf of peers.
    pub(crate) fn resolves_everything(&self) -> bool {
        self.dns.resolver.is_some() && self.dns.suffixes.iter().any(String::is_empty)
    }

    /// Whether an entry is written like this; `peer add --allowed` speaks of entries so.
    pub(crate) fn has_entry(&self, text: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.entry.destination.to_string() == text)
    }

    fn holding<'a>(&'a self, who: Who<'a>) -> impl Iterator<Item = &'a SiteEntry> {
        self.entries.iter().filter(move |entry| entry.holds_for(who))
    }
}

impl SiteEntry {
    fn holds_for(&self, who: Who<'_>) -> bool {
        match who {
            Who::Device(tags) => self.entry.devices.selects(tags),
            Who::Person(peer) => {
                let text = self.entry.destination.to_string();
                let is_allowed = peer
                    .allowed
                    .as_ref()
                    .is_none_or(|allowed| allowed.contains(&text));
                is_allowed && self.entry.people.selects(&peer.name)
            }
            Who::Joining => false,
        }
    }

    fn rule(&self, ula: Ula) -> Rule {
        let PolicyEntry { ports, udp_ports, .. } = &self.entry;
        let destination = match (&self.entry.destination, self.address) {
            (PolicyDestination::Network(network), _) => Destination::Network(*network),
            (PolicyDestination::Name(name), address) => Destination::Name {
                addresses: address.map_or_else(Vec::new, |v4| {
                    vec![v4.into(), ula.address(Subnet::Policy, v4).into()]
                }),
                via: match &self.entry.upstream {
                    Some(upstream) => Via::Upstream(upstream_of(upstream)),
                    None => Via::Host(name.to_string()),
                },
            },
        };
        let as_ports = PortSet::to_ports;
        Rule {
            name: self.entry.destination.to_string(),
            destination,
            tcp: as_ports(ports),
            udp: as_ports(udp_ports),
        }
    }
}

/// An address where it is one, else a name for the gateway's resolver.
fn upstream_of(HostPort { host, port }: &HostPort) -> Upstream {
    match host.trim_matches(['[', ']']).parse() {
        Ok(address) => Upstream::Address(SocketAddr::new(address, *port)),
        Err(_) => Upstream::Name {
            host: host.clone(),
            port: *port,
        },
    }
}

/// Where a listener on all addresses is reached from its own machine.
fn on_this_machine(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
