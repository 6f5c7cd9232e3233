//! The forwarder in front of workspace containers: it reads which host a connection is meant for and asks the agent for it.
//!
//! ```text
//!  container ──443──► forwarder: who is it? which host? ──► agent: in the policy? ──► tunnel
//! ```
//!
//! It runs in a container of its own, bears Coder's names there, and reaches the agent by its [door](crate::proxy::Door), a
//! socket or a port; or in the agent itself, on a bridge of the host.
//!
//! In a container it has no rights and no configuration but its arguments and, for a port, the door's credential, and reads what
//! strangers write so that the agent need not.
//! It takes connections from the containers of its network alone: the host reaches a container too, but comes from the network's
//! gateway address or from outside the network. TLS stays end to end: the first message is read for the server's name
//! and passed on as it came.
//!
//! Containers do not take its places from one another: each source address has a share of its own, and what is refused it leaves a
//! line in the log once a minute at most, for each kind of reason.
//!
//! What can fail: a port may be taken ([`ForwarderError`]); everything later concerns one connection, which is closed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::notices::Notices;
use self::shares::{Place, Shares};
pub(crate) use self::sniff::fuzzing;
use self::sniff::{MAX_FIRST_BYTES, Sniff, Speech, sniff};
use crate::accepting::AcceptFailures;
use crate::proxy::{CloseReason, Host, OpenStream, Outlet, Refusal, Refused, Target, ask};
use crate::{AllowedIp, BridgeAddress};

mod hosts;
mod notices;
mod shares;
mod sniff;

pub use self::hosts::entry as hosts_entry;

/// Within this time a client has to say which host it means.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);
/// Within this time the agent has to answer: it may hold a request for 20 s while the tunnel rises, and dial for 10 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
/// As many connections are served at once; one of a workspace's agent stays open, its other ones are short. More are closed.
const CONNECTIONS: usize = 1024;
/// As many of them may come from one address, which is one container's: a quarter, so that it takes four containers that mean
/// harm to lock the others out, and far more than one workspace has open. Who may take further addresses (`CAP_NET_ADMIN`) or
/// forge packets in a container has as many shares as it has addresses.
const OF_ONE_SOURCE: usize = CONNECTIONS / 4;

/// What a forwarder is started with.
#[derive(Debug, Clone)]
pub struct ForwarderConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Ports to listen on; the policy's. Port 0 takes any free port.
    pub ports: Vec<u16>,
    /// Whom to ask.
    pub agent: Agent,
    /// Connections are taken from these networks alone.
    pub from: Vec<AllowedIp>,
    /// Addresses in those networks that are not containers: the networks' gateways, which are the host.
    pub except: Vec<IpAddr>,
}

/// Where a forwarder listens.
#[derive(Debug, Clone)]
pub enum Listen {
    /// On every address: in a container, where there are no others than its networks'.
    Everywhere,
    /// On the host, for what is on a bridge.
    Bridge(BridgeAddress),
}

/// The agent, as a forwarder reaches it.
#[derive(Debug, Clone)]
pub enum Agent {
    /// By the door's socket.
    #[cfg(unix)]
    Socket(PathBuf),
    /// By the door's port.
    Port {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// The door's credential.
        credential: SecretString,
    },
    /// In this process.
    Here(Outlet),
}

/// Why a forwarder did not start.
#[derive(Debug, thiserror::Error)]
#[error("the forwarder could not listen on port {port}")]
pub struct ForwarderError {
    /// Which port is taken, or may not be bound.
    pub port: u16,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A forwarder that listens and serves nobody yet. Dropping it ends that.
#[derive(Debug)]
pub struct Forwarder {
    config: ForwarderConfig,
    listeners: Vec<(u16, TcpListener)>,
}

impl Forwarder {
    /// Listens on all ports.
    ///
    /// # Errors
    /// See [`ForwarderError`].
    pub async fn bind(config: ForwarderConfig) -> Result<Self, ForwarderError> {
        let mut listeners = Vec::with_capacity(config.ports.len());
        for &port in &config.ports {
            let listener = match &config.listen {
                Listen::Everywhere => everywhere(port).await,
                Listen::Bridge(bridge) => bridge.listen(port),
            };
            let failed = |source| ForwarderError { port, source };
            let listener = listener.map_err(failed)?;
            listeners.push((listener.local_addr().map_err(failed)?.port(), listener));
        }
        Ok(Self { config, listeners })
    }

