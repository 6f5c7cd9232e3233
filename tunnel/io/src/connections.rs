//! Connections and UDP sockets of the kernel's own TCP and UDP, wherever their sockets come from: a private namespace, or a
//! device of this host.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, UdpSocket};

use crate::dial::{BoxFuture, Datagrams};
use crate::kernel_stream::{KernelSocket, KernelStream};
use crate::places::{NoPlace, Places};

/// Entries of the list of connections at which ended ones are taken out of it: so many that each costs little.
const SWEEP_AT: usize = 1024;

/// Which sort of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SocketKind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

impl SocketKind {
    pub(crate) const fn is_v4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Udp4)
    }

    /// A new socket of this sort, in the calling thread's own network. It never blocks.
    pub(crate) fn socket(self) -> io::Result<Socket> {
        let (domain, kind) = match self {
            Self::Tcp4 => (Domain::IPV4, Type::STREAM),
            Self::Tcp6 => (Domain::IPV6, Type::STREAM),
            Self::Udp4 => (Domain::IPV4, Type::DGRAM),
            Self::Udp6 => (Domain::IPV6, Type::DGRAM),
        };
        let socket = Socket::new(domain, kind, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// Where sockets come from.
pub(crate) trait Sockets: std::fmt::Debug + Send + Sync {
    /// One that never blocks, and whose packets go into the tunnel or nowhere.
    fn socket(&self, kind: SocketKind) -> BoxFuture<'_, io::Result<Socket>>;
}

/// The connections of one tunnel, as many at once as there are places.
#[derive(Debug)]
pub(crate) struct Connections {
    sockets: Box<dyn Sockets>,
    addresses: Vec<IpAddr>,
    places: Places,
    open: Mutex<HashMap<u64, Weak<KernelSocket>>>,
    next: AtomicU64,
}

/// Why a connection was not opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// All places are taken.
    TooMany,
    /// The other end refused.
    Refused,
    /// Nobody answered, by the kernel's own patience.
    TimedOut,
    /// The helper is gone, and with it the means to make sockets.
    Gone,
    /// There is no address of ours of that family, or the destination cannot be dialled at all.
    Unaddressable,
    /// What else the system said.
    Io(io::Error),
}

impl Connections {
    pub(crate) fn new(sockets: impl Sockets + 'static, addresses: Vec<IpAddr>, places: Places) -> Self {
        Self {
            sockets: Box::new(sockets),
            addresses,
            places,
            open: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Connects. Dropping the future abandons the attempt and frees its place.
    pub(crate) async fn open(&self, destination: SocketAddr) -> Result<KernelStream, OpenError> {
        let place = self.places.take().map_err(|error| match error {
            NoPlace::Full => OpenError::TooMany,
            NoPlace::Closed => OpenError::Gone,
        })?;
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        self.own_address(destination)?;
        let kind = match destination {
            SocketAddr::V4(_) => SocketKind::Tcp4,
            SocketAddr::V6(_) => SocketKind::Tcp6,
        };
        let socket = self.sockets.socket(kind).await.map_err(OpenError::from)?;
        let socket = TcpSocket::from_std_stream(socket.into());
        // Small messages go out at once.
        socket.set_nodelay(true).map_err(OpenError::Io)?;
        let stream = socket.connect(destination).await.map_err(OpenError::from)?;
        let stream = KernelStream::new(stream, place);
        self.note(stream.socket());
        if self.places.is_closed() {
            // All were reset while this one was being opened; letting go of it resets it, too.
            return Err(OpenError::Gone);
        }
        Ok(stream)
    }

    /// Lists a connection, so that [`Connections::reset_all`] finds it.
    fn note(&self, socket: &Arc<KernelSocket>) {
        let mut open = self.lock();
        // Live ones are bounded by the places, so ended ones are most of a list that is this long.
        if open.len() >= SWEEP_AT {
            open.retain(|_, socket| socket.strong_count() > 0);
        }
        open.insert(self.next.fetch_add(1, Ordering::Relaxed), Arc::downgrade(socket));
    }

    /// Resets every connection, at both ends, and lets no new one in. Whoever reads or writes gets an error.
    pub(crate) fn reset_all(&self) {
        self.places.close();
        for (_, socket) in std::mem::take(&mut *self.lock()) {
            if let Some(socket) = socket.upgrade() {
                socket.cut();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<KernelSocket>>> {
        // The map is whole between any two calls.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A UDP socket for destinations of the family of `destination`.
    pub(crate) async fn bind_datagrams(&self, destination: SocketAddr) -> io::Result<InnerUdp> {
        let unaddressable = |_| io::Error::from(io::ErrorKind::AddrNotAvailable);
        let own = self.own_address(destination).map_err(unaddressable)?;
        let kind = match destination {
            SocketAddr::V4(_) => SocketKind::Udp4,
            SocketAddr::V6(_) => SocketKind::Udp6,
        };
        let socket = self.sockets.socket(kind).await?;
        socket.bind(&SockAddr::from(SocketAddr::new(own, 0)))?;
        Ok(InnerUdp(UdpSocket::from_std(socket.into())?))
    }

    /// Our own address of the family of `destination`, if that is an address behind the tunnel. The namespace has a loopback
    /// of its own, where nothing listens, and the device answers for its own addresses.
    fn own_address(&self, destination: SocketAddr) -> Result<IpAddr, OpenError> {
        let to = destination.ip();
        let behind =
            !(to.is_unspecified() || to.is_loopback() || to.is_multicast() || self.addresses.contains(&to));
        let own = self.addresses.iter().copied();
        own.filter(|own| own.is_ipv4() == to.is_ipv4())
            .find(|_| behind && destination.port() != 0)
            .ok_or(OpenError::Unaddressable)
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::NotConnected => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// A UDP socket behind the tunnel.
#[derive(Debug)]
pub(crate) struct InnerUdp(UdpSocket);

impl Datagrams for InnerUdp {
    fn send_to<'a>(&'a self, payload: &'a [u8], destination: SocketAddr) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.0.send_to(payload, destination).await.map(drop) })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move { self.0.recv_from(buffer).await })
    }
}
