//! UDP ASSOCIATE: a client's datagrams, each with the destination in its header (RFC 1928 §7).
//!
//! ```text
//!   client ◄─ one loopback socket ─► association ─┬─ tunnel, IPv4 / IPv6   (made at the first datagram that needs it)
//!     └─ TCP connection: its end is the end       └─ directly, IPv4 / IPv6
//! ```
//!
//! Routing is that of connections, with UDP ports of their own: policy's names and networks through the tunnel or not at
//! all. A datagram that may not or cannot go is dropped, as UDP allows; there is nothing to answer it with.
//!
//! Who may use it: the socket is on loopback, and takes datagrams from one address and port alone: those that the
//! client named in its request, or else the first that sends a valid header. Another user of this machine who guesses the port
//! within that moment could come first and would be locked in instead of the client; a client that names its port cannot be
//! beaten so. Towards the outside, only those are heard that the client has sent to.
//!
//! Bounds: [`super::super::Limits::associations`] at a time, each with four sockets, 64 destinations, [`PREPARING_MAX`]
//! datagrams that wait for a name or a socket, and [`ARRIVALS_MAX`] on their way back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::flows::{Flow, Flows, Outside};
use super::wire::{self, HEADER_MAX};
use crate::dial::{BoxFuture, Datagrams};
use crate::proxy::connections::{CloseReason, Opening};
use crate::proxy::reach::{self, WatchedDialer};
use crate::proxy::refusal::Refusal;
use crate::proxy::routes::{Decision, Route, Transport, Way};
use crate::proxy::target::Target;
use crate::proxy::{Limits, Shared, lookup};

/// The largest UDP payload, in bytes.
const DATAGRAM_MAX: usize = 65_535;
/// Datagrams of one association that wait for their name or socket. More are dropped: a resolver that hangs must not make
/// memory grow.
const PREPARING_MAX: usize = 8;
/// Datagrams of one association between the outside and the client. When they are this many the sockets are not read,
/// and the kernel or the tunnel drops.
const ARRIVALS_MAX: usize = 16;

/// Serves one association until its TCP connection ends or it is cut. An error says why there was none.
pub(in crate::proxy) async fn associate(
    shared: &Shared,
    client: &mut BufReader<TcpStream>,
    peer: SocketAddr,
    port: u16,
) -> Result<(), Refusal> {
    let _place = shared
        .associations
        .try_acquire()
        .map_err(|_| Refusal::TooManyConnections)?;
    let socket = UdpSocket::bind((shared.local_addr.ip(), 0)).await;
    let bound = socket.and_then(|socket| Ok((socket.local_addr()?, socket)));
    let (bound, socket) = bound.map_err(|error| {
        tracing::warn!(%error, "no socket for a client's datagrams");
        Refusal::TooManyConnections
    })?;
    if client.write_all(&wire::reply(0, bound)).await.is_err() {
        return Ok(());
    }
    let cut = CancellationToken::new();
    let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
    let association = Association {
        shared,
        socket,
        client: SocketAddr::new(peer.ip(), port),
        peer,
        cut: cut.clone(),
        flows: Flows::default(),
        sockets: HashMap::new(),
        sender,
        receiving: JoinSet::new(),
        preparing: JoinSet::new(),
    };
    let ended = async {
        // Nothing is to come here but the end; whatever comes is thrown away.
        let _ = tokio::io::copy(client, &mut tokio::io::sink()).await;
    };
    association.run(arrivals, ended, cut).await;
    Ok(())
}

/// A datagram from outside.
struct Arrival {
    outside: Outside,
    source: SocketAddr,
    payload: Vec<u8>,
}

/// A datagram whose way out has been found.
struct Prepared {
    target: Target,
    route: Route,
    outside: Outside,
    address: SocketAddr,
    socket: Arc<dyn Datagrams>,
    payload: Vec<u8>,
}

struct Association<'s> {
    shared: &'s Shared,
    socket: UdpSocket,
    /// Where the client sends from; port 0 until that is known.
    client: SocketAddr,
    /// The client's end of the TCP connection, which stands in the table.
    peer: SocketAddr,
    /// Cutting any flow ends the association: the client has to notice, and a TCP connection that ends is what it notices.
    cut: CancellationToken,
    flows: Flows,
    sockets: HashMap<Outside, Arc<dyn Datagrams>>,
    sender: mpsc::Sender<Arrival>,
    /// One task for each of `sockets`; they end with the association.
    receiving: JoinSet<Outside>,
    preparing: JoinSet<Result<Prepared, Refusal>>,
}

