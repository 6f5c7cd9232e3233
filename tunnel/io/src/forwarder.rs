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
//! What can fail: a port may be taken ([`ForwarderError`]); everything later concerns one connection, which is closed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::sniff::fuzzing;
use self::sniff::{MAX_FIRST_BYTES, Sniff, Speech, sniff};
use crate::BridgeAddress;
use crate::proxy::{CloseReason, Host, OpenStream, Outlet, Refusal, Refused, Target, ask};

mod hosts;
mod sniff;

pub use self::hosts::entry as hosts_entry;

/// Within this time a client has to say which host it means.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);
/// Within this time the agent has to answer: it may hold a request for 20 s while the tunnel rises, and dial for 10 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
/// As many connections are served at once; one of a workspace's agent stays open, its other ones are short. More are closed.
const CONNECTIONS: usize = 1024;
/// How long accepting pauses after a failure, which mostly means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A network of addresses in CIDR notation, from which connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` lies in it.
    fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128_u32),
        };
        let ((own, width), (other, other_width)) = (bits(self.address), bits(address));
        width == other_width
            && u32::from(self.prefix) <= width
            && (own ^ other)
                .checked_shr(width - u32::from(self.prefix))
                .unwrap_or(0)
                == 0
    }
}

impl std::str::FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text
            .split_once('/')
            .ok_or("a network is ADDRESS/PREFIX, as in 172.18.0.0/16")?;
        let address: IpAddr = address
            .parse()
            .map_err(|_| "a network begins with an IP address")?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        match prefix.parse() {
            Ok(prefix) if prefix <= most => Ok(Self { address, prefix }),
            _ => Err("a network ends with a prefix length of 0 to 32, or 128 for IPv6"),
        }
    }
}

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
    pub from: Vec<Network>,
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
    config: Arc<ForwarderConfig>,
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
        Ok(Self {
            config: Arc::new(config),
            listeners,
        })
    }

    /// The ports, with those that were chosen.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.listeners.iter().map(|(port, _)| *port)
    }

    /// Serves until `stop` is cancelled; then every connection is closed.
    pub async fn serve(self, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let tasks = TaskTracker::new();
        for (port, listener) in self.listeners {
            let accepting = accept(
                Arc::clone(&self.config),
                (port, listener),
                Arc::clone(&slots),
                tasks.clone(),
                stop.clone(),
            );
            tasks.spawn(accepting);
        }
        stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
    }
}

async fn accept(
    config: Arc<ForwarderConfig>,
    (port, listener): (u16, TcpListener),
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    while let Some(taken) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        if !may_use(&config, peer.ip()) {
            tracing::warn!(%peer, "refused a connection from outside the network's containers");
            reset(&stream);
            continue;
        }
        let (config, stop) = (Arc::clone(&config), stop.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(forward(&config, stream, peer, port))
                .await;
            drop(slot);
        });
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

async fn forward(config: &ForwarderConfig, mut client: TcpStream, peer: SocketAddr, port: u16) {
    // A late segment costs a round trip; the option is never refused on a live socket.
    let _ = client.set_nodelay(true);
    let (first, name, speech) = match timeout(FIRST_BYTES_WITHIN, first_bytes(&mut client)).await {
        Ok(Ok(found)) => found,
        Ok(Err(reason)) => {
            tracing::info!(%peer, port, reason, "closed a connection");
            return reset(&client);
        }
        Err(_) => return reset(&client),
    };
    let reached = timeout(ANSWER_WITHIN, reach(&config.agent, &name, port)).await;
    let reached = match reached {
        Ok(Ok(reached)) => reached,
        Ok(Err(Refused::Answered(answer))) => {
            tracing::info!(%peer, %name, port, answer = first_line(&answer), "the agent refused");
            if speech == Speech::Http {
                let _ = client.write_all(&answer).await;
                let _ = client.shutdown().await;
                return;
            }
            return reset(&client);
        }
        Ok(Err(Refused::Failed(error))) => {
            tracing::warn!(%error, agent = ?config.agent, "the agent does not answer");
            return reset(&client);
        }
        Err(_) => {
            tracing::warn!(%name, port, "the agent did not answer in time");
            return reset(&client);
        }
    };
    // How it ends is known to the two ends; nobody else asks.
    let _ = reached.carry(client, &first).await;
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

    #[test]
    fn a_network_is_an_address_and_a_prefix() {
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("9.9.9.9".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        for wrong in ["172.18.0.0", "172.18.0.0/33", "x/8", "::/129", "::/x"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
