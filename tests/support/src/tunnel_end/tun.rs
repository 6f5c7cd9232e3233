//! Mode `tun`: a device on the host, or in the network namespace in which the program was started.

use std::net::SocketAddr;

use orfe_tunnel::AllowedIp;
use orfe_tunnel::tun::host::{HostTunnel, HostTunnelConfig};
use orfe_tunnel::tun::{DataPath, DataPathConfig, TunDevice, TunOptions};
use orfe_tunnel::udp::{UdpOptions, UdpPort};

use super::Result;
use super::config::{Config, Host};

/// A running end.
#[derive(Debug)]
pub(super) enum End {
    /// The device alone.
    Bare(DataPath),
    /// The device with what TUN mode changes on the host.
    Host(HostTunnel),
}

/// Starts the data path.
pub(super) fn start(config: &Config) -> Result<End> {
    let gateway = config.peers.first().ok_or("no peer")?.public_key.parse()?;
    let device = TunOptions {
        name: config.device.clone(),
        mtu: config.mtu,
        addresses: config.inner()?,
        offload: config.offload,
    };
    let udp = UdpPort::bind(&UdpOptions::new(config.listen))?;
    let node = config.node()?;
    if let Some(host) = &config.host {
        return Ok(End::Host(HostTunnel::start(HostTunnelConfig {
            device,
            networks: networks(host)?,
            dns: None,
            bridges: host.bridges.clone(),
            state: host.state.clone(),
            udp,
            node,
            gateway,
        })?));
    }
    let (device, _) = TunDevice::create(&device)?;
    Ok(End::Bare(DataPath::start(DataPathConfig {
        device,
        udp,
        node,
        gateway,
        stack: "host",
    })?))
}

fn networks(host: &Host) -> Result<Vec<AllowedIp>> {
    host.networks.iter().map(|text| Ok(text.parse()?)).collect()
}

impl End {
    /// Where UDP is bound.
    pub(super) fn local_addr(&self) -> std::io::Result<SocketAddr> {
        match self {
            Self::Bare(path) => path.local_addr(),
            Self::Host(host) => host.path().local_addr(),
        }
    }

    /// Ends it and takes back what it changed.
    pub(super) async fn stop(self) {
        match self {
            Self::Bare(path) => path.stop().await,
            Self::Host(host) => host.stop().await,
        }
    }
}
