//! Whether a session is kept: only while something needs it.
//!
//! A peer with an endpoint and a keepalive is one whose session this node keeps by itself: a keepalive whenever nothing was
//! sent for the interval, the next handshake when the session is old, and again after each failure. On a battery all that
//! is for nothing while nobody uses the tunnel, so it holds while one of these is true, and else the peer *rests*:
//!
//! - the caller says that something is open ([`Node::set_in_use`]; a peer begins as in use): connections, be they silent,
//!   for the far end may be the next to speak, and a NAT between here and there has to know the way;
//! - this node sent an inner packet to it within [`LINGER`], the requests that measure the path aside. This is all that can
//!   be known where the connections are somebody else's, in TUN mode;
//! - no handshake was completed yet, or one that was asked for stays unanswered. A peer rests in good order or not at all: what
//!   is broken is mended and shown as broken, lest the first who wants it has to find out.
//!
//! ```text
//!           in use, or a packet for the peer
//!   ┌───────────────────────────────────────────────┐
//!   ▼                                               │
//!  kept ── nothing open, nothing sent for 180 s ──► resting ── no keepalive, no handshake, no retry
//!   ▲                                               │
//!   └──────── a handshake stays unanswered ─────────┘
//! ```
//!
//! A packet for a resting peer goes out on its session, which is good for 180 s, or waits for the handshake that it starts;
//! either takes what it takes at any other time. The far end's packets find no way once a NAT has forgotten it:
//! who expects those has something open.

use std::time::{Duration, Instant};

use super::Node;
use super::peer::{MIN_OUT, Peer};
use super::timers::REKEY_AFTER_TIME;
use crate::datagrams::Datagrams;
use crate::engine::Engine;
use crate::key::{PrivateKey, PublicKey};
use crate::message::Message;

/// How long after the last packet a peer counts as in use: as long as a gateway keeps a silent UDP flow.
pub(super) const LINGER: Duration = Duration::from_mins(3);

impl<E: Engine> Node<E> {
    /// Says whether something is open to the peer, as often as the caller likes. Means nothing for a peer without keepalive.
    pub fn set_in_use(&mut self, public_key: &PublicKey, in_use: bool, now: Instant) {
        let Some(peer) = self.by_key.get(public_key).and_then(|id| self.peers.get_mut(id)) else {
            return;
        };
        peer.in_use = in_use;
        if in_use && peer.resting {
            peer.wake(now);
        }
    }

    /// Whether the peer rests: nothing is sent to it by this node itself.
    #[must_use]
    pub fn is_resting(&self, public_key: &PublicKey) -> bool {
        let peer = self.by_key.get(public_key).and_then(|id| self.peers.get(id));
        peer.is_some_and(|peer| peer.resting)
    }
}

impl<E: Engine> Peer<E> {
    /// Decides whether the peer rests from now on.
    pub(super) fn review(&mut self, now: Instant) {
        let is_needed = self.in_use
            || self.config.keepalive.is_none()
            || self.endpoint.is_none()
            || self.last_handshake.is_none()
            || self.unanswered_since.is_some()
            || now.saturating_duration_since(self.used_at) < LINGER;
        if !is_needed {
            self.resting = true;
            self.rested = true;
        } else if self.resting {
            self.wake(now);
        }
    }

    /// An inner packet goes to the peer.
    pub(super) fn note_use(&mut self, now: Instant) {
        self.used_at = now;
        if self.resting {
            self.wake(now);
        }
    }

    fn wake(&mut self, now: Instant) {
        self.resting = false;
        // What woke it is sent now, or its handshake.
        self.sent_at = now;
        // In the past when the session is old: a handshake is due at once, unless the packet starts it.
        self.next_attempt = Some(self.last_handshake.map_or(now, |at| at + REKEY_AFTER_TIME));
    }

    /// When the next keepalive is due.
    pub(super) fn keepalive_at(&self) -> Option<Instant> {
        let interval = self.config.keepalive.filter(|_| self.is_kept())?;
        // Without a session the handshakes have the word.
        self.last_handshake?;
        Some(self.sent_at + interval.max(Duration::from_secs(1)))
    }

    /// Sends a keepalive that is due.
    pub(super) fn keep_alive(
        &mut self,
        gate: &E::Gate,
        private_key: &PrivateKey,
        now: Instant,
        out: &mut Datagrams,
    ) {
        let Some(endpoint) = self
            .endpoint
            .filter(|_| self.keepalive_at().is_some_and(|at| at <= now))
        else {
            return;
        };
        self.sent_at = now;
        if self.unanswered_since.is_some() {
            return;
        }
        let engine = self.engine(gate, private_key);
        let buffer = out.reserve(MIN_OUT);
        if let Some(len) = engine.seal(&[], buffer) {
            // The session may be gone, after a sleep.
            if Message::parse(&buffer[..len]) == Some(Message::Initiation) {
                self.note_initiation(&buffer[..len], now);
            }
            out.commit(len, endpoint);
        }
    }
}
