//! The proxies' table out of the desired tunnel.

use orfe_protocol::desired::Tunnel;
use orfe_tunnel::proxy::{Routes, TunnelWanted};

use crate::proxy_env::owners_proxy;

/// Names of policy go through the tunnel, or nowhere.
pub(super) fn routes(tunnel: Option<&Tunnel>) -> Routes {
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
    routes.set_upstream_proxy(owners_proxy());
    routes
}
