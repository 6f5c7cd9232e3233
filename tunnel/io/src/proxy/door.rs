//! The door for workspace containers: a unix socket by which the forwarder in a container asks for names of the policy.
//!
//! Who may open the socket may use it: its folder belongs to the agent's user alone and is mounted into the forwarder. It takes
//! `CONNECT` and nothing else, and it takes it for names and ports of the policy and nothing else; where the proxy of a child
//! would go directly, this refuses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Limits;
use super::body::Body;
use super::connections::Counters;
use super::head::{self, Kind};
use super::lookup;
use super::reach::{self, Destination, WatchedDialer};
use super::receive::{HeadError, buffered, read_head};
use super::refusal::Refusal;
use super::routes::{Decision, Routes, Transport, Way};
use super::splice::{Side, Until, splice};
use super::target::{Host, Target};
use crate::dial::Dialer;

/// How long accepting pauses after a failure, which mostly means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The door could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the socket for containers cannot be made at {}", path.display())]
pub struct DoorError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// An open door. Dropping it closes every connection without waiting; [`Door::shutdown`] waits.
#[derive(Debug)]
pub struct Door {
    /// Owns the accepting task and each connection's task.
    tasks: TaskTracker,
    stop: DropGuard,
}

struct Shared {
    limits: Limits,
    routes: watch::Receiver<Arc<Routes>>,
    dialer: WatchedDialer,
    stop: CancellationToken,
}

impl Door {
    /// Listens at `path`, in the place of a socket that an earlier life left there. The folder's mode decides who may
    /// come; it has to be one that nobody else may enter.
    ///
    /// # Errors
    /// The path is too long, or the socket cannot be made there.
    pub fn open(
        path: &Path,
        limits: Limits,
        routes: watch::Receiver<Arc<Routes>>,
        dialer: watch::Receiver<Option<Arc<dyn Dialer>>>,
    ) -> Result<Self, DoorError> {
        let failed = |source| DoorError {
            path: path.to_owned(),
            source,
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            limits,
            routes,
            dialer,
            stop: stop.clone(),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, shared, tasks.clone()));
        Ok(Self {
            tasks,
            stop: stop.drop_guard(),
        })
    }

    /// Stops listening, closes every connection and waits until the last task has ended.
    pub async fn shutdown(self) {
        self.stop.disarm().cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, tasks: TaskTracker) {
    // Beyond the limit the forwarder waits in the listener's backlog, which its own limit bounds.
    let slots = Arc::new(Semaphore::new(shared.limits.connections));
    while let Some(Ok(slot)) = shared
        .stop
        .run_until_cancelled(Arc::clone(&slots).acquire_owned())
        .await
    {
        match shared.stop.run_until_cancelled(listener.accept()).await {
            None => return,
            Some(Ok((stream, _))) => {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    shared.stop.run_until_cancelled(serve(&shared, stream)).await;
                    drop(slot);
                });
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(shared: &Shared, stream: UnixStream) {
    let mut client = buffered(stream);
    let reached = async {
        let (target, way) = admit(shared, &mut client).await?;
        reach(shared, &target, &way).await
    };
    match reached.await {
        Ok(Destination::Socket(stream)) => carry(&mut client, stream).await,
        Ok(Destination::Tunnel(stream)) => carry(&mut client, stream).await,
        Err(refusal) => {
            tracing::debug!(code = refusal.code(), "refused a container");
            // Who does not wait for the answer does not need it.
            let _ = client.write_all(&refusal.answer()).await;
            let _ = client.shutdown().await;
        }
    }
}

/// Reads a request and decides its way.
async fn admit(shared: &Shared, client: &mut BufReader<UnixStream>) -> Result<(Target, Way), Refusal> {
    let head = match timeout(shared.limits.head, read_head(client)).await {
        Err(_) => return Err(Refusal::HeadTimeout),
        Ok(Err(HeadError::TooLarge)) => return Err(Refusal::HeadTooLarge),
        Ok(Err(HeadError::Invalid(reason))) => return Err(Refusal::BadRequest(reason)),
        Ok(Err(HeadError::Closed | HeadError::Io(_))) => {
            return Err(Refusal::BadRequest("the request is not complete"));
        }
        Ok(Ok(head)) => head,
    };
    let request = head::parse(&head)?;
    if !matches!(request.kind, Kind::Connect) {
        return Err(Refusal::BadRequest("containers may only ask for CONNECT"));
    }
    let routes = shared.routes.borrow().clone();
    match (
        &request.target.host,
        routes.decide(&request.target, Transport::Tcp),
    ) {
        (Host::Name(name), decision) if routes.names(name, request.target.port) => match decision {
            Decision::Go(way) => Ok((request.target, way)),
            Decision::Refuse(refusal) => Err(refusal),
        },
        _ => Err(Refusal::AddressRefused("no name and port of the policy")),
    }
}

async fn reach(shared: &Shared, target: &Target, way: &Way) -> Result<Destination, Refusal> {
    match way {
        Way::Tunnel(address) => reach::through_tunnel(shared.dialer.clone(), *address, &shared.limits).await,
        Way::Lookup(lookup) => lookup::dial(shared.dialer.clone(), lookup, &shared.limits).await,
        Way::Direct(rule) => reach::directly(target, rule, &shared.limits).await,
        Way::Upstream(proxy) => {
            // There is no port of ours that the owner's proxy could be mistaken for.
            let own = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            reach::through_upstream(proxy, Some(target), own, &shared.limits).await
        }
    }
}

async fn carry<D: Side>(client: &mut BufReader<UnixStream>, mut destination: BufReader<D>) {
    if client.write_all(ESTABLISHED).await.is_err() || client.flush().await.is_err() {
        return;
    }
    let counters = Counters::default();
    let (body, until) = (Body::Unbounded, Until::BothEnd);
    let reason = splice(client, &mut destination, &counters, body, until).await;
    tracing::debug!(?reason, "a container's connection ended");
}

/// A unix socket is carried through buffers.
impl Side for UnixStream {}

/// Reads the answer to a `CONNECT`, head only.
pub(crate) async fn read_answer(agent: &mut BufReader<UnixStream>) -> io::Result<Vec<u8>> {
    read_head(agent)
        .await
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Whether an answer to a `CONNECT` says yes.
pub(crate) fn accepted(answer: &[u8]) -> bool {
    matches!(super::upstream::status_of(answer), Some(200..=299))
}
