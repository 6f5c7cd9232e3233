//! A handshake beside the traffic: asks whether a peer answers somewhere else, and leaves everything where it is until it does.

use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use super::peer::MIN_OUT;
use crate::datagrams::Datagrams;
use crate::engine::Engine;
use crate::key::PublicKey;

impl<E: Engine> Node<E> {
    /// Sends a handshake initiation to `endpoint`, where the peer may be reached as well. What is sent otherwise goes on
    /// to the endpoint in use; only an authentic answer moves it, as it does for any peer that roams. An answer that
    /// never comes changes nothing: the engine's retry goes to the endpoint in use. The caller spaces its calls.
    ///
    /// Nothing happens for a peer that is not known.
    pub fn probe(&mut self, public_key: &PublicKey, endpoint: SocketAddr, now: Instant, out: &mut Datagrams) {
        self.catch_up(now, out);
        let Some(peer) = self.by_key.get(public_key).and_then(|id| self.peers.get_mut(id)) else {
            return;
        };
        let engine = peer.engine(&self.gate, &self.private_key);
        let buffer = out.reserve(MIN_OUT);
        if let Some(len) = engine.initiate(true, buffer) {
            peer.sessions.note_initiation(&buffer[..len]);
            out.commit(len, endpoint);
            peer.moments.asked = Some(now);
            // Not noted as unanswered: the peer does not count as silent because it is not there.
        }
    }
}
