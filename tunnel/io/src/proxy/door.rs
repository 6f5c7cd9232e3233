//! The door for workspace containers: by it the forwarder in a container asks for names of the policy.
//!
//! It is in one of two places. Who may open the unix **socket** may use it: its folder belongs to the agent's user alone and
//! is mounted into the forwarder. Who reaches the TCP **port** may be anybody on this machine or on the bridge, so it asks
//! for a credential, and who does not show it gets no byte of an answer. Until then it waits in a lobby, out of
//! which a newcomer pushes the oldest, and takes no place of those who have shown it. Either way it takes `CONNECT` and nothing else, and
//! it takes it for names and ports of the policy and nothing else; where the proxy of a child would go directly, this refuses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::head::{self, Kind, Request};
use super::listen::{Entry, token};
use super::lobby::{Lobby, Stay};
use super::outlet::Outlet;
use super::receive::{HeadError, buffered, read_head};
use super::refusal::Refusal;
use super::serve::ESTABLISHED;
use super::splice::Side;
use super::target::Target;
use crate::BridgeAddress;
use crate::accepting::AcceptFailures;

/// Longer than any reason that a door gives, in bytes.
const MAX_REASON: u64 = 1024;

/// The door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The path is too long, or not to be written.
    #[cfg(unix)]
    #[error("the socket for containers cannot be made at {}", path.display())]
    Socket {
        /// Where it should have been.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The port is taken, or the address is not there.
    #[error("the port for containers cannot be opened at {address}")]
    Port {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The credential is too short or has other characters.
    #[error(
        "the credential of the port for containers has to be 16 to 256 characters out of A-Z a-z 0-9 - . _ ~"
    )]
    Credential,
}

/// Where a door's port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On 127.0.0.1: for engines whose machine has a way to this one's loopback.
    Loopback,
    /// On a bridge, for what is on it.
    Bridge(BridgeAddress),
}

/// An open door. Dropping it closes every connection without waiting; [`Door::shutdown`] waits.
#[derive(Debug)]
pub struct Door {
    /// Owns the accepting task and each connection's task.
    tasks: TaskTracker,
    stop: DropGuard,
}

struct Shared {
    outlet: Outlet,
    /// Who is let in; `None` where whoever gets here may.
    entry: Option<Entry>,
    /// Places for those who were let in.
    served: Arc<Semaphore>,
    failures: AcceptFailures,
    stop: CancellationToken,
}

impl Door {
    /// Listens at `path`, in the place of a socket that an earlier life left there. The folder's mode decides who may
    /// come; it has to be one that nobody else may enter.
    ///
    /// # Errors
    /// [`DoorError::Socket`].
    #[cfg(unix)]
    pub fn at_socket(path: &Path, outlet: Outlet) -> Result<Self, DoorError> {
        let failed = |source| DoorError::Socket {
            path: path.to_owned(),
            source,
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        Ok(Self::start(listener, None, outlet))
    }

    /// Listens on a port for who shows the credential ([`super::ProxyConfig::credential`] says what it may be); gives
    /// the port, too, which for 0 is any free one.
    ///
    /// # Errors
    /// [`DoorError::Port`] and [`DoorError::Credential`].
    pub async fn at_port(
        place: &Place,
        port: u16,
        credential: &SecretString,
        outlet: Outlet,
    ) -> Result<(Self, u16), DoorError> {
        let entry = Entry::with(credential).ok_or(DoorError::Credential)?;
        let (address, listener) = match place {
            Place::Loopback => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                (address, TcpListener::bind(address).await)
            }
            Place::Bridge(bridge) => (SocketAddr::new(bridge.address(), port), bridge.listen(port)),
        };
        let failed = |source| DoorError::Port { address, source };
        let listener = listener.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok((Self::start(listener, Some(entry), outlet), port))
    }

    fn start(listener: impl Listener, entry: Option<Entry>, outlet: Outlet) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            served: Arc::new(Semaphore::new(outlet.limits.connections)),
            outlet,
            entry,
            failures: AcceptFailures::default(),
            stop: stop.clone(),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, shared, tasks.clone()));
        Self {
            tasks,
            stop: stop.drop_guard(),
        }
    }

    /// Stops listening, closes every connection and waits until the last task has ended.
    pub async fn shutdown(self) {
        self.stop.disarm().cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Where connections come from.
trait Listener: Send + Sync + 'static {
    type Stream: Side + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // A late segment costs a round trip; the option is never refused on a live socket.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// A unix socket is carried through buffers.
#[cfg(unix)]
impl Side for UnixStream {}

async fn accept(listener: impl Listener, shared: Arc<Shared>, tasks: TaskTracker) {
    let lobby = shared
        .entry
        .as_ref()
        .map(|_| Lobby::new(shared.outlet.limits.lobby));
    while let Some(Some((stream, stay))) = shared
        .stop
        .run_until_cancelled(newcomer(&listener, &shared, lobby.as_ref()))
        .await
    {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            // Pinned here, because what is given to `run_until_cancelled` by value takes its room twice.
            let serving = pin!(serve(&shared, stream, stay));
            shared.stop.run_until_cancelled(serving).await;
        });
    }
}

