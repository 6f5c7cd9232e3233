//! What peers may reach, and which of them.
//!
//! A policy is a list of [`Rule`]s: a name with inner addresses of its own, or a network reached by address, with TCP and
//! UDP ports. Which rules hold for a peer is the peer's [`Access`], so one change of a device's tags changes one peer. Where two
//! rules name the same destination, the first that the peer may use counts.

mod upstream;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use orfe_tunnel_core::AllowedIp;

pub use self::upstream::{ParseUpstreamError, Upstream};
use crate::proxy::address_kind::AddressKind;

/// The port of DNS (RFC 1035, section 4.2).
pub(super) const DNS_PORT: u16 = 53;

/// What peers may reach.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    /// Numbers of the rules that have an address.
    by_address: HashMap<IpAddr, Vec<usize>>,
    /// Numbers of the rules that are networks.
    networks: Vec<usize>,
    dns: DnsPolicy,
}

/// One destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it is called in logs; for a name, the name that DNS answers for, in lower case.
    pub name: String,
    /// Where it is.
    pub destination: Destination,
    /// TCP ports; others are refused.
    pub tcp: Ports,
    /// UDP ports; others are refused.
    pub udp: Ports,
}

/// Where a rule's destination is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A name, by inner addresses that stand for nothing else.
    Name {
        /// Its addresses inside the tunnel, at most one of each family.
        addresses: Vec<IpAddr>,
        /// What is behind it.
        via: Via,
    },
    /// Everything in a network, by its own address. The gateway's own machine and link (loopback, link-local) are not
    /// in it unless the network is one of theirs.
    Network(AllowedIp),
}

/// What is behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// One upstream, whichever port the peer dialled.
    Upstream(Upstream),
    /// This name for the gateway's resolver, at the port that the peer dialled.
    Host(String),
}

/// For which names the gateway asks its own resolver on behalf of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsPolicy {
    /// Suffixes such as `svc.cluster.local`, lower case, without a leading dot. Names below any of them are asked for.
    pub suffixes: Vec<String>,
    /// The resolver that is asked; without one, names below the suffixes are not known.
    pub resolver: Option<SocketAddr>,
}

/// A set of ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// Every port.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![1..=u16::MAX])
    }

    /// The ports in these ranges.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        Self(ranges.into_iter().collect())
    }

    /// Whether a port is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    fn first_in_common(&self, other: &Self) -> Option<u16> {
        let shared = |one: &RangeInclusive<u16>, two: &RangeInclusive<u16>| {
            let start = *one.start().max(two.start());
            (start <= *one.end().min(two.end())).then_some(start)
        };
        let pairs = self
            .0
            .iter()
            .flat_map(|one| other.0.iter().map(move |two| (one, two)));
        pairs.filter_map(|(one, two)| shared(one, two)).min()
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self(vec![port..=port])
    }
}

/// Which rules of a policy hold for a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
    /// All of them.
    #[default]
    Everything,
    /// Those whose place in the list of rules is true; places beyond the end are false.
    Rules(Arc<[bool]>),
}

impl Access {
    fn may(&self, rule: usize) -> bool {
        match self {
            Self::Everything => true,
            Self::Rules(rules) => rules.get(rule).copied().unwrap_or(false),
        }
    }
}

/// One name with an upstream for each port: the short way to a [`Rule`] for everybody.
#[derive(Debug, Clone)]
pub struct PolicyEntry {
    /// What it is called, e.g. `coder.example.com`.
    pub name: String,
    /// Its address inside the tunnel.
    pub address: IpAddr,
    /// Its TCP ports; others are refused.
    pub ports: Vec<PolicyPort>,
}

/// One port of a name.
#[derive(Debug, Clone)]
pub struct PolicyPort {
    /// The port that devices dial.
    pub port: u16,
    /// Where the gateway connects.
    pub upstream: Upstream,
}

/// The protocols that the gateway forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// A destination that policy names, as it holds for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) service: Service,
}

/// Who serves a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Service {
    /// Something behind the gateway.
    Upstream(Upstream),
    /// The gateway's own answers to questions about names.
    Dns,
}

/// Why a policy cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Two entries claim one inner address and port.
    #[error("policy names {destination} twice, as `{first}` and as `{second}`")]
    Twice {
        /// The inner address and port.
        destination: SocketAddr,
        /// The first to claim it.
        first: String,
        /// The second.
        second: String,
    },
    /// A port that cannot be dialled.
    #[error("policy gives `{name}` the port 0")]
    PortZero {
        /// The entry.
        name: String,
    },
}

