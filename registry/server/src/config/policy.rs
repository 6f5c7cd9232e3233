//! The policy as it is configured: what may be reached through the gateway, and by whom.
//!
//! ```toml
//! [[policy.allow]]
//! name = "coder.example.com"        # or: network = "10.20.0.0/16"
//! ports = [443, "8000-8010"]        # TCP
//! udp_ports = [53]
//! upstream = "coder.coder.svc:443"  # default: the same name and port
//! for = ["team=ml", "team=ops,location=lab"]
//! for_peers = ["alice"]             # or true, or false
//! ```
//!
//! `for` holds for devices with all tags of any of its items; without it, for all devices. Only tags that a join code or an
//! admin gave count, because a device is not believed about what opens doors. `for_peers` says which people's peers
//! an entry is for: by default all of them when it is for all devices, and none when it is for some.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use orfe_protocol::name::{DeviceName, HostName};
use orfe_protocol::tag::{Tag, Tags};
use orfe_tunnel::{AllowedIp, Ports};
use serde::Deserialize;
use serde::de::{self, Unexpected, Visitor};

use super::HostPort;

/// Most ports of one entry; the desired state names each by itself. An entry that allows all ports of a network counts as none.
pub const PORTS_MAX: usize = 1024;

/// One destination and who may reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyEntry {
    pub destination: PolicyDestination,
    /// TCP ports.
    pub ports: PortSet,
    pub udp_ports: PortSet,
    /// Where the gateway really connects to; none: the same name and port. Networks have none.
    pub upstream: Option<HostPort>,
    pub devices: DeviceSelector,
    pub people: PeopleSelector,
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyDestination {
    Name(HostName),
    Network(AllowedIp),
}

impl fmt::Display for PolicyDestination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(formatter),
            Self::Network(network) => network.fmt(formatter),
        }
    }
}

/// Which devices an entry is for: those that have all tags of any item. Without an item, all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DeviceSelector(Vec<TagSelector>);

/// Which people's peers an entry is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeopleSelector {
    Nobody,
    Everybody,
    Named(Vec<DeviceName>),
}

/// Tags that a device must have, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct TagSelector(Vec<Tag>);

impl TryFrom<String> for TagSelector {
    type Error = orfe_protocol::tag::InvalidTag;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let tags = text.split(',').map(|tag| tag.trim().parse());
        tags.collect::<Result<_, _>>().map(Self)
    }
}

impl DeviceSelector {
    /// Whether a device with these granted tags is meant.
    pub fn selects(&self, tags: &Tags) -> bool {
        let has = |tag: &Tag| tags.get(&tag.key) == Some(tag.value.as_str());
        self.0.is_empty() || self.0.iter().any(|item| item.0.iter().all(has))
    }

    fn is_everybody(&self) -> bool {
        self.0.is_empty()
    }
}

impl PeopleSelector {
    /// Whether the peer of this name is meant.
    pub fn selects(&self, name: &DeviceName) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everybody => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// Ports and ranges of ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct PortSet(Vec<PortRange>);

/// `443` or `"8000-8010"`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortRange(RangeInclusive<u16>);

impl PortSet {
    /// Just these ports.
    pub fn of(ports: &[u16]) -> Self {
        Self(ports.iter().map(|port| PortRange(*port..=*port)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.0.contains(&port))
    }

    /// Every port from 1 to 65535.
    pub fn is_all(&self) -> bool {
        self.0.iter().any(|range| range.0 == (1..=u16::MAX))
    }

    /// Each port, lowest first, once.
    pub fn list(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.0.iter().flat_map(|range| range.0.clone()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// As the gateway takes it.
    pub fn to_ports(&self) -> Ports {
        Ports::new(self.0.iter().map(|range| range.0.clone()))
    }

    /// A port that is in both.
    pub fn first_in_common(&self, other: &Self) -> Option<u16> {
        self.list().into_iter().find(|port| other.contains(*port))
    }

    fn len(&self) -> usize {
        self.0.iter().map(|range| range.0.len()).sum()
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ports;

        impl Visitor<'_> for Ports {
            type Value = PortRange;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a port from 1 to 65535, or a range of them such as \"8000-8010\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PortRange, E> {
                let port = u16::try_from(number).ok().filter(|port| *port != 0);
                let port = port.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))?;
                Ok(PortRange(port..=port))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PortRange, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortRange, E> {
                let range = || {
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    let range = first.trim().parse().ok()?..=last.trim().parse().ok()?;
                    (*range.start() > 0 && !range.is_empty()).then_some(PortRange(range))
                };
                range().ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Ports)
    }
}

/// `for_peers` as it is written.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "this is true, false, or a list of names of peers such as [\"alice\"]"
)]
enum PeopleTable {
    All(bool),
    Named(Vec<DeviceName>),
}

/// One `[[policy.allow]]`.
#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[[policy.allow]]`"
)]
pub(super) struct AllowTable {
    name: Option<HostName>,
    network: Option<NetworkText>,
    #[serde(default)]
    ports: PortSet,
    #[serde(default)]
    udp_ports: PortSet,
    upstream: Option<HostPort>,
    #[serde(default, rename = "for")]
    devices: DeviceSelector,
    for_peers: Option<PeopleTable>,
}

