//! Desired state: what the registry wants of one device.
//!
//! It is whole, never a difference: a device that missed ten revisions needs only the newest. The agent keeps
//! it in a private file and makes it true with or without the registry.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::id::{InstanceId, Revision};
use crate::key::WireGuardPublicKey;
use crate::name::{DeviceName, HostName};
use crate::secret::Secret;
use crate::tag::Tags;

/// Most provisioners on one device; a slot number has two digits in a provisioner's name.
pub const SLOTS_MAX: u8 = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredState {
    #[serde(flatten)]
    pub revision: Revision,
    pub device: DeviceName,
    /// Tags that the join code or an admin gave. Detected tags are added by the agent below them.
    #[serde(default)]
    pub tags: Tags,
    /// What the provisioners connect to; none means that no provisioner is wanted.
    #[serde(default)]
    pub coder: Option<Coder>,
    /// How many provisioners to run, 1 to [`SLOTS_MAX`].
    #[serde(default = "one")]
    pub slots: u8,
    /// None: Coder is reached directly.
    #[serde(default)]
    pub tunnel: Option<Tunnel>,
    /// Whether a missing Docker engine makes the device unhealthy, or only earns a warning.
    #[serde(default)]
    pub docker_required: bool,
}

fn one() -> u8 {
    1
}

/// A Coder deployment and the way in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coder {
    pub url: Url,
    pub credential: Credential,
    /// PEM certificates to trust beside the system's, for a Coder behind a private authority.
    #[serde(default)]
    pub ca_pem: Option<String>,
}

/// What a provisioner shows to Coder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// The deployment-wide pre-shared key of Coder (not WireGuard's).
    Psk(Secret),
    /// A provisioner key of this device; its tags are bound to it on the server.
    Key(Secret),
}

impl Coder {
    /// Whether Go programs, `coder` among them, dial this Coder past every proxy, and so past the tunnel: its host is
    /// `localhost` or a loopback address (`golang.org/x/net/http/httpproxy`).
    pub fn is_past_proxies(&self) -> bool {
        match self.url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.to_canonical().is_loopback(),
            None => false,
        }
    }
}

impl Credential {
    pub fn secret(&self) -> &Secret {
        match self {
            Self::Psk(secret) | Self::Key(secret) => secret,
        }
    }
}

/// The device's end of the tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Inner addresses of this device.
    pub addresses: Vec<IpAddr>,
    pub gateway: Gateway,
    /// The names that policy lets this device reach, and the inner address that stands for each.
    pub names: BTreeMap<HostName, NamedDestination>,
    /// Networks that policy lets this device reach by address, beside the names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkDestination>,
    /// Names at and below these are answered by the gateway's DNS, beside `names`. Never the root: a device's other names
    /// stay its own affair.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_suffixes: Vec<HostName>,
    /// Interval of WireGuard's persistent keepalive, in seconds; 0 sends none.
    #[serde(default = "keepalive")]
    pub keepalive_s: u16,
}

fn keepalive() -> u16 {
    25
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    pub public_key: WireGuardPublicKey,
    /// Where its UDP port is, `host:port`, best first: the rungs of the carrier ladder that are UDP.
    pub endpoints: Vec<String>,
    /// Where its datagrams are taken over WebSocket, for networks that pass no UDP; none when it is not offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<Url>,
    /// The gateway's own inner addresses: it answers echo requests and DNS there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Where the registry answers inside the tunnel; none from a registry that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<SocketAddr>,
    /// One life of the gateway: when it changes, the old session is gone and a handshake is due at once.
    pub instance: InstanceId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedDestination {
    pub address: IpAddr,
    /// TCP ports that policy allows.
    pub ports: Vec<u16>,
    /// UDP ports that policy allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub udp_ports: Vec<u16>,
}

/// A network behind the gateway that is reached by address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDestination {
    /// `ADDRESS/PREFIX`.
    pub network: String,
    #[serde(default, skip_serializing_if = "TcpPorts::are_all")]
    pub ports: TcpPorts,
    /// UDP ports that policy allows; empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub udp_ports: Vec<u16>,
}

/// TCP ports of a network that policy allows.
///
/// On the wire this is a list, and an empty or absent one means all of them. "None" came later, as the list of port 0 alone: that is
/// reserved (RFC 6335, section 6) and nobody can dial it, so an agent that takes it for a port refuses TCP all the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u16>", into = "Vec<u16>")]
pub enum TcpPorts {
    #[default]
    All,
    None,
    /// These; never empty, and never port 0.
    Only(Vec<u16>),
}

