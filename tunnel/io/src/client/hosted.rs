//! The end in TUN mode: the tunnel is a device of this host, and connections are the host's own, bound to that device.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use orfe_tunnel_core::path::Report;
use orfe_tunnel_core::{Node, PublicKey};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    DialFailure, EndConfig, HostOptions, MAX_CONNECTIONS, NUDGE_INTERVAL, TunnelError, TunnelStatus,
};
use crate::connections::Connections;
use crate::dial::{BoxedDatagrams, BoxedStream};
use crate::places::Places;
pub(super) use crate::tun::host::HostTunnelError as HostError;
use crate::tun::host::{HostSockets, HostTunnel, HostTunnelConfig};
use crate::tun::{DataPath, TunOptions};
use crate::udp::{UdpOptions, UdpPort};

/// Congestion control of sockets that ask for none; Linux alone tells it here.
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

pub(super) fn congestion_control() -> Option<Arc<str>> {
    let text = std::fs::read_to_string(CONGESTION_CONTROL).ok()?;
    Some(text.trim().into())
}

/// A tunnel that is a device of this host.
#[derive(Debug)]
pub(super) struct HostEnd {
    /// Dropped behind the connections: their resets still go through it.
    host: HostTunnel,
    bound: SocketAddr,
    addresses: Vec<IpAddr>,
    gateway: PublicKey,
    dialing: Arc<Dialing>,
}

/// What dialers need. None of it keeps the device.
#[derive(Debug)]
struct Dialing {
    path: Weak<DataPath>,
    ended: CancellationToken,
    connections: Connections,
    gateway: PublicKey,
    /// When a dial last asked for a handshake.
    nudged: Mutex<Option<Instant>>,
}

impl HostEnd {
    pub(super) fn start(
        config: EndConfig,
        host: HostOptions,
        node: Node,
        status: watch::Sender<TunnelStatus>,
    ) -> Result<Self, TunnelError> {
        let open = |source| TunnelError::Open {
            address: config.bind,
            source,
        };
        let runtime = Handle::try_current().map_err(|error| open(io::Error::other(error)))?;
        let udp = UdpPort::bind(&UdpOptions::new(config.bind)).map_err(open)?;
        let local_addr = udp.local_addr().map_err(open)?;
        // Let go of when the connections are reset, so that the status ends with the tunnel.
        let counted = status.clone();
        let places = Places::new(MAX_CONNECTIONS, move |taken| {
            // Seen by who looks; nobody is woken for every connection.
            counted.send_if_modified(|status| {
                status.connections = taken;
                false
            });
        });
        let single = |address: &IpAddr| (*address, if address.is_ipv4() { 32 } else { 128 });
        let device = TunOptions {
            name: host.device,
            // The kernel has its own opinion on what is too large.
            mtu: u16::try_from(config.mtu).unwrap_or(u16::MAX),
            addresses: config.addresses.iter().map(single).collect(),
            offload: true,
        };
        let made = HostTunnelConfig {
            device,
            networks: host.networks,
            dns: host.dns,
            bridges: host.bridges,
            state: host.state,
            udp,
            node,
            gateway: config.gateway,
        };
        let made = HostTunnel::start_telling(made, Some(status)).map_err(TunnelError::Host)?;
        let path = made.shared_path();
        let sockets = HostSockets(made.interface().clone());
        let dialing = Arc::new(Dialing {
            path: Arc::downgrade(path),
            ended: path.end(),
            connections: Connections::new(sockets, config.addresses.clone(), places),
            gateway: config.gateway,
            nudged: Mutex::new(None),
        });
        // Ends when the path does, which the end's own end sees to.
        runtime.spawn(watch_path(Arc::clone(&dialing)));
        Ok(Self {
            host: made,
            bound: local_addr,
            addresses: config.addresses,
            gateway: config.gateway,
            dialing,
        })
    }

    pub(super) fn dialer(&self) -> HostDialer {
        HostDialer {
            dialing: Arc::clone(&self.dialing),
        }
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        // A socket that is bound can say where.
        self.host.path().local_addr().unwrap_or(self.bound)
    }

    pub(super) fn set_endpoint(&self, endpoint: SocketAddr) {
        self.host.path().set_endpoint(&self.gateway, endpoint);
    }

    pub(super) fn rehandshake(&self) {
        self.host.path().rehandshake(&self.gateway);
    }

    pub(super) fn probe(&self, endpoint: SocketAddr) {
        self.host.path().probe(&self.gateway, endpoint);
    }

    /// False when no other port can be had.
    pub(super) fn rebind(&self) -> bool {
        let rebound = self.host.path().rebind();
        if let Err(error) = &rebound {
            tracing::warn!(%error, "UDP keeps its port: no other can be had");
        }
        rebound.is_ok()
    }

    pub(super) fn measure_path(&self, gateway: &[IpAddr]) {
        self.host.path().measure(&self.addresses, gateway);
    }

    pub(super) fn measured(&self) -> watch::Receiver<Option<Report>> {
        self.host.path().measured()
    }

    pub(super) fn unguarded(&self) -> Option<&str> {
        self.host.unguarded()
    }

    pub(super) fn set_bridges(
        &self,
        bridges: Vec<String>,
    ) -> impl Future<Output = Result<Option<String>, HostError>> + Send + use<> {
        self.host.set_bridges(bridges)
    }

    pub(super) async fn shutdown(self) {
        // Programs are run and threads waited for.
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::error!("the end of the tunnel was not orderly; the next start takes back what is left");
        }
    }
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        // First the resets, which the path still carries to the other end.
        self.dialing.connections.reset_all();
    }
}

/// Resets the connections when the path ends by itself, as when somebody deletes the device, and lets that be seen.
async fn watch_path(dialing: Arc<Dialing>) {
    dialing.ended.cancelled().await;
    dialing.connections.reset_all();
    if let Some(path) = dialing.path.upgrade() {
        path.stop().await;
    }
}

/// Opens connections of the host through the device.
#[derive(Debug, Clone)]
pub(super) struct HostDialer {
    dialing: Arc<Dialing>,
}

impl HostDialer {
    pub(super) async fn connect(&self, destination: SocketAddr) -> Result<BoxedStream, DialFailure> {
        let opened = tokio::select! {
            biased;
            () = self.dialing.ended.cancelled() => return Err(DialFailure::Gone),
            opened = self.dialing.connections.open(destination) => opened,
        };
        match opened {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn bind_datagrams(&self, destination: SocketAddr) -> io::Result<BoxedDatagrams> {
        let socket = self.dialing.connections.bind_datagrams(destination).await?;
        Ok(Box::new(socket))
    }

    /// Asks for a handshake, unless another dial has just done so.
    pub(super) fn nudge(&self) {
        let now = Instant::now();
        let mut nudged = self.dialing.nudged.lock().unwrap_or_else(PoisonError::into_inner);
        if nudged.is_none_or(|at| now.saturating_duration_since(at) >= NUDGE_INTERVAL) {
            *nudged = Some(now);
            drop(nudged);
            if let Some(path) = self.dialing.path.upgrade() {
                path.rehandshake(&self.dialing.gateway);
            }
        }
    }
}