impl Association<'_> {
    async fn run(
        mut self,
        mut arrivals: mpsc::Receiver<Arrival>,
        ended: impl Future<Output = ()>,
        cut: CancellationToken,
    ) {
        tokio::pin!(ended);
        let mut buffer = vec![0; HEADER_MAX + DATAGRAM_MAX];
        let mut answer = Vec::new();
        let reason = loop {
            tokio::select! {
                biased;
                () = cut.cancelled() => break CloseReason::Cut,
                () = &mut ended => break CloseReason::Finished,
                Some(prepared) = self.preparing.join_next() => match prepared {
                    Ok(Ok(prepared)) => self.open(prepared).await,
                    Ok(Err(refusal)) => tracing::debug!(code = refusal.code(), "dropped a datagram"),
                    Err(error) => tracing::debug!(%error, "a datagram was given up"),
                },
                Some(lost) = self.receiving.join_next() => if let Ok(lost) = lost {
                    // The tunnel was replaced, perhaps: the next datagram gets a new socket.
                    self.sockets.remove(&lost);
                },
                Some(arrival) = arrivals.recv() => self.deliver(&arrival, &mut answer).await,
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.send(&buffer[..length], from).await,
                    // What some systems report of an answer that found its client gone.
                    Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a client's socket for datagrams failed");
                        break CloseReason::ClientGone;
                    }
                },
            }
        };
        self.flows.close(reason);
    }

    /// Takes a datagram of the client.
    async fn send(&mut self, datagram: &[u8], from: SocketAddr) {
        let known = self.client.port() == 0 || self.client.port() == from.port();
        if from.ip() != self.client.ip() || !known {
            return;
        }
        let Some(header) = wire::datagram(datagram) else {
            return;
        };
        self.client = from;
        let payload = &datagram[header.length..];
        if let Some(flow) = self.flows.to(&header.target, Instant::now())
            && let Some(socket) = self.sockets.get(&flow.outside)
        {
            transmit(socket.as_ref(), flow, payload).await;
            return;
        }
        let decision = self.shared.routes.borrow().decide(&header.target, Transport::Udp);
        match decision {
            Decision::Refuse(refusal) => tracing::debug!(code = refusal.code(), "dropped a datagram"),
            Decision::Go(way) if self.preparing.len() < PREPARING_MAX => {
                let preparing = prepare(way, header.target, payload.to_vec(), self.outlets());
                self.preparing.spawn(preparing);
            }
            Decision::Go(_) => tracing::debug!("dropped a datagram: too many wait"),
        }
    }

    fn outlets(&self) -> Outlets {
        Outlets {
            sockets: self.sockets.clone(),
            dialer: self.shared.dialer.clone(),
            limits: self.shared.limits.clone(),
        }
    }

    /// Makes a flow of a datagram whose way has been found, and sends it.
    async fn open(&mut self, prepared: Prepared) {
        let Prepared {
            target,
            route,
            outside,
            address,
            socket,
            payload,
        } = prepared;
        let socket = if let Some(there) = self.sockets.get(&outside) {
            // Another datagram came first with its own.
            Arc::clone(there)
        } else {
            self.sockets.insert(outside, Arc::clone(&socket));
            self.receiving
                .spawn(receive(outside, Arc::clone(&socket), self.sender.clone()));
            socket
        };
        let now = Instant::now();
        if self.flows.to(&target, now).is_none() {
            let opening = Opening {
                client: self.peer,
                target: target.clone(),
                route,
                transport: Transport::Udp,
            };
            self.flows.add(Flow {
                tracked: self.shared.connections.open_with(opening, self.cut.clone()),
                target: target.clone(),
                outside,
                address,
                used: now,
            });
        }
        if let Some(flow) = self.flows.to(&target, now) {
            transmit(socket.as_ref(), flow, &payload).await;
        }
    }

    /// Gives the client what came for it.
    async fn deliver(&mut self, arrival: &Arrival, answer: &mut Vec<u8>) {
        let Some(flow) = self.flows.from(arrival.outside, arrival.source, Instant::now()) else {
            return;
        };
        flow.tracked.establish();
        answer.clear();
        wire::write_datagram_header(answer, arrival.source);
        answer.extend_from_slice(&arrival.payload);
        match self.socket.send_to(answer, self.client).await {
            Ok(_) => flow.tracked.counters().down.add(arrival.payload.len()),
            Err(error) => tracing::debug!(%error, "an answer did not reach the client"),
        }
    }
}