/// Who comes next, with a place. `None`: never, as nothing closes the places.
async fn newcomer<L: Listener>(
    listener: &L,
    shared: &Shared,
    lobby: Option<&Arc<Lobby>>,
) -> Option<(L::Stream, Stay)> {
    if let Some(lobby) = lobby {
        let stream = connection(listener, &shared.failures).await;
        return Some((stream, Stay::Lobby(lobby.enter().await?)));
    }
    // Beyond the limit the forwarder waits in the listener's backlog, which its own limit bounds.
    let permit = Arc::clone(&shared.served).acquire_owned().await.ok()?;
    Some((connection(listener, &shared.failures).await, Stay::Served(permit)))
}

/// The next connection that can be accepted.
async fn connection<L: Listener>(listener: &L, failures: &AcceptFailures) -> L::Stream {
    loop {
        match listener.next().await {
            Ok(stream) => return stream,
            Err(error) => failures.pause_after(&error).await,
        }
    }
}

async fn serve(shared: &Shared, stream: impl Side, mut stay: Stay) {
    let mut client = buffered(stream);
    let pushed_out = stay.pushed_out();
    let greeting = greet(shared, &mut client, &mut stay);
    let Some(greeted) = pushed_out.run_until_cancelled(greeting).await else {
        tracing::debug!("a client that had not shown the door's credential made room for another");
        return;
    };
    let Some(target) = greeted else { return };
    match shared.outlet.open_named(&target).await {
        Ok(destination) => {
            if client.write_all(ESTABLISHED).await.is_ok() && client.flush().await.is_ok() {
                let reason = destination.join(&mut client).await;
                tracing::debug!(?reason, "a container's connection ended");
            }
        }
        Err(refusal) => refuse(&mut client, refusal).await,
    }
    drop(stay);
}

/// Hears what a client asks for and lets it in, or refuses it.
async fn greet(shared: &Shared, client: &mut BufReader<impl Side>, stay: &mut Stay) -> Option<Target> {
    match admit(shared, client, stay).await {
        Ok(target) => Some(target),
        Err(refusal) => {
            refuse(client, refusal).await;
            None
        }
    }
}

async fn refuse(client: &mut BufReader<impl Side>, refusal: Refusal) {
    tracing::debug!(code = refusal.code(), "refused a container");
    // Who does not wait for the answer does not need it.
    let _ = client.write_all(&refusal.answer()).await;
    let _ = client.shutdown().await;
}

/// Reads what is asked for, and lets in who may ask.
async fn admit(
    shared: &Shared,
    client: &mut BufReader<impl Side>,
    stay: &mut Stay,
) -> Result<Target, Refusal> {
    let asked = request(shared, client).await;
    if let Some(entry) = &shared.entry {
        // Whatever else is wrong with it, a stranger is told nothing.
        let shown = asked.as_ref().ok().and_then(|asked| asked.authorization.as_ref());
        if !shown.is_some_and(|shown| entry.admits(shown)) {
            return Err(Refusal::Foreign("the door's credential is missing or wrong"));
        }
    }
    stay.let_in(&shared.served)?;
    let asked = asked?;
    if matches!(asked.kind, Kind::Connect) {
        Ok(asked.target)
    } else {
        Err(Refusal::BadRequest("containers may only ask for CONNECT"))
    }
}

async fn request(shared: &Shared, client: &mut BufReader<impl Side>) -> Result<Request, Refusal> {
    match timeout(shared.outlet.limits.head, read_head(client)).await {
        Err(_) => Err(Refusal::HeadTimeout),
        Ok(Err(HeadError::TooLarge)) => Err(Refusal::HeadTooLarge),
        Ok(Err(HeadError::Invalid(reason))) => Err(Refusal::BadRequest(reason)),
        Ok(Err(HeadError::Closed | HeadError::Io(_))) => {
            Err(Refusal::BadRequest("the request is not complete"))
        }
        Ok(Ok(head)) => head::parse(&head),
    }
}

/// What an open door said to [`ask`], if it did not say yes.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Nothing that makes sense, or it is not there.
    Failed(io::Error),
    /// No, with the whole answer.
    Answered(Vec<u8>),
}

/// The other side of a door: asks for a host of the policy. Afterwards the connection is that host's.
pub(crate) async fn ask<S>(
    door: S,
    name: &str,
    port: u16,
    credential: Option<&SecretString>,
) -> Result<BufReader<S>, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut door = BufReader::new(door);
    let mut request = format!("CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n");
    if let Some(credential) = credential {
        request.push_str("Proxy-Authorization: Basic ");
        request.push_str(token(credential).expose_secret());
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let request = SecretString::from(request);
    let bytes = request.expose_secret().as_bytes();
    door.write_all(bytes).await.map_err(Refused::Failed)?;
    let mut answer = read_head(&mut door)
        .await
        .map_err(|error| Refused::Failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    if matches!(super::upstream::status_of(&answer), Some(200..=299)) {
        return Ok(door);
    }
    // Its one line of reason, and then the door closes. Without it the head alone is passed on.
    let _ = door.take(MAX_REASON).read_to_end(&mut answer).await;
    Err(Refused::Answered(answer))
}
