//! Datagrams from the network.
//!
//! Checks come in the order of their cost: length and type, index lookup, then for handshakes the MAC and cookie, the
//! limits (see `limit`), one curve operation that names the peer, and only for a known peer the rest.
//!
//! The engine repeats that curve operation when it is given the initiation, for its state cannot be handed over. Whoever was
//! at the source when its newest session was proved, as everyone who renews a session, is spared the first one: the
//! initiation goes to its engine at once. A wrong guess costs one operation, and it is the last at this address until
//! somebody proves a session there, so that one who writes others' addresses gains one operation for each of their
//! handshakes, within the limits.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::peer::{MIN_OUT, Peer};
use super::{Event, Node, PeerId, push_event};
use crate::batch::Batch;
use crate::datagrams::Datagrams;
use crate::engine::{Engine, Opened, Proof};
use crate::key::PublicKey;
use crate::message::Message;
use crate::packet;
use crate::shard::Claim;

impl<E: Engine> Node<E> {
    /// Takes datagrams with their sources. Inner packets whose source address belongs to their sender are appended to
    /// `packets`, with the peer; answers and packets that had waited for a session to `out`, with their destination.
    pub fn handle_datagrams(
        &mut self,
        datagrams: &Batch<SocketAddr>,
        now: Instant,
        packets: &mut Batch<PeerId>,
        out: &mut Datagrams,
    ) {
        for (datagram, source) in datagrams.iter() {
            self.handle_run(datagram, datagram.len(), *source, now, packets, out);
        }
    }

    /// [`Node::handle_datagrams`] for what the kernel received as one: datagrams of one source, one behind the other, each
    /// of `stride` bytes and the last one of at most that.
    pub fn handle_run(
        &mut self,
        run: &[u8],
        stride: usize,
        source: SocketAddr,
        now: Instant,
        packets: &mut Batch<PeerId>,
        out: &mut Datagrams,
    ) {
        self.catch_up(now, out);
        let mut datagrams = run.chunks(stride.max(1)).peekable();
        while let Some(datagram) = datagrams.next() {
            match Message::parse(datagram) {
                Some(Message::Data(index)) => {
                    let same_session = std::iter::from_fn(|| {
                        datagrams.next_if(|next| Message::parse(next) == Some(Message::Data(index)))
                    });
                    match self.shard.elsewhere(index) {
                        Some(shard) => self.stray(shard, datagram, same_session, source),
                        None => self.handle_data(
                            index,
                            std::iter::once(datagram).chain(same_session),
                            source,
                            now,
                            packets,
                        ),
                    }
                }
                Some(Message::Response(index) | Message::Cookie(index))
                    if let Some(shard) = self.shard.elsewhere(index) =>
                {
                    self.stray(shard, datagram, std::iter::empty(), source);
                }
                Some(Message::Initiation) => self.handle_initiation(datagram, source, now, out),
                Some(Message::Response(index)) => self.handle_response(index, datagram, source, now, out),
                Some(Message::Cookie(index)) => self.handle_cookie(index, datagram, source, out),
                None => self.drops.malformed += 1,
            }
        }
    }

