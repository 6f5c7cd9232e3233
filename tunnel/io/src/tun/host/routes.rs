//! Routes to the networks behind the gateway.

use std::io;

use orfe_tunnel_core::AllowedIp;
use route_manager::{Route, RouteManager};

use super::{HostTunnelError, imp};
use crate::tun::device::Interface;

/// Routes `networks` through `device`. A route that is there already is refused, not replaced: it is somebody else's.
///
/// They are never taken back by themselves: on each system a route goes with its device.
pub(super) fn add(device: &Interface, networks: &[AllowedIp]) -> Result<(), HostTunnelError> {
    let Some(first) = networks.first() else {
        return Ok(());
    };
    let failed = |network: AllowedIp| {
        move |source: io::Error| HostTunnelError::Route {
            network,
            device: device.name.clone(),
            source,
        }
    };
    let mut manager = RouteManager::new().map_err(failed(*first))?;
    for network in networks {
        let route = Route::new(network.address(), network.prefix()).with_if_index(device.index);
        let route = imp::preferred(route);
        manager.add(&route).map_err(failed(*network))?;
    }
    Ok(())
}
