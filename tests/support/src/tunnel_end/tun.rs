//! Mode `tun`: a device on the host, or in the network namespace in which the program was started.

use orfe_tunnel::tun::{DataPath, DataPathConfig, TunDevice, TunOptions};
use orfe_tunnel::udp::{UdpOptions, UdpPort};

use super::{Config, Result};

/// Starts the data path.
pub(super) fn start(config: &Config) -> Result<DataPath> {
    let gateway = config.peers.first().ok_or("no peer")?.public_key.parse()?;
    let device = TunDevice::create(&TunOptions {
        name: config.device.clone(),
        mtu: config.mtu,
        addresses: config.inner()?,
        offload: config.offload,
    })?;
    let path = DataPath::start(DataPathConfig {
        device,
        udp: UdpPort::bind(&UdpOptions::new(config.listen))?,
        node: config.node()?,
        gateway,
        stack: "host",
    })?;
    Ok(path)
}
