//! What devices may reach.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// What devices may reach: names with an inner address each, and for each of their ports the upstream behind it.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    targets: HashMap<SocketAddr, Arc<Target>>,
}

/// One name.
#[derive(Debug, Clone)]
pub struct PolicyEntry {
    /// What it is called, e.g. `coder.example.com`.
    pub name: String,
    /// Its address inside the tunnel.
    pub address: IpAddr,
    /// Its ports; others are refused.
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

/// Where the gateway connects for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// An explicit address; any, this host's own included.
    Address(SocketAddr),
    /// A name for the gateway's resolver. What it resolves to must not be this host or its link: a name is under the
    /// control of whoever serves it, and must not open the way to the gateway's own services.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// A destination that policy names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) upstream: Upstream,
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
    /// The policy of these entries. Without entries nothing may be reached.
    pub fn new(entries: impl IntoIterator<Item = PolicyEntry>) -> Result<Self, PolicyError> {
        let mut targets: HashMap<SocketAddr, Arc<Target>> = HashMap::new();
        for entry in entries {
            for PolicyPort { port, upstream } in entry.ports {
                if port == 0 {
                    return Err(PolicyError::PortZero { name: entry.name });
                }
                let destination = SocketAddr::new(entry.address, port);
                let target = Arc::new(Target {
                    name: entry.name.clone(),
                    upstream,
                });
                if let Some(first) = targets.insert(destination, target) {
                    return Err(PolicyError::Twice {
                        destination,
                        first: first.name.clone(),
                        second: entry.name,
                    });
                }
            }
        }
        Ok(Self { targets })
    }

    /// The target at an inner address and port.
    pub(super) fn target(&self, destination: SocketAddr) -> Option<&Arc<Target>> {
        self.targets.get(&destination)
    }
}

/// The text is no upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an upstream such as coder.internal:443, 10.0.0.5:443 or [fd00::5]:443")]
pub struct ParseUpstreamError {
    text: String,
}

impl FromStr for Upstream {
    type Err = ParseUpstreamError;

    /// `ADDRESS:PORT`, `[IPV6]:PORT` or `HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, ParseUpstreamError> {
        let error = || ParseUpstreamError {
            text: text.to_owned(),
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(error())
            } else {
                Ok(Self::Address(address))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        if host.is_empty() || host.len() > 253 || !host.chars().all(is_name) {
            return Err(error());
        }
        Ok(Self::Name {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_as_text() {
        for text in ["127.0.0.1:36123", "[::1]:443", "coder.internal:443", "a_b-c:1"] {
            assert_eq!(text.parse::<Upstream>().unwrap().to_string(), text);
        }
        assert!(matches!("10.0.0.5:80".parse(), Ok(Upstream::Address(_))));
        for text in [
            "",
            "coder",
            "coder:",
            ":443",
            "coder:0",
            "10.0.0.1:0",
            "coder:65536",
            "::1:80",
            "a b:1",
            "http://a:1",
        ] {
            assert!(text.parse::<Upstream>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_destination_belongs_to_one_entry() {
        let entry = |name: &str, port| PolicyEntry {
            name: name.to_owned(),
            address: "100.127.0.1".parse().unwrap(),
            ports: vec![PolicyPort {
                port,
                upstream: "10.0.0.5:80".parse().unwrap(),
            }],
        };
        let policy = Policy::new([entry("a", 80), entry("b", 81)]).unwrap();
        assert_eq!(
            policy.target("100.127.0.1:81".parse().unwrap()).unwrap().name,
            "b"
        );
        assert_eq!(policy.target("100.127.0.1:82".parse().unwrap()), None);
        assert_eq!(policy.target("100.127.0.2:80".parse().unwrap()), None);
        let error = Policy::new([entry("a", 80), entry("b", 80)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "policy names 100.127.0.1:80 twice, as `a` and as `b`"
        );
        assert!(matches!(
            Policy::new([entry("a", 0)]),
            Err(PolicyError::PortZero { .. })
        ));
    }
}