    /// Transport data of one session: its peer is looked up once, and so is the owner of a row of equal source addresses.
    fn handle_data<'a>(
        &mut self,
        index: u32,
        datagrams: impl Iterator<Item = &'a [u8]>,
        source: SocketAddr,
        now: Instant,
        packets: &mut Batch<PeerId>,
    ) {
        let id = PeerId(index >> 8);
        let Some(peer) = self.peers.get_mut(&id) else {
            self.drops.unknown_index += datagrams.count() as u64;
            return;
        };
        let Some(engine) = peer.engine.as_mut() else {
            peer.dropped.rejected += datagrams.count() as u64;
            return;
        };
        let mut is_authentic = false;
        let mut last_owner: Option<(IpAddr, Option<PeerId>)> = None;
        for datagram in datagrams {
            let buffer = packets.reserve(datagram.len().max(MIN_OUT));
            match engine.open(source, datagram, buffer) {
                Opened::Packet(len) => {
                    is_authentic = true;
                    peer.moments.heard_data = Some(now);
                    let packet = &mut buffer[..len];
                    // An empty or foreign packet has no source and is nobody's.
                    let owner = packet::source(packet).and_then(|address| match last_owner {
                        Some((last, owner)) if last == address => owner,
                        _ => {
                            let owner = self.allowed_ips.lookup(address);
                            last_owner = Some((address, owner));
                            owner
                        }
                    });
                    if owner == Some(id) {
                        packet::clamp_mss(packet, self.segment_mtu);
                        peer.rx_bytes += len as u64;
                        packets.commit(len, id);
                    } else {
                        peer.dropped.spoofed_source += 1;
                    }
                }
                Opened::Nothing => is_authentic = true,
                Opened::Reply(_) | Opened::Rejected => peer.dropped.rejected += 1,
            }
        }
        if is_authentic {
            self.note_authentic(id, index, source, now, false);
        }
    }

    fn handle_initiation(&mut self, datagram: &[u8], source: SocketAddr, now: Instant, out: &mut Datagrams) {
        if !self.may_cost_a_curve(datagram, source, now, out) {
            return;
        }
        if self.answer_whom_we_saw(datagram, source, out) {
            return;
        }
        let Some(public_key) = E::identify(&self.gate, datagram) else {
            self.drops.rejected_handshake += 1;
            return;
        };
        if self.shard.owns(&public_key) {
            self.answer_initiation(&public_key, datagram, source, out);
        } else if self.by_key.contains_key(&public_key) {
            let claim = Claim {
                receiver: self.public_key,
                peer: public_key,
            };
            self.stray_initiation(claim, datagram, source);
        } else {
            self.drops.unknown_peer += 1;
        }
    }

    /// Whether a handshake message may go on to the curve; if not, its sender is asked for its address where that helps.
    fn may_cost_a_curve(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
        out: &mut Datagrams,
    ) -> bool {
        let (is_granted, cookie) = match E::prove(&self.gate, source, datagram, out.reserve(MIN_OUT)) {
            Proof::Address => (self.limiter.take_proved(source.ip(), now), None),
            Proof::Key(len) => (self.limiter.take_claimed(source.ip(), now), Some(len)),
            Proof::Nothing => {
                self.drops.rejected_handshake += 1;
                return false;
            }
        };
        if !is_granted {
            self.drops.limited += 1;
            if let Some(len) = cookie {
                out.commit(len, source);
            }
        }
        is_granted
    }

    /// Answers an initiation if it is from the peer that was seen at `source` last; else nobody counts as seen there.
    fn answer_whom_we_saw(&mut self, datagram: &[u8], source: SocketAddr, out: &mut Datagrams) -> bool {
        let peer = self.seen_at.get(&source).and_then(|id| self.peers.get_mut(id));
        let Some(peer) = peer else { return false };
        let Some(engine) = peer.engine_if_any() else {
            return false;
        };
        let buffer = out.reserve(MIN_OUT);
        if let Opened::Reply(len) = engine.open(source, datagram, buffer) {
            peer.sessions.note_response(&buffer[..len]);
            out.commit(len, source);
            return true;
        }
        self.seen_at.remove(&source);
        false
    }

    /// The peer with this number was at `place`, and is there no more.
    pub(super) fn forget_seen(&mut self, place: Option<SocketAddr>, id: PeerId) {
        if let Some(place) = place
            && self.seen_at.get(&place) == Some(&id)
        {
            self.seen_at.remove(&place);
        }
    }

    /// Answers an initiation that names `public_key`, within the limits and with a good MAC.
    pub(super) fn answer_initiation(
        &mut self,
        public_key: &PublicKey,
        datagram: &[u8],
        source: SocketAddr,
        out: &mut Datagrams,
    ) {
        let Some(peer) = self.by_key.get(public_key).and_then(|id| self.peers.get_mut(id)) else {
            self.drops.unknown_peer += 1;
            return;
        };
        let engine = peer.engine(&self.gate, &self.private_key);
        let buffer = out.reserve(MIN_OUT);
        match engine.open(source, datagram, buffer) {
            // The endpoint does not move yet: the initiation may be a copy that overtook the original. The first
            // data on the session moves it, and that can be no copy.
            Opened::Reply(len) => {
                peer.sessions.note_response(&buffer[..len]);
                out.commit(len, source);
            }
            _ => peer.dropped.rejected += 1,
        }
    }

    fn handle_response(
        &mut self,
        index: u32,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
        out: &mut Datagrams,
    ) {
        let id = PeerId(index >> 8);
        if !self.peers.contains_key(&id) {
            self.drops.unknown_index += 1;
            return;
        }
        if !self.may_cost_a_curve(datagram, source, now, out) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(engine) = peer.engine_if_any() else {
            peer.dropped.rejected += 1;
            return;
        };
        let Opened::Reply(len) = engine.open(source, datagram, out.reserve(MIN_OUT)) else {
            peer.dropped.rejected += 1;
            return;
        };
        out.commit(len, source);
        peer.moments.asked = None;
        send_queued(peer, self.largest, source, out);
        self.note_authentic(id, index, source, now, true);
    }

    fn handle_cookie(&mut self, index: u32, datagram: &[u8], source: SocketAddr, out: &mut Datagrams) {
        let Some(peer) = self.peers.get_mut(&PeerId(index >> 8)) else {
            self.drops.unknown_index += 1;
            return;
        };
        // Whoever saw our initiation can write a cookie reply, so it proves nothing and moves no endpoint. The engine
        // uses the cookie in its next retry.
        let opened = peer
            .engine_if_any()
            .map(|engine| engine.open(source, datagram, out.reserve(MIN_OUT)));
        if opened != Some(Opened::Nothing) {
            peer.dropped.rejected += 1;
        }
    }

    /// Something authentic and new arrived from `source` on the session with local index `index`; an answer to our handshake,
    /// or data.
    fn note_authentic(&mut self, id: PeerId, index: u32, source: SocketAddr, now: Instant, is_answer: bool) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        // Whatever is authentic shows that the peer is there, be it data on the old session.
        peer.unanswered_since = None;
        peer.moments.heard = Some(now);
        let public_key = peer.config.public_key;
        let from = peer.endpoint;
        if (is_answer || peer.may_have_moved(index)) && peer.heard_from(source) {
            push_event(
                &mut self.events,
                Event::EndpointChanged {
                    peer: public_key,
                    from,
                    to: source,
                },
            );
        }
        if peer.confirm(index, is_answer, now) {
            let before = peer.seen_at.replace(source);
            self.forget_seen(before, id);
            self.seen_at.insert(source, id);
            push_event(
                &mut self.events,
                Event::HandshakeCompleted {
                    peer: public_key,
                    endpoint: source,
                },
            );
            self.schedule_rekey(id, now);
        }
    }
}

/// Sends what waited for the session: packets of up to `largest` bytes, whatever the MTU is by now.
fn send_queued<E: Engine>(peer: &mut Peer<E>, largest: usize, endpoint: SocketAddr, out: &mut Datagrams) {
    let room = largest.next_multiple_of(16) + MIN_OUT;
    let Some(engine) = peer.engine_if_any() else {
        return;
    };
    while let Some(len) = engine.next_queued(out.reserve(room)) {
        out.commit(len, endpoint);
    }
}
