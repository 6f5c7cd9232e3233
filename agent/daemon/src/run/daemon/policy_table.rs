//! The proxies' table out of the desired tunnel.

use orfe_protocol::desired::Tunnel;
use orfe_tunnel::proxy::{Routes, TunnelWanted, UpstreamProxy};

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
            Ok(network) => routes.add_network(
                network,
                entry.ports.iter().copied(),
                entry.udp_ports.iter().copied(),
            ),
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
    routes.set_upstream_proxy(owners_proxy);
    routes
}
