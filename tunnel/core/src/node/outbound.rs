//! Packets from inside.

use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use super::peer::MIN_OUT;
use super::{Node, PeerId};
use crate::batch::Batch;
use crate::datagrams::Datagrams;
use crate::engine::Engine;
use crate::message::{DATA_OVERHEAD, Message};
use crate::packet;

/// Unit of `WireGuard`'s padding in bytes.
const PADDING: usize = 16;

/// "Too big" answers kept until they are polled. One for each batch at most is made, so this only bounds a caller that
/// does not poll.
const MAX_BOUNCED: usize = 16;

/// Encrypts the packets of one batch.
///
/// It remembers where the last packet went, so that a row of packets for one peer costs one look-up.
pub struct Outbound<'a, E: Engine> {
    node: &'a mut Node<E>,
    out: &'a mut Datagrams,
    now: Instant,
    last: Option<(IpAddr, PeerId)>,
    has_bounced: bool,
}

impl<E: Engine> fmt::Debug for Outbound<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl<E: Engine> Outbound<'_, E> {
    /// Encrypts the packet in the first `len` bytes of `padded` for the peer its destination belongs to.
    ///
    /// What lies behind the packet must be zeros: they are its padding, up to a multiple of 16 bytes and to the MTU. With
    /// fewer of them there is less padding.
    pub fn push(&mut self, padded: &[u8], len: usize) {
        let Some(packet) = padded.get(..len) else { return };
        let mtu = self.node.mtu;
        let Some(destination) = packet::destination(packet) else {
            self.node.drops.no_route += 1;
            return;
        };
        if len > mtu {
            self.bounce(packet, mtu);
            return;
        }
        let Some(id) = self.peer_of(destination) else {
            self.node.drops.no_route += 1;
            return;
        };
        let segment_mtu = self.node.segment_mtu;
        if packet::exceeds_mss(packet, segment_mtu) {
            // Only the first packet of a connection comes here, so it may cost a copy.
            let mut changed = Vec::with_capacity(padded.len());
            changed.extend_from_slice(padded);
            packet::clamp_mss(&mut changed[..len], segment_mtu);
            self.seal(id, &changed, len, true);
        } else {
            self.seal(id, padded, len, true);
        }
    }

    fn peer_of(&mut self, destination: IpAddr) -> Option<PeerId> {
        match self.last {
            Some((address, id)) if address == destination => Some(id),
            _ => {
                let id = self.node.allowed_ips.lookup(destination)?;
                self.last = Some((destination, id));
                Some(id)
            }
        }
    }

    /// `is_use` says whether the packet shows that somebody uses the tunnel.
    fn seal(&mut self, id: PeerId, padded: &[u8], len: usize, is_use: bool) {
        let node = &mut *self.node;
        let Some(peer) = node.peers.get_mut(&id) else {
            node.drops.no_route += 1;
            return;
        };
        let Some(endpoint) = peer.endpoint else {
            peer.dropped.no_endpoint += 1;
            return;
        };
        // Padding hides the exact length of what is inside; the receiver cuts it by the length in the IP header.
        let end = len.next_multiple_of(PADDING).min(node.mtu.max(len));
        let plain = padded.get(..end).unwrap_or(padded);
        peer.tx_bytes += len as u64;
        peer.sent_at = self.now;
        peer.moments.sent = Some(self.now);
        if is_use {
            peer.note_use(self.now);
        }
        let engine = peer.engine(&node.gate, &node.private_key);
        let buffer = self.out.reserve(plain.len() + DATA_OVERHEAD + MIN_OUT);
        if let Some(len) = engine.seal(plain, buffer) {
            if Message::parse(&buffer[..len]) == Some(Message::Initiation) {
                peer.note_initiation(&buffer[..len], self.now);
            }
            self.out.commit(len, endpoint);
        }
    }

    fn bounce(&mut self, packet: &[u8], mtu: usize) {
        self.node.drops.too_big += 1;
        if self.has_bounced || self.node.bounced.len() >= MAX_BOUNCED {
            return;
        }
        if let Some(answer) = packet::too_big(packet, mtu) {
            self.has_bounced = true;
            self.node.bounced.push_back(answer);
        }
    }
}

impl<E: Engine> Node<E> {
    /// Takes packets from inside one by one. Datagrams are appended to `out`, in runs. A packet for a peer without a
    /// session waits for one (at most 256 for each peer, then the newest are lost) and starts a handshake. A packet larger
    /// than the MTU is dropped, and [`Node::poll_bounced`] has the answer to its sender.
    pub fn outbound<'a>(&'a mut self, now: Instant, out: &'a mut Datagrams) -> Outbound<'a, E> {
        self.catch_up(now, out);
        Outbound {
            node: self,
            out,
            now,
            last: None,
            has_bounced: false,
        }
    }

    /// [`Node::outbound`] for packets that lie in a batch.
    pub fn handle_packets<M>(&mut self, packets: &Batch<M>, now: Instant, out: &mut Datagrams) {
        let mut outbound = self.outbound(now, out);
        for index in 0..packets.len() {
            if let Some((padded, len)) = packets.padded(index) {
                outbound.push(padded, len);
            }
        }
    }

    /// Encrypts one packet that measures the path, be it larger than the MTU: whether such a packet passes is the question.
    /// It gets no padding, so that the datagram is as long as the packet asks for.
    pub fn handle_measuring(&mut self, packet: &[u8], now: Instant, out: &mut Datagrams) {
        self.largest = self.largest.max(packet.len());
        let mut outbound = self.outbound(now, out);
        match packet::destination(packet).and_then(|destination| outbound.peer_of(destination)) {
            Some(id) => outbound.seal(id, packet, packet.len(), false),
            None => self.drops.no_route += 1,
        }
    }

    /// The next answer to a packet that was too big, to be given to whoever sent it inside.
    pub fn poll_bounced(&mut self) -> Option<Vec<u8>> {
        self.bounced.pop_front()
    }
}
