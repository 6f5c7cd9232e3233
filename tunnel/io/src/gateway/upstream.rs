//! The gateway's connections into the cluster: one task for each connection of a peer.
//!
//! A task dials (or serves DNS itself), asks the thread to let the device's SYN in, copies bytes, and ends. It is cancelled when its flow is
//! forgotten before it was let in, and when the gateway stops.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use orfe_tunnel_core::PeerId;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::datagrams::{self, DatagramFlow};
use super::dns;
use super::dns::Question;
use super::front::Command;
use super::landing::Arriving;
use super::policy::{Access, Policy, Upstream};
use super::regain::Keeper;
use crate::netstack::{Accepted, Flow, Handle};
use crate::proxy::address_kind::AddressKind;
use crate::proxy::connect::connect_any;
use crate::proxy::splice::between;

/// How long resolving and connecting may take together.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to complete the handshake whose first packet it sent. It sends the last one in the same moment as
/// its first data, and the kernel repeats the one between them.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Buffer of each direction of a copy, in bytes.
const COPY_BUFFER: usize = 32 << 10;

/// Starts tasks that forward.
#[derive(Debug)]
pub(super) struct Forwarders {
    handle: Handle<Command>,
    runtime: tokio::runtime::Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// A connection of a peer, to be forwarded.
#[derive(Debug)]
pub(super) struct PeerConnection {
    pub(super) flow: Flow,
    /// Tells this attempt from another with the same flow.
    pub(super) attempt: u64,
    pub(super) device: Arc<str>,
    /// What policy calls the destination.
    pub(super) name: String,
    pub(super) by: By,
}

/// Who serves a connection.
#[derive(Debug)]
pub(super) enum By {
    Upstream(Upstream),
    /// The gateway's own DNS, for a peer with this access.
    Dns {
        policy: Arc<Policy>,
        access: Access,
    },
}

impl Forwarders {
    pub(super) fn new(
        handle: Handle<Command>,
        runtime: tokio::runtime::Handle,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            handle,
            runtime,
            tracker,
            stop,
        }
    }

    /// Starts a task; cancelling the token ends it.
    pub(super) fn start(&self, connection: PeerConnection) -> CancellationToken {
        let handle = self.handle.clone();
        self.spawn(async move { run(connection, &handle).await })
    }

    /// Starts a task for datagrams; it ends with its queue, too.
    pub(super) fn carry(&self, flow: DatagramFlow) {
        let handle = self.handle.clone();
        self.spawn(async move { datagrams::carry(flow, &handle).await });
    }

    /// Asks the resolver for a peer; the answer comes back as [`Command::Resolved`].
    pub(super) fn ask(&self, flow: Flow, peer: PeerId, resolver: SocketAddr, question: Box<Question>) {
        let handle = self.handle.clone();
        self.spawn(async move {
            let answer = dns::resolver::ask(resolver, &question).await;
            // An error means that the gateway stops.
            let _ = handle.send(Command::Resolved { flow, peer, answer }).await;
        });
    }

