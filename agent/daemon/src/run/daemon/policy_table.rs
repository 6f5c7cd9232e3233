//! The proxies' table out of the desired tunnel.

use std::net::IpAddr;

use orfe_protocol::desired::{TcpPorts, Tunnel};
use orfe_tunnel::proxy::{NetworkPorts, Routes, TunnelWanted, UpstreamProxy};

/// Names of policy, and those below the suffixes of the gateway's DNS, go through the tunnel, or nowhere;
/// everything else through the owner's proxy, if there is one.
pub(super) fn routes(tunnel: Option<&Tunnel>, owners_proxy: Option<UpstreamProxy>) -> Routes {
    let mut routes = Routes::new(if tunnel.is_some() {
        TunnelWanted::Wanted
    } else {
        TunnelWanted::Off
    });
    for (name, destination) in tunnel.iter().flat_map(|tunnel| &tunnel.names) {
        if let Err(error) = routes.add_name(
            name.as_str(),
            destination.address,
            destination.ports.iter().copied(),
        ) {
            tracing::warn!(%name, %error, "a name of the policy cannot be used");
        }
        routes.allow_datagrams(name.as_str(), destination.udp_ports.iter().copied());
    }
    for entry in tunnel.iter().flat_map(|tunnel| &tunnel.networks) {
        match entry.network.parse() {
            Ok(network) => routes.add_network(network, ports(&entry.ports), entry.udp_ports.iter().copied()),
            Err(error) => {
                tracing::warn!(network = entry.network, %error, "a network of the policy cannot be used");
            }
        }
    }
    for suffix in tunnel.iter().flat_map(|tunnel| &tunnel.dns_suffixes) {
        if let Err(error) = routes.add_suffix(suffix.as_str()) {
            tracing::warn!(%suffix, %error, "a suffix of the gateway's DNS cannot be used");
        }
    }
    routes.set_dns_servers(
        tunnel
            .iter()
            .flat_map(|tunnel| &tunnel.gateway.addresses)
            .copied(),
    );
    // What answers outside the tunnel at an address of its ends is not what the state means by it.
    for end in tunnel.into_iter().flat_map(ends) {
        routes.add_end(end);
    }
    routes.set_upstream_proxy(owners_proxy);
    routes
}

fn ports(ports: &TcpPorts) -> NetworkPorts {
    match ports {
        TcpPorts::All => NetworkPorts::All,
        TcpPorts::None => NetworkPorts::of([]),
        TcpPorts::Only(ports) => NetworkPorts::of(ports.iter().copied()),
    }
}

/// The inner addresses of both ends, and the registry's, should the gateway have it elsewhere.
fn ends(tunnel: &Tunnel) -> impl Iterator<Item = IpAddr> {
    let registry = tunnel.gateway.registry.map(|registry| registry.ip());
    let gateway = tunnel.gateway.addresses.iter().copied();
    gateway.chain(tunnel.addresses.iter().copied()).chain(registry)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn both_ends_of_the_tunnel_are_in_the_table() {
        let tunnel: Tunnel = serde_json::from_value(serde_json::json!({
            "addresses": ["100.64.0.7", "10.10.0.7"],
            "names": {},
            "gateway": {
                "endpoints": [],
                "addresses": ["100.127.0.1", "10.10.0.1"],
                "registry": "100.127.0.2:7443",
                "public_key": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=",
                "instance": "01010101-0101-0101-0101-010101010101",
            },
        }))
        .unwrap();
        let wanted: BTreeSet<IpAddr> = [
            "100.64.0.7",
            "10.10.0.7",
            "100.127.0.1",
            "10.10.0.1",
            "100.127.0.2",
        ]
        .map(|address| address.parse().unwrap())
        .into();
        assert_eq!(routes(Some(&tunnel), None).ends(), &wanted);
        assert!(routes(None, None).ends().is_empty());
    }
}
