//! The data plane: TCP through `WireGuard` in user space, with no device, route or right on the host unless TUN mode is asked for.
//!
//! - [`Tunnel`] is the device's end. It dials through [`dial::Dialer`], the seam behind which the TCP stack can be replaced.
//! - [`Gateway`] is the cluster's end. It accepts what policy names, dials the upstream first, and forwards.
//! - [`carrier`] takes the datagrams where UDP is not let through.
//! - [`proxy`] is the loopback proxy in front of the dialer.
//!
//! Packets are handled by one thread for each end, and by several for a gateway; see the documentation of the module `netstack`.

mod accepting;
mod bridge;
pub mod carrier;
mod client;
mod connections;
pub mod dial;
pub mod forwarder;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod kernel_stream;
#[cfg(target_os = "linux")]
mod namespace;
mod netstack;
mod places;
pub mod proxy;
pub mod tun;
pub mod udp;

use std::process::ExitCode;

pub use accepting::AcceptFailures;
pub use bridge::BridgeAddress;
pub use client::{
    HostOptions, ParseTcpStackError, Phase, SplitDns, TcpStack, Tunnel, TunnelConfig, TunnelDialer,
    TunnelError, TunnelPeer, TunnelStatus,
};
pub use gateway::{
    Access, Admitted, Destination, DnsPolicy, Gateway, GatewayConfig, GatewayPeer, GatewayStack,
    GatewayStartError, GatewayStats, GatewayTcp, GatewayView, ParsePortsError, ParseUpstreamError,
    PeerDropCounts, PeerStats, Policy, PolicyEntry, PolicyError, PolicyPort, Ports, Rule, Shards, Upstream,
    Via,
};
pub use netstack::TunnelStream;
pub use orfe_tunnel_core::{AllowedIp, ParseAllowedIpError, PresharedKey, PrivateKey, PublicKey};

/// Makes this process the namespace helper when its command line says so, and returns when the helper is done.
///
/// The first thing in `main` of every program that starts a [`Tunnel`] or a [`Gateway`]: the helper is the same program started again, and has to
/// have one thread. `None`: this is no helper, go on.
pub fn run_namespace_helper_if_asked() -> Option<ExitCode> {
    #[cfg(target_os = "linux")]
    return namespace::run_helper_if_asked();
    #[cfg(not(target_os = "linux"))]
    None
}
