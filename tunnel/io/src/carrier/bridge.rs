//! The device's end of a carrier.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Carried, DATAGRAM_MAX, carry};

/// Pause until the connection is made again: the first, and the longest after doubling.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// A connection that stood this long was a good one; the pauses begin anew.
const GOOD: Duration = Duration::from_secs(10);

/// How the connection behind a bridge is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeState {
    /// It is being made. Datagrams wait in the socket's buffer.
    Opening,
    /// It carries.
    Open,
    /// It could not be made, or it broke, for this reason. It is tried again after a pause.
    Failed(String),
}

/// A loopback UDP socket whose datagrams are carried by messages; ends when dropped.
#[derive(Debug)]
pub struct Bridge {
    address: SocketAddr,
    node: SocketAddr,
    state: watch::Receiver<BridgeState>,
    _stop: DropGuard,
}

impl Bridge {
    /// Opens the socket for the tunnel whose own UDP port is `node_port`; nobody else on this machine is listened to. Then
    /// makes the connection with `connect`, and again whenever it breaks. Needs a tokio runtime.
    pub async fn start<C, F, M, E>(node_port: u16, connect: C) -> io::Result<Self>
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<M, E>> + Send,
        M: Stream<Item = Result<Bytes, E>> + Sink<Bytes, Error = E> + Send,
        E: Display + Send,
    {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let node = SocketAddr::from((Ipv4Addr::LOCALHOST, node_port));
        socket.connect(node).await?;
        let address = socket.local_addr()?;
        let (publisher, state) = watch::channel(BridgeState::Opening);
        let stop = CancellationToken::new();
        // Bounded by the token: every step is dropped when it is cancelled, and the guard cancels it.
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped
                .run_until_cancelled(keep(&socket, &connect, &publisher))
                .await
        });
        Ok(Self {
            address,
            node,
            state,
            _stop: stop.drop_guard(),
        })
    }

    /// The endpoint that the tunnel is to use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The UDP port of the tunnel that this bridge serves.
    pub fn node_port(&self) -> u16 {
        self.node.port()
    }

    /// How the connection is, now and as it changes.
    pub fn state(&self) -> watch::Receiver<BridgeState> {
        self.state.clone()
    }
}

async fn keep<C, F, M, E>(socket: &UdpSocket, connect: &C, state: &watch::Sender<BridgeState>)
where
    C: Fn() -> F,
    F: Future<Output = Result<M, E>>,
    M: Stream<Item = Result<Bytes, E>> + Sink<Bytes, Error = E>,
    E: Display,
{
    let mut pause = PAUSE.0;
    loop {
        let reason = match connect().await {
            Ok(messages) => {
                state.send_replace(BridgeState::Open);
                let since = Instant::now();
                let ended = carry(socket, messages, &Carried::default()).await;
                if since.elapsed() >= GOOD {
                    pause = PAUSE.0;
                }
                ended.map_or_else(
                    |error| error.to_string(),
                    |()| "the other end closed it".to_owned(),
                )
            }
            Err(error) => error.to_string(),
        };
        tracing::debug!(reason, "a carrier's connection");
        state.send_replace(BridgeState::Failed(reason));
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSE.1);
        // What waited that long is of no use to anybody; what comes from now on may be a handshake.
        let mut buffer = [0; DATAGRAM_MAX];
        while socket.try_recv(&mut buffer).is_ok() {}
        state.send_replace(BridgeState::Opening);
    }
}