async fn transmit(socket: &dyn Datagrams, flow: &Flow, payload: &[u8]) {
    match socket.send_to(payload, flow.address).await {
        Ok(()) => flow.tracked.counters().up.add(payload.len()),
        Err(error) => tracing::debug!(%error, "a datagram was not sent"),
    }
}

/// Reads a socket until it fails or nobody wants its datagrams any more.
async fn receive(outside: Outside, socket: Arc<dyn Datagrams>, sender: mpsc::Sender<Arrival>) -> Outside {
    let mut buffer = vec![0; DATAGRAM_MAX];
    while let Ok((length, source)) = socket.recv_from(&mut buffer).await {
        let arrival = Arrival {
            outside,
            source: SocketAddr::new(source.ip().to_canonical(), source.port()),
            payload: buffer[..length].to_vec(),
        };
        if sender.send(arrival).await.is_err() {
            break;
        }
    }
    outside
}

/// What a datagram's way out is made from.
struct Outlets {
    sockets: HashMap<Outside, Arc<dyn Datagrams>>,
    dialer: WatchedDialer,
    limits: Limits,
}

/// Resolves a datagram's target and sees to a socket for it.
async fn prepare(way: Way, target: Target, payload: Vec<u8>, outlets: Outlets) -> Result<Prepared, Refusal> {
    let route = way.route();
    let found = async {
        match way {
            Way::Tunnel(address) => outlets.tunnel(address).await,
            Way::Lookup(found) => {
                let address = lookup::find(outlets.dialer.clone(), &found, &outlets.limits).await?;
                outlets.tunnel(address).await
            }
            Way::Direct(rule) => {
                let addresses = reach::resolve(&target, |address| rule.check(address)).await?;
                let address = *addresses.first().ok_or(Refusal::NameNotResolved)?;
                outlets.direct(address).await
            }
            Way::Upstream(_) => Err(Refusal::NoDatagramsThroughProxy),
        }
    };
    let found = timeout(outlets.limits.dial, found).await;
    let (outside, address, socket) = found.map_err(|_| Refusal::DialTimedOut)??;
    Ok(Prepared {
        target,
        route,
        outside,
        address,
        socket,
        payload,
    })
}

/// A socket, which one it is, and the address to send to.
type Outlet = (Outside, SocketAddr, Arc<dyn Datagrams>);

impl Outlets {
    async fn tunnel(&self, address: SocketAddr) -> Result<Outlet, Refusal> {
        let outside = Outside {
            tunnel: true,
            ipv4: address.is_ipv4(),
        };
        if let Some(socket) = self.sockets.get(&outside) {
            return Ok((outside, address, Arc::clone(socket)));
        }
        // Datagrams are not held while the tunnel rises: who sends them sends them again.
        let dialer = self.dialer.borrow().clone();
        let dialer = dialer.ok_or(Refusal::TunnelDown(std::time::Duration::ZERO))?;
        let socket = dialer.bind_datagrams(address).await;
        let socket = socket.map_err(|error| reach::refusal_of(&error))?;
        Ok((outside, address, Arc::from(socket)))
    }

    async fn direct(&self, address: SocketAddr) -> Result<Outlet, Refusal> {
        let outside = Outside {
            tunnel: false,
            ipv4: address.is_ipv4(),
        };
        if let Some(socket) = self.sockets.get(&outside) {
            return Ok((outside, address, Arc::clone(socket)));
        }
        let any: IpAddr = if address.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0)).await.map_err(|error| {
            tracing::debug!(%error, "no socket for direct datagrams");
            Refusal::DialFailed
        })?;
        Ok((outside, address, Arc::new(HostDatagrams(socket))))
    }
}

/// A UDP socket of this machine's own network.
struct HostDatagrams(UdpSocket);

impl Datagrams for HostDatagrams {
    fn send_to<'a>(&'a self, payload: &'a [u8], destination: SocketAddr) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.0.send_to(payload, destination).await.map(|_| ()) })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(self.0.recv_from(buffer))
    }
}
