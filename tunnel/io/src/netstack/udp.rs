//! The UDP socket: batches in, batches out, never blocking.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use orfe_tunnel_core::Batch;
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams taken in one round.
pub(super) const MAX_BATCH: usize = 64;
/// Largest datagram taken whole; a longer one is cut and fails its authentication.
const MAX_DATAGRAM: usize = 2048;
/// Datagrams that may wait while the socket takes none; above it they are lost, as on a full link.
const MAX_UNSENT: usize = 1024;
/// Kernel buffers. Asked for, not demanded: the system may grant less.
const RECEIVE_BUFFER: usize = 4 << 20;
const SEND_BUFFER: usize = 2 << 20;

#[derive(Debug)]
pub(super) struct UdpPort {
    socket: UdpSocket,
    is_v6: bool,
    /// Readiness is reported on edges only: it holds until the socket says that it has no more.
    ready: bool,
    /// Datagrams of the current batch that are already sent.
    sent: usize,
    blocked: bool,
}

impl UdpPort {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            // One socket for both families where the system allows it.
            if let Err(error) = socket.set_only_v6(false) {
                tracing::debug!(%error, "IPv6 only");
            }
        }
        for (what, result) in [
            ("receive", socket.set_recv_buffer_size(RECEIVE_BUFFER)),
            ("send", socket.set_send_buffer_size(SEND_BUFFER)),
        ] {
            if let Err(error) = result {
                tracing::debug!(%error, what, "kernel buffer keeps its size");
            }
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from_std(socket.into());
        Ok(Self {
            socket,
            is_v6: address.is_ipv6(),
            ready: false,
            sent: 0,
            blocked: false,
        })
    }

    /// Takes a fresh port of the same address; on an error the old one stays.
    pub(super) fn rebind(&mut self, registry: &Registry, token: Token) -> io::Result<SocketAddr> {
        let mut fresh = Self::bind(SocketAddr::new(self.local_addr()?.ip(), 0))?;
        fresh.register(registry, token)?;
        let address = fresh.local_addr()?;
        // Its end takes it out of the poll as well; what it still held is lost, as on any network. What was not sent yet is
        // sent by the new one.
        let _ = registry.deregister(&mut self.socket);
        self.socket = fresh.socket;
        self.ready = true;
        self.blocked = false;
        Ok(address)
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The poll reported the socket.
    pub(super) fn note_ready(&mut self) {
        self.ready = true;
        self.blocked = false;
    }

    /// Whether there may be more to receive.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether the socket took no more when it was last tried.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Receives up to [`MAX_BATCH`] datagrams.
    pub(super) fn receive(&mut self, batch: &mut Batch<SocketAddr>) {
        if !self.ready {
            return;
        }
        // The bound counts attempts, so that a socket that reports errors for ever does not hold the thread.
        for _ in 0..MAX_BATCH {
            match self
                .socket
                .recv_from(&mut batch.reserve(MAX_DATAGRAM)[..MAX_DATAGRAM])
            {
                Ok((len, source)) => batch.commit(len, canonical(source)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready = false;
                    return;
                }
                // An ICMP error for something sent earlier: no news about what can be received.
                Err(error) => tracing::trace!(%error, "UDP receive"),
            }
        }
    }

    /// Sends `batch` and clears it, or keeps what the socket did not take for the next call.
    pub(super) fn send(&mut self, batch: &mut Batch<SocketAddr>) {
        self.blocked = false;
        while let Some((datagram, destination)) = batch.get(self.sent) {
            match self.socket.send_to(datagram, self.reachable(*destination)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, %destination, "UDP send");
                    self.sent += 1;
                }
                Ok(_) => self.sent += 1,
            }
        }
        if !self.blocked || batch.len() > MAX_UNSENT {
            batch.clear();
            self.sent = 0;
        }
    }

    fn reachable(&self, destination: SocketAddr) -> SocketAddr {
        match destination {
            SocketAddr::V4(v4) if self.is_v6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            other => other,
        }
    }
}

fn canonical(source: SocketAddr) -> SocketAddr {
    SocketAddr::new(source.ip().to_canonical(), source.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v6_socket_speaks_to_v4_and_shows_v4_addresses() {
        let Ok(mut port) = UdpPort::bind("[::]:0".parse().unwrap()) else {
            eprintln!("SKIPPED: no IPv6 here");
            return;
        };
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = Batch::new();
        batch.push(b"ping", other.local_addr().unwrap());
        port.send(&mut batch);
        assert!(batch.is_empty());
        let mut buffer = [0; 16];
        let (len, from) = other.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..len], from.port()),
            (&b"ping"[..], port.local_addr().unwrap().port())
        );
        other.send_to(b"pong", from).unwrap();
        let mut poll = mio::Poll::new().unwrap();
        port.register(poll.registry(), Token(0)).unwrap();
        let mut events = mio::Events::with_capacity(4);
        while batch.is_empty() {
            poll.poll(&mut events, Some(std::time::Duration::from_secs(5)))
                .unwrap();
            port.note_ready();
            port.receive(&mut batch);
        }
        assert_eq!(batch.get(0), Some((&b"pong"[..], &other.local_addr().unwrap())));
    }
}
