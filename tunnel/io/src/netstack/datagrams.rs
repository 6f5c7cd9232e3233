//! UDP sockets inside the tunnel.
//!
//! A datagram for a bound address and port goes into that socket's queue, or is lost when the queue is full, as on any
//! network. What a socket sends is made into a packet at once. Datagrams are never fragmented: what does not fit into one
//! packet is refused where it is sent.
//!
//! A socket is closed by dropping its [`Inbox`]; its port is free again at the next bind.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use orfe_tunnel_core::Batch;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpAddress, IpProtocol, IpRepr, UDP_HEADER_LEN, UdpPacket, UdpRepr,
};
use tokio::sync::mpsc;

use super::flow::Header;

/// Sockets at once.
const MAX_SOCKETS: usize = 256;
/// Datagrams that may wait for a socket's reader. With packets of 1.4 kB that is less than 100 kB.
const MAX_WAITING: usize = 64;
/// Hop limit of what is sent, as of smoltcp's connections.
const HOP_LIMIT: u8 = 64;

/// Payload and source of a datagram.
pub(crate) type Arrived = (Vec<u8>, SocketAddr);
/// What arrived at a socket.
pub(crate) type Inbox = mpsc::Receiver<Arrived>;

/// The sockets of a stack, by address.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    bound: HashMap<SocketAddr, mpsc::Sender<Arrived>>,
}

impl Sockets {
    /// Binds the first of `candidates` that is free. `None` when none is, or there are too many sockets.
    pub(super) fn bind(
        &mut self,
        candidates: impl Iterator<Item = SocketAddr>,
    ) -> Option<(SocketAddr, Inbox)> {
        self.bound.retain(|_, inbox| !inbox.is_closed());
        if self.bound.len() >= MAX_SOCKETS {
            return None;
        }
        let local = candidates
            .into_iter()
            .find(|local| !self.bound.contains_key(local))?;
        let (sender, inbox) = mpsc::channel(MAX_WAITING);
        self.bound.insert(local, sender);
        Some((local, inbox))
    }

    /// Takes a packet that is for one of the sockets. False when it is not.
    pub(super) fn deliver(&self, packet: &[u8], header: &Header) -> bool {
        let Some(inbox) = self.bound.get(&header.destination) else {
            return false;
        };
        if let Ok(datagram) = UdpPacket::new_checked(&packet[header.offset..])
            && inbox
                .try_send((datagram.payload().to_vec(), header.source))
                .is_err()
        {
            tracing::trace!(socket = %header.destination, "datagram lost: its reader is behind or gone");
        }
        true
    }
}

/// Bytes of payload that fit into a packet of `mtu` bytes to `remote`.
pub(crate) fn capacity(mtu: usize, remote: IpAddr) -> usize {
    let header = if remote.is_ipv4() {
        IPV4_HEADER_LEN
    } else {
        IPV6_HEADER_LEN
    };
    mtu.saturating_sub(header + UDP_HEADER_LEN)
}

/// Makes a packet. Both addresses must be of one family.
pub(super) fn emit(local: SocketAddr, remote: SocketAddr, payload: &[u8], out: &mut Batch<()>) {
    let datagram = UdpRepr {
        src_port: local.port(),
        dst_port: remote.port(),
    };
    let (from, to) = (IpAddress::from(local.ip()), IpAddress::from(remote.ip()));
    let ip = IpRepr::new(
        from,
        to,
        IpProtocol::Udp,
        UDP_HEADER_LEN + payload.len(),
        HOP_LIMIT,
    );
    let len = ip.buffer_len();
    let packet = &mut out.reserve(len)[..len];
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut *packet, &checksums);
    datagram.emit(
        &mut UdpPacket::new_unchecked(&mut packet[ip.header_len()..]),
        &from,
        &to,
        payload.len(),
        |room| room.copy_from_slice(payload),
        &checksums,
    );
    out.commit(len, ());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([100, 64, 1, 1], port))
    }

    #[test]
    fn datagrams_reach_their_socket_and_no_other() {
        for (here, there) in [
            ("100.64.1.1:5000", "100.127.0.1:53"),
            ("[fd00::1]:5000", "[fd00::2]:53"),
        ] {
            let (here, there): (SocketAddr, SocketAddr) = (here.parse().unwrap(), there.parse().unwrap());
            let mut sockets = Sockets::default();
            let (bound, mut inbox) = sockets.bind([here].into_iter()).unwrap();
            assert_eq!(bound, here);
            let mut out = Batch::new();
            emit(there, here, b"answer", &mut out);
            emit(there, SocketAddr::new(here.ip(), 5001), b"stray", &mut out);
            let delivered: Vec<bool> = out
                .iter()
                .map(|(packet, ())| sockets.deliver(packet, &Header::parse(packet).unwrap()))
                .collect();
            assert_eq!(delivered, [true, false]);
            assert_eq!(inbox.try_recv(), Ok((b"answer".to_vec(), there)));
            assert!(inbox.try_recv().is_err());
        }
    }

    #[test]
    fn queues_and_sockets_are_bounded_and_ports_come_back() {
        let mut sockets = Sockets::default();
        let (_, mut inbox) = sockets.bind([local(1)].into_iter()).unwrap();
        let mut out = Batch::new();
        emit(local(9), local(1), b"x", &mut out);
        let packet = out.get(0).unwrap().0;
        for _ in 0..2 * MAX_WAITING {
            assert!(sockets.deliver(packet, &Header::parse(packet).unwrap()));
        }
        assert_eq!(std::iter::from_fn(|| inbox.try_recv().ok()).count(), MAX_WAITING);
        assert!(
            sockets.bind([local(1)].into_iter()).is_none(),
            "the port is taken"
        );
        drop(inbox);
        let mut inboxes: Vec<_> =
            std::iter::from_fn(|| sockets.bind((1..1000).map(local)).map(|(_, inbox)| inbox)).collect();
        assert_eq!(inboxes.len(), MAX_SOCKETS);
        inboxes.pop();
        assert!(sockets.bind((1..1000).map(local)).is_some());
    }
}