/// `ADDRESS/PREFIX`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct NetworkText(AllowedIp);

impl TryFrom<String> for NetworkText {
    type Error = orfe_tunnel::ParseAllowedIpError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl AllowTable {
    /// The entry, or what is wrong with it and what to do.
    pub(super) fn entry(&self) -> Result<PolicyEntry, (String, &'static str)> {
        let destination = match (&self.name, &self.network) {
            (Some(name), None) => PolicyDestination::Name(name.clone()),
            (None, Some(network)) => PolicyDestination::Network(network.0),
            (None, None) => {
                let message = "a policy entry names what it is about".to_owned();
                return Err((
                    message,
                    "such as name = \"coder.example.com\" or network = \"10.20.0.0/16\"",
                ));
            }
            (Some(_), Some(_)) => {
                let message = "a policy entry is about a name or a network, not both".to_owned();
                return Err((message, "make two entries of it"));
            }
        };
        if self.ports.is_empty() && self.udp_ports.is_empty() {
            let message = format!("policy entry `{destination}` needs ports from 1 to 65535");
            return Err((message, "such as ports = [443] or udp_ports = [53]"));
        }
        let is_network = matches!(destination, PolicyDestination::Network(_));
        if is_network && self.upstream.is_some() {
            let message =
                format!("the network {destination} has no upstream: its addresses are dialled as they are");
            return Err((message, "leave `upstream` out"));
        }
        let counted = |ports: &PortSet, may_be_all: bool| {
            if may_be_all && ports.is_all() {
                0
            } else {
                ports.len()
            }
        };
        if counted(&self.ports, is_network) + counted(&self.udp_ports, false) > PORTS_MAX {
            let message = format!("policy entry `{destination}` has more than {PORTS_MAX} ports");
            let hint = "name fewer; all TCP ports at once, \"1-65535\", are for networks only";
            return Err((message, hint));
        }
        let people = match &self.for_peers {
            None if self.devices.is_everybody() => PeopleSelector::Everybody,
            None | Some(PeopleTable::All(false)) => PeopleSelector::Nobody,
            Some(PeopleTable::All(true)) => PeopleSelector::Everybody,
            Some(PeopleTable::Named(names)) => PeopleSelector::Named(names.clone()),
        };
        Ok(PolicyEntry {
            destination,
            ports: self.ports.clone(),
            udp_ports: self.udp_ports.clone(),
            upstream: self.upstream.clone(),
            devices: self.devices.clone(),
            people,
        })
    }
}

impl PolicyEntry {
    /// A name with TCP ports, for everybody.
    pub fn of_name(name: HostName, ports: &[u16], upstream: Option<HostPort>) -> Self {
        Self {
            destination: PolicyDestination::Name(name),
            ports: PortSet::of(ports),
            udp_ports: PortSet::default(),
            upstream,
            devices: DeviceSelector::default(),
            people: PeopleSelector::Everybody,
        }
    }

    /// The name that it is about, if it is about one.
    pub fn name(&self) -> Option<&HostName> {
        match &self.destination {
            PolicyDestination::Name(name) => Some(name),
            PolicyDestination::Network(_) => None,
        }
    }
}

/// A name and port that two entries allow: which upstream is meant cannot be told.
pub(super) fn named_twice(policy: &[PolicyEntry]) -> Option<(HostName, u16)> {
    let mut by_name: BTreeMap<&HostName, Vec<&PolicyEntry>> = BTreeMap::new();
    for entry in policy {
        let Some(name) = entry.name() else { continue };
        let others = by_name.entry(name).or_default();
        let clash = others.iter().find_map(|other| {
            let tcp = other.ports.first_in_common(&entry.ports);
            tcp.or_else(|| other.udp_ports.first_in_common(&entry.udp_ports))
        });
        if let Some(port) = clash {
            return Some((name.clone(), port));
        }
        others.push(entry);
    }
    None
}

/// DNS at the gateway, `[dns]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Names below these are asked of the gateway's resolver; the empty one is the root, below which is everything.
    pub suffixes: Vec<String>,
    /// The resolver; none: the first of the system's.
    pub resolver: Option<std::net::SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[dns]`"
)]
pub(super) struct DnsTable {
    #[serde(default)]
    suffixes: Vec<Suffix>,
    resolver: Option<std::net::SocketAddr>,
}

/// A host name, or `.` for all names.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Suffix(String);

impl TryFrom<String> for Suffix {
    type Error = orfe_protocol::name::InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "." {
            return Ok(Self(String::new()));
        }
        let name: HostName = text.trim_start_matches('.').parse()?;
        Ok(Self(name.as_str().to_owned()))
    }
}

impl DnsTable {
    pub(super) fn config(&self) -> DnsConfig {
        DnsConfig {
            suffixes: self.suffixes.iter().map(|suffix| suffix.0.clone()).collect(),
            resolver: self.resolver,
        }
    }
}
