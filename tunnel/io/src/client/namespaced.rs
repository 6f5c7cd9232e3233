//! The end with the kernel's own TCP: a private network namespace, and the data path of TUN mode behind its device.
//!
//! One task keeps the parts together. When any of them ends, by being told to or by itself, every connection is reset, both
//! ends of it, and the others end too; whoever watches the status sees that the tunnel is gone and starts a new one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use orfe_tunnel_core::path::Report;
use orfe_tunnel_core::{Node, PublicKey};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::choice::NoNamespace;
use super::{DialFailure, EndConfig, MAX_CONNECTIONS, NUDGE_INTERVAL, TunnelConfig, TunnelStatus};
use crate::connections::Connections;
use crate::dial::{BoxedDatagrams, BoxedStream};
pub(super) use crate::namespace::Made;
use crate::namespace::{Namespace, NamespaceConfig};
use crate::places::Places;
use crate::tun::{DataPath, DataPathConfig, TunDevice};
use crate::udp::{UdpOptions, UdpPort};

/// Makes a namespace, or says why there is none.
pub(super) fn make(config: &TunnelConfig) -> Result<Made, NoNamespace> {
    let namespace = NamespaceConfig {
        program: config.helper.clone(),
        // The kernel has its own opinion on what is too large.
        mtu: u16::try_from(config.mtu).unwrap_or(u16::MAX),
        addresses: config.addresses.clone(),
    };
    Namespace::make(namespace).map_err(|error| NoNamespace {
        reason: error.reason(),
        hint: error.hint(),
    })
}

pub(super) fn congestion_control(made: &Made) -> Arc<str> {
    made.congestion.as_str().into()
}

/// A tunnel whose connections the kernel carries.
#[derive(Debug)]
pub(super) struct NamespaceEnd {
    shared: Arc<Shared>,
    /// Where UDP was bound at first.
    bound: SocketAddr,
    keeper: JoinHandle<()>,
    stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    path: DataPath,
    connections: Connections,
    /// Our own inside the tunnel.
    addresses: Vec<IpAddr>,
    gateway: PublicKey,
    /// When a dial last asked for a handshake.
    nudged: Mutex<Option<Instant>>,
}

impl NamespaceEnd {
    /// Starts the data threads and the task that keeps everything together.
    pub(super) fn start(
        config: EndConfig,
        made: Made,
        node: Node,
        status: watch::Sender<TunnelStatus>,
    ) -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let udp = UdpPort::bind(&UdpOptions::new(config.bind))?;
        let bound = udp.local_addr()?;
        let counted = status.clone();
        let places = Places::new(MAX_CONNECTIONS, move |taken| {
            // Seen by who looks; nobody is woken for every connection.
            counted.send_if_modified(|status| {
                status.connections = taken;
                false
            });
        });
        let path = DataPathConfig {
            device: TunDevice::from_fd(made.tun, true)?,
            udp,
            node,
            gateway: config.gateway,
            stack: "namespace",
        };
        let path = DataPath::start_telling(path, status)?;
        let shared = Arc::new(Shared {
            path,
            connections: Connections::new(made.namespace.clone(), config.addresses.clone(), places),
            addresses: config.addresses,
            gateway: config.gateway,
            nudged: Mutex::new(None),
        });
        let stop = CancellationToken::new();
        let keeper = runtime.spawn(keep(made.namespace, Arc::clone(&shared), stop.clone()));
        Ok(Self {
            shared,
            bound,
            keeper,
            stop: stop.drop_guard(),
        })
    }

    pub(super) fn dialer(&self) -> NamespaceDialer {
        NamespaceDialer {
            shared: Arc::clone(&self.shared),
        }
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        // A socket that is bound can say where.
        self.shared.path.local_addr().unwrap_or(self.bound)
    }

    pub(super) fn set_endpoint(&self, endpoint: SocketAddr) {
        self.shared.path.set_endpoint(&self.shared.gateway, endpoint);
    }

    pub(super) fn rehandshake(&self) {
        self.shared.path.rehandshake(&self.shared.gateway);
    }

    pub(super) fn probe(&self, endpoint: SocketAddr) {
        self.shared.path.probe(&self.shared.gateway, endpoint);
    }

    /// False when no other port can be had.
    pub(super) fn rebind(&self) -> bool {
        let rebound = self.shared.path.rebind();
        if let Err(error) = &rebound {
            tracing::warn!(%error, "UDP keeps its port: no other can be had");
        }
        rebound.is_ok()
    }

    pub(super) fn measure_path(&self, gateway: &[IpAddr]) {
        self.shared.path.measure(&self.shared.addresses, gateway);
    }

    pub(super) fn measured(&self) -> watch::Receiver<Option<Report>> {
        self.shared.path.measured()
    }

    pub(super) async fn shutdown(self) {
        drop(self.stop);
        if let Err(error) = self.keeper.await {
            tracing::error!(%error, "the end of the tunnel was not orderly");
        }
    }
}

/// Waits for the first end of anything, and ends the rest.
async fn keep(namespace: Namespace, shared: Arc<Shared>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = namespace.ended() => {
            tracing::warn!("the namespace helper has ended; resetting the connections in the tunnel");
        }
        () = shared.path.ended() => {
            tracing::warn!("the tunnel's data path has ended; resetting the connections in the tunnel");
        }
    }
    // First the resets, which the path still carries to the other end.
    shared.connections.reset_all();
    shared.path.stop().await;
    namespace.close().await;
}

/// Opens connections of the namespace.
#[derive(Debug, Clone)]
pub(super) struct NamespaceDialer {
    shared: Arc<Shared>,
}

impl NamespaceDialer {
    pub(super) async fn connect(&self, destination: SocketAddr) -> Result<BoxedStream, DialFailure> {
        let opened = tokio::select! {
            biased;
            () = self.shared.path.ended() => return Err(DialFailure::Gone),
            opened = self.shared.connections.open(destination) => opened,
        };
        match opened {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn bind_datagrams(&self, destination: SocketAddr) -> io::Result<BoxedDatagrams> {
        let socket = self.shared.connections.bind_datagrams(destination).await?;
        Ok(Box::new(socket))
    }

    /// Asks for a handshake, unless another dial has just done so.
    pub(super) fn nudge(&self) {
        let now = Instant::now();
        let mut nudged = self.shared.nudged.lock().unwrap_or_else(PoisonError::into_inner);
        if nudged.is_none_or(|at| now.saturating_duration_since(at) >= NUDGE_INTERVAL) {
            *nudged = Some(now);
            drop(nudged);
            self.shared.path.rehandshake(&self.shared.gateway);
        }
    }
}
