//! The seam between the local proxy and the TCP stack that carries its connections.
//!
//! The proxy asks a [`Dialer`] for a stream to an inner address and copies bytes; it does not know whether smoltcp, the
//! kernel in a private namespace, or a plain socket answers. A dial either yields a stream on which the three-way
//! handshake is complete, or one of the [`DialError`]s; a dial that is dropped is abandoned and frees what it held.

use std::any::Any;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::kernel_stream::{KernelSocket, KernelStream};

/// A boxed future that may be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection as the proxy sees it: bytes both ways, each way closed on its own (half-close).
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + Any {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connection whose kind was chosen at run time.
pub type BoxedStream = Box<dyn Stream>;

/// The kernel's socket behind a stream, if there is one: between two of those the kernel can copy by itself.
pub(crate) fn kernel_socket(stream: &BoxedStream) -> Option<&KernelSocket> {
    let stream: &dyn Any = &**stream;
    stream
        .downcast_ref::<KernelStream>()
        .map(|stream| &**stream.socket())
}

/// Opens TCP connections and UDP sockets.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `destination`. Dropping the future abandons the attempt.
    fn dial(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedStream, DialError>>;

    /// A UDP socket with an inner address and a port of its own, for destinations of the family of `destination`.
    fn bind_datagrams(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedDatagrams, DialError>> {
        Box::pin(async move {
            Err(DialError::Io {
                destination,
                source: io::ErrorKind::Unsupported.into(),
            })
        })
    }
}

/// A UDP socket inside the tunnel. Datagrams that find no room are lost, as on any network.
pub trait Datagrams: Send + Sync {
    /// Sends one datagram. An error says that this one was not sent; the socket goes on.
    fn send_to<'a>(&'a self, payload: &'a [u8], destination: SocketAddr) -> BoxFuture<'a, io::Result<()>>;

    /// The next datagram and where it came from; what does not fit into `buffer` is lost.
    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>>;
}

/// A UDP socket whose kind was chosen at run time.
pub type BoxedDatagrams = Box<dyn Datagrams>;

/// Why a dial gave no stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The other end answered with a reset: nothing listens there, its upstream refused, or policy does not name it.
    #[error("connection to {destination} was refused")]
    Refused {
        /// Where the dial went.
        destination: SocketAddr,
    },
    /// Nothing answered in time while the tunnel was up.
    #[error("connection to {destination} timed out after {} s", after.as_secs_f32())]
    TimedOut {
        /// Where the dial went.
        destination: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The tunnel is not up (no handshake within the last 180 s) or has been shut down.
    #[error("the tunnel is down, so {destination} cannot be reached")]
    TunnelDown {
        /// Where the dial went.
        destination: SocketAddr,
    },
    /// The bound on connections is reached.
    #[error("no connection to {destination}: all {limit} connections are in use")]
    TooMany {
        /// Where the dial went.
        destination: SocketAddr,
        /// The bound.
        limit: usize,
    },
    /// The stack or the operating system refused the attempt itself.
    #[error("could not start a connection to {destination}")]
    Io {
        /// Where the dial went.
        destination: SocketAddr,
        /// What was answered.
        #[source]
        source: io::Error,
    },
}