    /// The ports, with those that were chosen.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.listeners.iter().map(|(port, _)| *port)
    }

    /// Serves until `stop` is cancelled; then every connection is closed.
    pub async fn serve(self, stop: CancellationToken) {
        let shared = Arc::new(Shared {
            config: self.config,
            shares: Shares::new(CONNECTIONS, OF_ONE_SOURCE),
            notices: Notices::default(),
            failures: AcceptFailures::default(),
            stop,
        });
        let tasks = TaskTracker::new();
        for (port, listener) in self.listeners {
            tasks.spawn(accept(Arc::clone(&shared), port, listener, tasks.clone()));
        }
        shared.stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
    }
}

/// What every connection's task needs.
struct Shared {
    config: ForwarderConfig,
    shares: Arc<Shares>,
    notices: Notices,
    failures: AcceptFailures,
    stop: CancellationToken,
}

impl Shared {
    /// A place for a connection from `source`.
    fn admit(&self, source: IpAddr) -> Result<Place, Closed> {
        let source = source.to_canonical();
        if !may_use(&self.config, source) {
            return Err(Closed::Outsider);
        }
        self.shares.take(source).ok_or(Closed::TooMany)
    }

    /// Says why a connection was closed: where people look, as long as that does not fill the log, else for who debugs.
    fn tell(&self, peer: SocketAddr, port: u16, closed: &Closed) {
        let may_tell = self
            .notices
            .may_tell(peer.ip().to_canonical(), closed, Instant::now());
        let agent = &self.config.agent;
        match (may_tell, closed) {
            (false, _) => tracing::debug!(%peer, port, reason = %closed, "closed a connection"),
            (true, Closed::NoAgent(_) | Closed::Late) => {
                tracing::warn!(%peer, port, ?agent, reason = %closed, "closed a connection");
            }
            (true, _) => tracing::info!(%peer, port, reason = %closed, "closed a connection"),
        }
    }
}

/// Why a connection was closed before it reached anything.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("it does not come from the network's containers")]
    Outsider,
    #[error("too many are open, from that address or in all")]
    TooMany,
    #[error("{0}")]
    NoName(&'static str),
    #[error("the agent refused `{name}`: {answer}")]
    Refused { name: String, answer: String },
    #[error("the agent does not answer: {0}")]
    NoAgent(io::Error),
    #[error("the agent did not answer in time")]
    Late,
}

async fn accept(shared: Arc<Shared>, port: u16, listener: TcpListener, tasks: TaskTracker) {
    while let Some(taken) = shared.stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                shared.failures.pause_after(&error).await;
                continue;
            }
        };
        match shared.admit(peer.ip()) {
            Ok(place) => {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    // Pinned here, because what is given to `run_until_cancelled` by value takes its room twice.
                    let serving = pin!(forward(&shared, stream, peer, port));
                    shared.stop.run_until_cancelled(serving).await;
                    drop(place);
                });
            }
            Err(closed) => {
                shared.tell(peer, port, &closed);
                reset(&stream);
            }
        }
    }
}

async fn everywhere(port: u16) -> io::Result<TcpListener> {
    // A dual-stack socket where there is IPv6.
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

fn may_use(config: &ForwarderConfig, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    config.from.iter().any(|network| network.contains(peer)) && !config.except.contains(&peer)
}

/// Makes closing the socket a reset. On failure it is an ordinary close.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn forward(shared: &Shared, mut client: TcpStream, peer: SocketAddr, port: u16) {
    // A late segment costs a round trip; the option is never refused on a live socket.
    let _ = client.set_nodelay(true);
    let (first, name, speech) = match timeout(FIRST_BYTES_WITHIN, first_bytes(&mut client)).await {
        Ok(Ok(found)) => found,
        Ok(Err(reason)) => {
            shared.tell(peer, port, &Closed::NoName(reason));
            return reset(&client);
        }
        Err(_) => return reset(&client),
    };
    let reached = timeout(ANSWER_WITHIN, reach(&shared.config.agent, &name, port)).await;
    let closed = match reached {
        Ok(Ok(reached)) => {
            // How it ends is known to the two ends; nobody else asks.
            let _ = reached.carry(client, &first).await;
            return;
        }
        Ok(Err(Refused::Answered(answer))) => {
            if speech == Speech::Http {
                let _ = client.write_all(&answer).await;
                let _ = client.shutdown().await;
            } else {
                reset(&client);
            }
            let answer = first_line(&answer);
            return shared.tell(peer, port, &Closed::Refused { name, answer });
        }
        Ok(Err(Refused::Failed(error))) => Closed::NoAgent(error),
        Err(_) => Closed::Late,
    };
    shared.tell(peer, port, &closed);
    reset(&client);
}

