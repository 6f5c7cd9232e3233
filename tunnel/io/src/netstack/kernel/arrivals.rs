//! Where accepted sockets meet the tasks that wait for them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay, set_tcp_user_timeout,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Loss, Number};
use crate::accepting::AcceptFailures;
use crate::kernel_stream::{KernelSocket, KernelStream};
use crate::netstack::Accepted;
use crate::places::Place;

/// Probes on silent connections find peers that are gone for good: the first after this long, and then at this interval.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// Milliseconds after which a peer that answers neither probes nor data is gone, as with smoltcp.
const DEAD_AFTER: u32 = 5 * 60 * 1000;

/// A listening socket from elsewhere. What is set on it holds for all that it accepts.
pub(super) fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    set_tcp_nodelay(&socket, true)?;
    set_socket_keepalive(&socket, true)?;
    set_tcp_keepidle(&socket, KEEP_ALIVE)?;
    set_tcp_keepintvl(&socket, KEEP_ALIVE)?;
    set_tcp_user_timeout(&socket, DEAD_AFTER)?;
    TcpListener::from_std(socket.into())
}

/// The connections of one namespace by number; as many as there are places.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    by_number: Mutex<HashMap<Number, Arrival>>,
    /// None come any more.
    ended: CancellationToken,
    /// Why, if the device is gone.
    loss: OnceLock<Loss>,
}

#[derive(Debug)]
enum Arrival {
    /// Its SYN was let in.
    Expected {
        reply: oneshot::Sender<Accepted>,
        place: Place,
    },
    /// It was accepted.
    Here(Weak<KernelSocket>),
}

impl Arrivals {
    /// Accepts until the end.
    pub(crate) async fn serve(&self, listener: &TcpListener) {
        self.ended.run_until_cancelled(self.accept(listener)).await;
    }

    /// Ends those that accept.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Ends them because the device is gone. False when that was known.
    pub(super) fn lose(&self, loss: Loss) -> bool {
        let is_first = self.loss.set(loss).is_ok();
        self.end();
        is_first
    }

    /// Whether the device is gone.
    pub(crate) fn loss(&self) -> Option<&Loss> {
        self.loss.get()
    }

    async fn accept(&self, listener: &TcpListener) {
        let failures = AcceptFailures::default();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Ok(local) = stream.local_addr() {
                        self.take(stream, local);
                    }
                }
                Err(error) => failures.pause_after(&error).await,
            }
        }
    }

    fn take(&self, stream: TcpStream, local: SocketAddr) {
        let Some(number) = Number::of(local) else { return };
        let mut arrivals = self.lock();
        match arrivals.remove(&number) {
            Some(Arrival::Expected { reply, place }) => {
                let stream = KernelStream::new(stream, place);
                arrivals.insert(number, Arrival::Here(Arc::downgrade(stream.socket())));
                drop(arrivals);
                // When nobody waits any more, the stream is dropped, which resets the connection.
                drop(reply.send(Accepted::Kernel(stream)));
            }
            other => {
                // Nobody expects it: it was given up meanwhile.
                if let Some(other) = other {
                    arrivals.insert(number, other);
                }
                let _ = stream.set_zero_linger();
            }
        }
    }

    /// The next to be accepted with this number is for `reply`.
    pub(super) fn expect(&self, number: Number, reply: oneshot::Sender<Accepted>, place: Place) {
        self.lock().insert(number, Arrival::Expected { reply, place });
    }

    pub(super) fn forget(&self, number: Number) {
        self.lock().remove(&number);
    }

    /// Resets a connection, at both ends. Whoever waits for it, reads or writes gets an error.
    pub(super) fn reset(&self, number: Number) {
        let arrival = self.lock().remove(&number);
        if let Some(arrival) = arrival {
            arrival.reset();
        }
    }

    pub(super) fn reset_all(&self) {
        for (_, arrival) in std::mem::take(&mut *self.lock()) {
            arrival.reset();
        }
    }

    /// The sockets that were accepted and are in use.
    pub(super) fn sockets(&self) -> Vec<Arc<KernelSocket>> {
        let arrivals = self.lock();
        let here = arrivals.values().filter_map(|arrival| match arrival {
            Arrival::Here(socket) => socket.upgrade(),
            Arrival::Expected { .. } => None,
        });
        here.collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Number, Arrival>> {
        // The map is whole between any two calls.
        self.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrival {
    fn reset(self) {
        if let Self::Here(socket) = self
            && let Some(socket) = socket.upgrade()
        {
            // Connecting to "unspecified" takes a TCP socket back to its beginning, which sends a reset (tcp(7)).
            let _ = rustix::net::connect_unspec(socket.stream());
        }
    }
}