    /// Keeps the thread's namespace from now on.
    pub(super) fn keep(&self, keeper: Keeper, arriving: Arriving) {
        self.spawn(keeper.keep(arriving, self.handle.clone()));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> CancellationToken {
        let cancel = self.stop.child_token();
        let cancelled = cancel.clone();
        // In a box, because what is given to `run_until_cancelled` by value takes its room twice.
        let task = Box::pin(task);
        self.tracker.spawn_on(
            async move {
                cancelled.run_until_cancelled(task).await;
            },
            &self.runtime,
        );
        cancel
    }
}

async fn run(wanted: PeerConnection, handle: &Handle<Command>) {
    let PeerConnection {
        flow,
        attempt,
        device,
        name,
        by,
    } = wanted;
    let upstream = match by {
        By::Dns { policy, access } => {
            match admit(flow, attempt, handle).await {
                Some(Accepted::Smoltcp(stream)) => dns::stream::serve(stream, policy, access).await,
                Some(Accepted::Kernel(stream)) => dns::stream::serve(stream, policy, access).await,
                None => {}
            }
            leave(flow, attempt, handle).await;
            return;
        }
        By::Upstream(upstream) => upstream,
    };
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, dial(&upstream)).await;
    let connection = match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(connection) => connection,
        Err(error) => {
            let command = Command::Refuse { flow, attempt, error };
            // An error means that the gateway stops.
            let _ = handle.send(command).await;
            return;
        }
    };
    if let (Ok(local), Ok(address)) = (connection.local_addr(), connection.peer_addr()) {
        // Of every connection that is made, also where the peer has given up by now: whoever asks who it was that came to a
        // destination finds it here.
        tracing::info!(%device, destination = name, upstream = %address, %local, "forwarding");
        if let Some(stream) = admit(flow, attempt, handle).await {
            splice(stream, connection, local, &device, &name).await;
        } else {
            tracing::debug!(%device, destination = name, %local, "the peer gave up meanwhile");
        }
    }
    leave(flow, attempt, handle).await;
}

/// Lets the peer's SYN in. `None` when the peer has given up meanwhile, or the gateway stops.
async fn admit(flow: Flow, attempt: u64, handle: &Handle<Command>) -> Option<Accepted> {
    let (reply, admitted) = oneshot::channel();
    handle.send(Command::Admit { flow, attempt, reply }).await.ok()?;
    tokio::time::timeout(ADMIT_TIMEOUT, admitted).await.ok()?.ok()
}

/// Nothing is copied any more.
async fn leave(flow: Flow, attempt: u64, handle: &Handle<Command>) {
    // An error means that the gateway stops.
    let _ = handle.send(Command::Left { flow, attempt }).await;
}

async fn splice(
    mut stream: Accepted,
    mut upstream: TcpStream,
    local: SocketAddr,
    device: &str,
    destination: &str,
) {
    let copied = match &mut stream {
        Accepted::Smoltcp(stream) => {
            let copying = copy_bidirectional_with_sizes(stream, &mut upstream, COPY_BUFFER, COPY_BUFFER);
            copying.await.ok()
        }
        Accepted::Kernel(stream) => between(stream.socket(), &upstream).await,
    };
    if let Some((up_bytes, down_bytes)) = copied {
        tracing::debug!(%device, destination, %local, up_bytes, down_bytes, "forwarded");
        return;
    }
    tracing::debug!(%device, destination, %local, "cut");
    // A cut on one side is a cut on the other; a FIN would pass for a complete answer.
    if let Err(error) = upstream.set_zero_linger() {
        tracing::debug!(%error, "upstream is closed instead of reset");
    }
}

async fn dial(upstream: &Upstream) -> io::Result<TcpStream> {
    connect_any(resolve(upstream).await?).await
}

/// The addresses of an upstream. An error when a name leads to the gateway's own machine and nowhere else.
pub(super) async fn resolve(upstream: &Upstream) -> io::Result<Vec<SocketAddr>> {
    let (host, port) = match upstream {
        Upstream::Address(address) => return Ok(vec![*address]),
        Upstream::Name { host, port } => (host.as_str(), *port),
    };
    let (own, others): (Vec<SocketAddr>, Vec<SocketAddr>) = lookup_host((host, port))
        .await?
        .partition(|address| AddressKind::of(address.ip()).is_some());
    match own.first() {
        Some(address) if others.is_empty() => {
            let what = format!(
                "the name resolves to {}, which policy must name by address",
                address.ip()
            );
            Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
        }
        _ => Ok(others),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_for_loopback_is_refused_and_its_address_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let by_name = Upstream::Name {
            host: "localhost".to_owned(),
            port,
        };
        let error = dial(&by_name).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        dial(&Upstream::Address(listener.local_addr().unwrap()))
            .await
            .unwrap();
    }
}