/// Reads until the host is known.
async fn first_bytes(client: &mut TcpStream) -> Result<(Vec<u8>, String, Speech), &'static str> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        match sniff(&bytes) {
            Sniff::Host { name, speech } => return Ok((bytes, name, speech)),
            Sniff::Nothing(reason) => return Err(reason),
            Sniff::More => {}
        }
        let room = MAX_FIRST_BYTES.saturating_sub(bytes.len()) as u64;
        let read = (&mut *client)
            .take(room)
            .read_buf(&mut bytes)
            .await
            .map_err(|_| "the client is gone")?;
        if read == 0 {
            return Err("the client said nothing");
        }
    }
}

/// A connection to a host of the policy.
enum Reached {
    #[cfg(unix)]
    Socket(BufReader<UnixStream>),
    Port(BufReader<TcpStream>),
    Here(OpenStream),
}

impl Reached {
    /// Sends what the client has said, then carries both ways.
    async fn carry(self, mut client: TcpStream, first: &[u8]) -> io::Result<()> {
        match self {
            #[cfg(unix)]
            Self::Socket(mut agent) => {
                agent.write_all(first).await?;
                copy_bidirectional(&mut client, &mut agent).await?;
            }
            Self::Port(mut agent) => {
                agent.write_all(first).await?;
                copy_bidirectional(&mut client, &mut agent).await?;
            }
            Self::Here(mut stream) => {
                stream.send(first).await?;
                // Nothing more is looked at, so the smallest buffer will do.
                let mut client = BufReader::with_capacity(1, client);
                if stream.join(&mut client).await != CloseReason::Finished {
                    reset(client.get_ref());
                }
            }
        }
        Ok(())
    }
}

/// A connection to `name` through the agent.
async fn reach(agent: &Agent, name: &str, port: u16) -> Result<Reached, Refused> {
    match agent {
        #[cfg(unix)]
        Agent::Socket(path) => {
            let stream = UnixStream::connect(path).await.map_err(Refused::Failed)?;
            ask(stream, name, port, None).await.map(Reached::Socket)
        }
        Agent::Port {
            host,
            port: door,
            credential,
        } => {
            let stream = hosts::connect(host, *door).await.map_err(Refused::Failed)?;
            ask(stream, name, port, Some(credential)).await.map(Reached::Port)
        }
        Agent::Here(outlet) => {
            let refused = |refusal: Refusal| Refused::Answered(refusal.answer());
            let host = Host::parse(name).map_err(|error| refused(Refusal::BadTarget(error)))?;
            let opened = outlet.open_named(&Target { host, port }).await;
            opened.map(Reached::Here).map_err(refused)
        }
    }
}

fn first_line(answer: &[u8]) -> String {
    let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_of_the_network_are_served_and_its_gateway_is_not() {
        let config = ForwarderConfig {
            listen: Listen::Everywhere,
            ports: vec![443],
            agent: Agent::Port {
                host: "host.docker.internal".to_owned(),
                port: 40000,
                credential: "0123456789abcdef".into(),
            },
            from: vec!["172.18.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            except: vec!["172.18.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap()],
        };
        for (peer, served) in [
            ("172.18.0.3", true),
            ("::ffff:172.18.255.254", true),
            ("172.18.0.1", false),
            ("::ffff:172.18.0.1", false),
            ("172.19.0.3", false),
            ("127.0.0.1", false),
            ("fd00:1::5", true),
            ("fd00:1::1", false),
            ("fd00:2::5", false),
        ] {
            assert_eq!(may_use(&config, peer.parse().unwrap()), served, "{peer}");
        }
    }
}
