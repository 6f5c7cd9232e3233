//! The data plane: TCP through `WireGuard` in user space, with no device, route or right on the host.
//!
//! - [`Tunnel`] is the device's end. It dials through [`dial::Dialer`], the seam behind which the TCP stack can be replaced.
//! - [`Gateway`] is the cluster's end. It accepts what policy names, dials the upstream first, and forwards.
//! - [`proxy`] is the loopback proxy in front of the dialer.
//!
//! Packets are handled by one thread for each end; see the documentation of the module `netstack`.

mod client;
pub mod dial;
mod gateway;
mod netstack;
pub mod proxy;
#[cfg(unix)]
pub mod tun;
pub mod udp;

pub use client::{Phase, Tunnel, TunnelConfig, TunnelDialer, TunnelPeer, TunnelStatus};
pub use gateway::{
    Access, Admitted, Destination, DnsPolicy, Gateway, GatewayConfig, GatewayPeer, GatewayStats, GatewayView,
    ParsePortsError, ParseUpstreamError, PeerDropCounts, PeerStats, Policy, PolicyEntry, PolicyError,
    PolicyPort, Ports, Rule, Upstream, Via,
};
pub use netstack::TunnelStream;
pub use orfe_tunnel_core::{AllowedIp, ParseAllowedIpError, PresharedKey, PrivateKey, PublicKey};
