//! Packets from inside.

use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use super::peer::MIN_OUT;
use crate::batch::Batch;
use crate::engine::Engine;
use crate::message::{DATA_OVERHEAD, Message};
use crate::packet;

impl<E: Engine> Node<E> {
    /// Encrypts packets for the peers their destinations belong to and appends them to `out`, with the endpoint. A packet
    /// for a peer without a session waits for one (at most 256 for each peer, then the newest are lost) and starts a handshake.
    /// A packet larger than the MTU is dropped as one without a route.
    pub fn handle_packets<M>(&mut self, packets: &Batch<M>, now: Instant, out: &mut Batch<SocketAddr>) {
        for index in 0..packets.len() {
            self.handle_packet(packets, index, now, out);
        }
    }

    fn handle_packet<M>(
        &mut self,
        packets: &Batch<M>,
        index: usize,
        now: Instant,
        out: &mut Batch<SocketAddr>,
    ) {
        // Padding hides the exact length of what is inside; the receiver cuts it by the length in the IP header.
        let Some(((packet, _), padded)) = packets.get(index).zip(packets.padded(index, self.mtu)) else {
            return;
        };
        let destination = packet::destination(packet).filter(|_| packet.len() <= self.mtu);
        let Some(peer) = destination
            .and_then(|address| self.allowed_ips.lookup(address))
            .and_then(|id| self.peers.get_mut(&id))
        else {
            self.drops.no_route += 1;
            return;
        };
        let Some(endpoint) = peer.endpoint else {
            peer.dropped.no_endpoint += 1;
            return;
        };
        self.last_activity = now;
        peer.tx_bytes += packet.len() as u64;
        let engine = peer.engine(&self.gate, &self.private_key);
        let buffer = out.reserve(padded.len() + DATA_OVERHEAD + MIN_OUT);
        if let Some(len) = engine.seal(padded, buffer) {
            if Message::parse(&buffer[..len]) == Some(Message::Initiation) {
                peer.note_initiation(now);
            }
            out.commit(len, endpoint);
        }
    }
}
