//! UDP through the gateway: one upstream socket for each flow of a peer.
//!
//! A flow begins with the first datagram to a destination that policy names and ends when nothing has passed for
//! [`IDLE`], when its peer or its rule goes, or when the gateway stops. Its task resolves the upstream, and carries
//! datagrams both ways as they are: none is kept, repeated or put together. An answer that does not fit into a packet of
//! the tunnel is lost, as it would be on a path that does not fragment.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::front::Command;
use super::policy::Upstream;
use super::upstream::{DIAL_TIMEOUT, resolve};
use crate::netstack::{Flow, Handle};

/// Datagrams of a flow that wait for its socket; the next are lost, and counted, as in any full queue on the way.
const QUEUE: usize = 64;
/// The same until its upstream is known, which takes up to [`DIAL_TIMEOUT`]: what asks for something is short, and memory for it is
/// taken by everybody who asks.
const EARLY: usize = 8;
/// Silence after which a flow is over. RFC 4787, section 4.3: not before two minutes.
const IDLE: Duration = Duration::from_mins(3);
/// Largest datagram that is taken from an upstream; what is longer could not be sent on.
const DATAGRAM_MAX: usize = 9216;

/// One flow to be carried.
#[derive(Debug)]
pub(super) struct DatagramFlow {
    pub(super) flow: Flow,
    /// Tells this flow from a later one with the same ends.
    pub(super) attempt: u64,
    pub(super) name: String,
    pub(super) upstream: Upstream,
    /// Datagrams from the peer. Its end ends the flow.
    pub(super) queue: Outlet,
}

/// The thread's end of a flow's queue.
#[derive(Debug)]
pub(super) struct Inlet {
    sender: mpsc::Sender<Vec<u8>>,
    is_connected: Arc<AtomicBool>,
}

/// The task's end of it.
#[derive(Debug)]
pub(super) struct Outlet {
    receiver: mpsc::Receiver<Vec<u8>>,
    is_connected: Arc<AtomicBool>,
}

/// An empty queue.
pub(super) fn queue() -> (Inlet, Outlet) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let is_connected = Arc::new(AtomicBool::new(false));
    let inlet = Inlet {
        sender,
        is_connected: Arc::clone(&is_connected),
    };
    let outlet = Outlet {
        receiver,
        is_connected,
    };
    (inlet, outlet)
}

impl Inlet {
    /// Whether there was room for a datagram.
    pub(super) fn push(&self, datagram: &[u8]) -> bool {
        let waiting = self.sender.max_capacity() - self.sender.capacity();
        let has_room = waiting < EARLY || self.is_connected.load(Ordering::Relaxed);
        has_room && self.sender.try_send(datagram.to_vec()).is_ok()
    }
}

/// Carries a flow to its end, and tells the thread that it is over.
pub(super) async fn carry(flow: DatagramFlow, handle: &Handle<Command>) {
    let (ends, attempt) = (flow.flow, flow.attempt);
    let (name, upstream) = (flow.name.clone(), flow.upstream.clone());
    if let Err(error) = run(flow, handle).await {
        tracing::debug!(destination = name, %upstream, %error, "datagrams are not carried any more");
    }
    // An error means that the gateway stops.
    let _ = handle.send(Command::FlowEnded { flow: ends, attempt }).await;
}

async fn run(flow: DatagramFlow, handle: &Handle<Command>) -> io::Result<()> {
    let DatagramFlow {
        flow,
        attempt,
        upstream,
        mut queue,
        ..
    } = flow;
    let socket = tokio::time::timeout(DIAL_TIMEOUT, connect(&upstream)).await??;
    queue.is_connected.store(true, Ordering::Relaxed);
    let mut buffer = vec![0; DATAGRAM_MAX];
    let idle = tokio::time::sleep(IDLE);
    tokio::pin!(idle);
    loop {
        tokio::select! {
            datagram = queue.receiver.recv() => {
                let Some(datagram) = datagram else { return Ok(()) };
                // One that cannot be sent now is lost; the next may pass.
                if let Err(error) = socket.send(&datagram).await {
                    tracing::trace!(%upstream, %error, "datagram lost");
                }
            }
            received = socket.recv(&mut buffer) => {
                let Ok(len) = received else {
                    // "Port unreachable" for what was sent before. The peer asks again or gives up; so do we, by silence.
                    tokio::task::yield_now().await;
                    continue;
                };
                let payload = buffer[..len].to_vec();
                let command = Command::Datagram { flow, attempt, payload };
                if handle.send(command).await.is_err() {
                    return Ok(());
                }
            }
            () = &mut idle => return Ok(()),
        }
        idle.as_mut().reset(tokio::time::Instant::now() + IDLE);
    }
}

async fn connect(upstream: &Upstream) -> io::Result<UdpSocket> {
    let address = *resolve(upstream)
        .await?
        .first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
    let any: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_datagrams_wait_until_the_upstream_is_known() {
        let (inlet, mut outlet) = queue();
        let pushed = |inlet: &Inlet| (0..1000).filter(|_| inlet.push(b"one")).count();
        assert_eq!(pushed(&inlet), EARLY);
        outlet.is_connected.store(true, Ordering::Relaxed);
        assert_eq!(pushed(&inlet), QUEUE - EARLY);
        assert!(outlet.receiver.try_recv().is_ok());
        assert_eq!(pushed(&inlet), 1);
    }
}
