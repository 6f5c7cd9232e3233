//! A network of the engine's, as far as it matters here.

use std::net::IpAddr;

use bollard::models::NetworkInspect;

/// The option that names a bridge's device.
const DEVICE_OPTION: &str = "com.docker.network.bridge.name";

/// A bridge network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) id: String,
    /// The bridge, a device of the engine's machine.
    pub(super) device: String,
    pub(super) subnets: Vec<Subnet>,
}

/// One of its address ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subnet {
    /// In CIDR notation.
    pub(super) range: String,
    /// The engine's machine in it. Engines do not tell it for a default bridge that they made themselves.
    pub(super) gateway: Option<IpAddr>,
}

impl Network {
    /// What an engine says of it.
    pub(super) fn of(found: NetworkInspect) -> Self {
        let id = found.id.unwrap_or_default();
        let device = found
            .options
            .and_then(|mut options| options.remove(DEVICE_OPTION))
            // What Docker calls a bridge that was not given a name.
            .unwrap_or_else(|| format!("br-{}", id.get(..12).unwrap_or(&id)));
        let ranges = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let subnets = ranges.into_iter().filter_map(|config| {
            Some(Subnet {
                range: config.subnet?,
                gateway: config.gateway.as_deref().and_then(address),
            })
        });
        Self {
            subnets: subnets.collect(),
            id,
            device,
        }
    }

    /// The engine's machine in it, by IPv4 if it can be.
    pub(super) fn gateway(&self) -> Option<IpAddr> {
        let gateways = || self.subnets.iter().filter_map(|subnet| subnet.gateway);
        gateways().find(IpAddr::is_ipv4).or_else(|| gateways().next())
    }
}

/// Some engines write a gateway with its prefix.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn network(text: serde_json::Value) -> Network {
        Network::of(serde_json::from_value(text).unwrap())
    }

    #[test]
    fn device_and_gateway_are_read_from_what_engines_say() {
        let own = network(json!({
            "Id": "0123456789abcdef0123",
            "IPAM": {"Config": [
                {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
                {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1/16"},
            ]},
        }));
        assert_eq!(own.device, "br-0123456789ab");
        assert_eq!(own.gateway(), Some([172, 18, 0, 1].into()));
        assert_eq!(own.subnets[0].range, "fd00::/64");

        let default = network(json!({
            "Id": "x",
            "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]},
            "Options": {"com.docker.network.bridge.name": "docker0"},
        }));
        assert_eq!((default.device.as_str(), default.gateway()), ("docker0", None));
        assert_eq!(network(json!({})).subnets, []);
    }
}