impl Policy {
    /// The policy of these entries, all of them for everybody. Without entries nothing may be reached.
    pub fn new(entries: impl IntoIterator<Item = PolicyEntry>) -> Result<Self, PolicyError> {
        let rules = entries.into_iter().flat_map(|entry| {
            let PolicyEntry { name, address, ports } = entry;
            ports.into_iter().map(move |PolicyPort { port, upstream }| Rule {
                name: name.clone(),
                destination: Destination::Name {
                    addresses: vec![address],
                    via: Via::Upstream(upstream),
                },
                tcp: port.into(),
                udp: Ports::default(),
            })
        });
        Self::of_rules(rules, DnsPolicy::default())
    }

    /// The policy of these rules; a peer's [`Access`] speaks of them by their place in the list. Two rules may have an
    /// address in common when they have the same name or no port in common.
    pub fn of_rules(rules: impl IntoIterator<Item = Rule>, dns: DnsPolicy) -> Result<Self, PolicyError> {
        let mut policy = Self {
            dns,
            ..Self::default()
        };
        for (number, rule) in rules.into_iter().enumerate() {
            if rule.tcp.contains(0) || rule.udp.contains(0) {
                return Err(PolicyError::PortZero { name: rule.name });
            }
            match &rule.destination {
                Destination::Network(_) => policy.networks.push(number),
                Destination::Name { addresses, .. } => {
                    for address in addresses {
                        let others = policy.by_address.entry(*address).or_default();
                        let clash = others.iter().find_map(|other| {
                            let other = &policy.rules[*other];
                            let port = other.tcp.first_in_common(&rule.tcp)?;
                            (other.name != rule.name).then_some((other, port))
                        });
                        if let Some((first, port)) = clash {
                            return Err(PolicyError::Twice {
                                destination: SocketAddr::new(*address, port),
                                first: first.name.clone(),
                                second: rule.name,
                            });
                        }
                        others.push(number);
                    }
                }
            }
            policy.rules.push(rule);
        }
        Ok(policy)
    }

    /// What serves an inner address and port for a peer with this access.
    pub(super) fn target(
        &self,
        access: &Access,
        transport: Transport,
        destination: SocketAddr,
    ) -> Option<Target> {
        let named = self.by_address.get(&destination.ip());
        let candidates = named.into_iter().flatten().chain(&self.networks);
        candidates.filter(|rule| access.may(**rule)).find_map(|rule| {
            let rule = &self.rules[*rule];
            let ports = match transport {
                Transport::Tcp => &rule.tcp,
                Transport::Udp => &rule.udp,
            };
            let upstream = rule.destination.upstream(destination)?;
            ports.contains(destination.port()).then(|| Target {
                name: rule.name.clone(),
                service: Service::Upstream(upstream),
            })
        })
    }

    /// The inner addresses of a name (lower case, no trailing dot) for a peer with this access; `None` when policy does
    /// not name it for the peer.
    pub(super) fn addresses(&self, access: &Access, name: &str) -> Option<Vec<IpAddr>> {
        let mut found: Option<Vec<IpAddr>> = None;
        for (number, rule) in self.rules.iter().enumerate() {
            if rule.name == name
                && access.may(number)
                && let Destination::Name { addresses, .. } = &rule.destination
            {
                let all = found.get_or_insert_default();
                all.extend(addresses);
                all.sort_unstable();
                all.dedup();
            }
        }
        found
    }

    pub(super) fn dns(&self) -> &DnsPolicy {
        &self.dns
    }
}

impl Destination {
    /// Where to connect for `destination`, which is known to be one of a name's addresses; `None` when it is not here.
    fn upstream(&self, destination: SocketAddr) -> Option<Upstream> {
        match self {
            Self::Name {
                via: Via::Upstream(upstream),
                ..
            } => Some(upstream.clone()),
            Self::Name {
                via: Via::Host(host), ..
            } => Some(Upstream::Name {
                host: host.clone(),
                port: destination.port(),
            }),
            Self::Network(network) => {
                let address = destination.ip();
                let kind = AddressKind::of(address);
                // A wide network such as 0.0.0.0/0 or 64:ff9b::/96 does not name the gateway's own machine by accident.
                let is_named =
                    kind.is_none() || (network.prefix() >= 8 && kind == AddressKind::of(network.address()));
                (network.contains(address) && is_named).then_some(Upstream::Address(destination))
            }
        }
    }
}

/// The text is no set of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no port such as 443 and no range of ports such as 8000-8010")]
pub struct ParsePortsError {
    text: String,
}

impl FromStr for Ports {
    type Err = ParsePortsError;

    /// `PORT` or `FIRST-LAST`, each from 1 to 65535.
    fn from_str(text: &str) -> Result<Self, ParsePortsError> {
        let error = || ParsePortsError {
            text: text.to_owned(),
        };
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or_else(error);
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(error());
        }
        Ok(Self(vec![first..=last]))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "policy/tests.rs"]
mod tests;