impl TcpPorts {
    /// These ports; none of them when there are none.
    pub fn only(mut ports: Vec<u16>) -> Self {
        ports.retain(|port| *port != 0);
        if ports.is_empty() {
            Self::None
        } else {
            Self::Only(ports)
        }
    }

    const fn are_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

impl From<Vec<u16>> for TcpPorts {
    fn from(listed: Vec<u16>) -> Self {
        if listed.is_empty() {
            Self::All
        } else {
            Self::only(listed)
        }
    }
}

impl From<TcpPorts> for Vec<u16> {
    fn from(ports: TcpPorts) -> Self {
        match ports {
            TcpPorts::All => Self::new(),
            TcpPorts::None => vec![0],
            TcpPorts::Only(ports) => ports,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_registry_leaves_out_has_a_meaning() {
        let json = r#"{"epoch":1,"revision":4,"device":"alices-laptop"}"#;
        let desired: DesiredState = serde_json::from_str(json).unwrap();
        assert_eq!(
            desired.revision,
            Revision {
                epoch: 1,
                revision: 4
            }
        );
        assert_eq!((desired.slots, desired.docker_required), (1, false));
        assert!(desired.coder.is_none() && desired.tunnel.is_none());
    }

    #[test]
    fn suffixes_are_an_addition_that_both_sides_may_lack() {
        let older = r#"{"addresses":["100.64.0.7"],"names":{},"gateway":{"endpoints":[],
            "public_key":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=",
            "instance":"01010101-0101-0101-0101-010101010101"}}"#;
        let mut tunnel: Tunnel = serde_json::from_str(older).unwrap();
        assert_eq!(tunnel.dns_suffixes, []);
        // Without any, the text stays what it was, and so does the digest that a registry keeps of it.
        assert!(!serde_json::to_string(&tunnel).unwrap().contains("suffixes"));
        tunnel.dns_suffixes = vec!["svc.cluster.local".parse().unwrap()];
        let json = serde_json::to_string(&tunnel).unwrap();
        assert!(json.contains(r#""dns_suffixes":["svc.cluster.local"]"#), "{json}");
        assert_eq!(serde_json::from_str::<Tunnel>(&json).unwrap(), tunnel);
    }

    #[test]
    fn a_networks_ports_are_all_none_or_some_and_older_ends_understand_the_lists() {
        for (ports, json) in [
            (TcpPorts::All, r#"{"network":"10.0.0.0/8"}"#),
            (TcpPorts::None, r#"{"network":"10.0.0.0/8","ports":[0]}"#),
            (TcpPorts::only(vec![]), r#"{"network":"10.0.0.0/8","ports":[0]}"#),
            (
                TcpPorts::only(vec![22, 443]),
                r#"{"network":"10.0.0.0/8","ports":[22,443]}"#,
            ),
        ] {
            let destination = NetworkDestination {
                network: "10.0.0.0/8".to_owned(),
                ports,
                udp_ports: Vec::new(),
            };
            assert_eq!(serde_json::to_string(&destination).unwrap(), json);
            assert_eq!(
                serde_json::from_str::<NetworkDestination>(json).unwrap(),
                destination
            );
        }
        assert_eq!(TcpPorts::from(vec![]), TcpPorts::All);
        assert_eq!(TcpPorts::from(vec![0, 22]), TcpPorts::Only(vec![22]));
    }

    #[test]
    fn a_coder_on_loopback_is_dialled_past_proxies() {
        let is_past = |url: &str| {
            Coder {
                url: url.parse().unwrap(),
                credential: Credential::Psk(Secret::new("hunter2".into())),
                ca_pem: None,
            }
            .is_past_proxies()
        };
        for url in [
            "http://localhost:3000",
            "https://LOCALHOST",
            "http://127.9.9.9",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(is_past(url), "{url}");
        }
        for url in [
            "https://coder.localhost",
            "https://coder.example.com",
            "http://192.0.2.1",
        ] {
            assert!(!is_past(url), "{url}");
        }
    }

    #[test]
    fn a_credential_is_not_printed() {
        let coder = Coder {
            url: "https://coder.example.com".parse().unwrap(),
            credential: Credential::Psk(Secret::new("hunter2".into())),
            ca_pem: None,
        };
        assert!(!format!("{coder:?}").contains("hunter2"));
        let json = serde_json::to_string(&coder).unwrap();
        assert_eq!(serde_json::from_str::<Coder>(&json).unwrap(), coder);
    }
}
