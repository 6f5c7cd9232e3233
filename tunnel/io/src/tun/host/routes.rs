//! Routes to the networks behind the gateway.

use std::io;

use orfe_tunnel_core::AllowedIp;
use route_manager::{Route, RouteManager};

use super::HostTunnelError;

/// Routes `networks` through `device`. A route that is there already is refused, not replaced: it is somebody else's.
pub(super) fn add(device: &str, networks: &[AllowedIp]) -> Result<(), HostTunnelError> {
    let Some(first) = networks.first() else {
        return Ok(());
    };
    let failed = |network: AllowedIp| {
        move |source: io::Error| HostTunnelError::Route {
            network,
            device: device.to_owned(),
            source,
        }
    };
    let index = index_of(device).map_err(failed(*first))?;
    let mut manager = RouteManager::new().map_err(failed(*first))?;
    for network in networks {
        let route = Route::new(network.address(), network.prefix()).with_if_index(index);
        manager.add(&route).map_err(failed(*network))?;
    }
    Ok(())
}

fn index_of(device: &str) -> io::Result<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{device}/ifindex"))?
        .trim()
        .parse()
        .map_err(io::Error::other)
}
