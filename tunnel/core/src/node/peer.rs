//! One peer: its configuration, its engine (made on first use, about 11 KiB), and what is known of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::PeerId;
use super::sessions::Sessions;
use super::timers::Moments;
use crate::allowed_ips::AllowedIp;
use crate::datagrams::Datagrams;
use crate::engine::{Engine, EngineParams};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::message::INITIATION_LEN;

/// What a peer is made from.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// The peer's key.
    pub public_key: PublicKey,
    /// The symmetric key that both ends mix in, if any.
    pub preshared_key: Option<PresharedKey>,
    /// Where it is, if that is known before it speaks.
    pub endpoint: Option<SocketAddr>,
    /// Addresses that it may use inside the tunnel.
    pub allowed_ips: Vec<AllowedIp>,
    /// Interval of keepalives, of at least a second. With an endpoint it also means: keep a session while it is needed
    /// ([`Node::set_in_use`](super::Node::set_in_use)).
    pub keepalive: Option<Duration>,
}

/// Dropped for a reason that concerns one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerDrops {
    /// Inner packets whose source address is not this peer's.
    pub spoofed_source: u64,
    /// Datagrams that are forged, replayed, malformed inside, or of a session that is gone.
    pub rejected: u64,
    /// Packets for the peer while it is not known where it is.
    pub no_endpoint: u64,
}

impl PeerDrops {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.spoofed_source + self.rejected + self.no_endpoint
    }
}

/// What is known of a peer.
#[derive(Debug, Clone)]
pub struct PeerStats {
    /// The peer's key.
    pub public_key: PublicKey,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// When the latest session was proved to work.
    pub last_handshake: Option<Instant>,
    /// Since when we ask for a handshake and nothing authentic has come; `None` while nothing is asked or all is answered.
    pub unanswered_since: Option<Instant>,
    /// It rests, or it woke and no handshake was completed since: an old last handshake is no fault of it.
    pub rested: bool,
    /// Inner bytes received and accepted.
    pub rx_bytes: u64,
    /// Inner bytes handed over for sending.
    pub tx_bytes: u64,
    /// What was dropped.
    pub dropped: PeerDrops,
}

/// Shortest buffer an engine may be given.
pub(super) const MIN_OUT: usize = INITIATION_LEN;

#[derive(Debug)]
pub(super) struct Peer<E> {
    pub(super) id: PeerId,
    pub(super) config: PeerConfig,
    pub(super) engine: Option<E>,
    pub(super) endpoint: Option<SocketAddr>,
    /// Where the peer is as we were told, when it was last heard from elsewhere.
    elsewhere: Option<SocketAddr>,
    /// Where its newest session was proved.
    pub(super) seen_at: Option<SocketAddr>,
    pub(super) last_handshake: Option<Instant>,
    /// When the first handshake was started after which nothing authentic has come.
    pub(super) unanswered_since: Option<Instant>,
    pub(super) sessions: Sessions,
    /// When this node itself starts the next handshake; `None` while the engine retries, or for a peer that is not kept.
    pub(super) next_attempt: Option<Instant>,
    /// Attempts given up since the last handshake.
    pub(super) failed_attempts: u32,
    /// A retry that waits out its jitter.
    pub(super) delayed: Option<(Instant, Vec<u8>)>,
    /// Something is open to it, as we are told.
    pub(super) in_use: bool,
    /// When an inner packet was last sent to it; at first, when the peer was made.
    pub(super) used_at: Instant,
    /// When anything was last sent on a session.
    pub(super) sent_at: Instant,
    pub(super) moments: Moments,
    /// Nothing needs its session; see [`super::rest`].
    pub(super) resting: bool,
    /// It rested since the last handshake.
    pub(super) rested: bool,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) dropped: PeerDrops,
}

impl<E: Engine> Peer<E> {
    pub(super) fn new(id: PeerId, config: PeerConfig, now: Instant) -> Self {
        let endpoint = config.endpoint;
        let next_attempt = config.keepalive.map(|_| now);
        Self {
            id,
            config,
            engine: None,
            endpoint,
            elsewhere: None,
            seen_at: None,
            last_handshake: None,
            unanswered_since: None,
            sessions: Sessions::default(),
            next_attempt,
            failed_attempts: 0,
            delayed: None,
            in_use: true,
            used_at: now,
            sent_at: now,
            moments: Moments::default(),
            resting: false,
            rested: false,
            rx_bytes: 0,
            tx_bytes: 0,
            dropped: PeerDrops::default(),
        }
    }

    pub(super) fn reconfigure(&mut self, config: PeerConfig, now: Instant) {
        if self.config.preshared_key != config.preshared_key {
            // The engine takes it at birth only.
            self.rested = false;
            self.engine = None;
            self.sessions = Sessions::default();
            self.last_handshake = None;
            self.unanswered_since = None;
            self.delayed = None;
            self.failed_attempts = 0;
            self.next_attempt = config.keepalive.map(|_| now);
        } else if self.config.keepalive.is_none() {
            self.next_attempt = config.keepalive.map(|_| now);
        }
        self.config.endpoint = config.endpoint.or(self.config.endpoint);
        if let Some(endpoint) = config.endpoint {
            self.send_to(endpoint);
        }
        self.config = PeerConfig {
            endpoint: self.config.endpoint,
            ..config
        };
    }

    /// We are told where the peer is.
    pub(super) fn send_to(&mut self, endpoint: SocketAddr) {
        self.config.endpoint = Some(endpoint);
        self.endpoint = Some(endpoint);
        self.elsewhere = None;
    }

    /// Whether data on the session with this local index shows where the peer is now. Of a peer whose place we are told, what comes
    /// on an older session than the newest was sent before it heard of that: a path that we just left for another, because it lets
    /// nothing out, may let such data in, and would have our own back.
    pub(super) fn may_have_moved(&self, index: u32) -> bool {
        self.config.endpoint.is_none() || self.sessions.is_newest(index)
    }

    /// The peer was heard from `source`; true when that is news.
    pub(super) fn heard_from(&mut self, source: SocketAddr) -> bool {
        self.elsewhere = self.config.endpoint.filter(|told| *told != source);
        self.endpoint.replace(source) != Some(source)
    }

    /// A handshake stays unanswered: the next goes to the other place where the peer may be. Somebody on the path can
    /// hold a datagram back and deliver it from an address of his own; without this he would own the tunnel's
    /// direction for good.
    pub(super) fn try_elsewhere(&mut self) {
        if self.elsewhere.is_some() {
            std::mem::swap(&mut self.elsewhere, &mut self.endpoint);
        }
    }

    /// The engine, made on first use.
    pub(super) fn engine(&mut self, gate: &E::Gate, private_key: &PrivateKey) -> &mut E {
        self.engine.get_or_insert_with(|| {
            let params = EngineParams {
                private_key,
                peer: self.config.public_key,
                preshared_key: self.config.preshared_key.as_ref(),
                index: self.id.0,
            };
            E::new(gate, &params)
        })
    }

    /// The engine, when there was a reason to make one.
    pub(super) fn engine_if_any(&mut self) -> Option<&mut E> {
        self.engine.as_mut()
    }

    /// Whether this node keeps a session with the peer by itself, at this time.
    pub(super) fn is_kept(&self) -> bool {
        self.config.keepalive.is_some() && self.endpoint.is_some() && !self.resting
    }

    /// Sends a handshake initiation, if there is somewhere to send it and none is under way (or `force`).
    pub(super) fn initiate(
        &mut self,
        gate: &E::Gate,
        private_key: &PrivateKey,
        force: bool,
        now: Instant,
        out: &mut Datagrams,
    ) {
        let Some(endpoint) = self.endpoint else { return };
        self.next_attempt = None;
        self.delayed = None;
        let buffer = out.reserve(MIN_OUT);
        if let Some(len) = self.engine(gate, private_key).initiate(force, buffer) {
            self.note_initiation(&buffer[..len], now);
            out.commit(len, endpoint);
        }
    }

    /// Notes that this handshake initiation was made. Retries do not move the moment since which an answer is awaited.
    pub(super) fn note_initiation(&mut self, initiation: &[u8], now: Instant) {
        self.sessions.note_initiation(initiation);
        self.unanswered_since.get_or_insert(now);
        self.moments.asked = Some(now);
    }

    /// Notes that something authentic arrived on the session with this local index, an answer to our handshake or data; true when
    /// the session is new.
    pub(super) fn confirm(&mut self, index: u32, is_answer: bool, now: Instant) -> bool {
        let newer = if is_answer {
            self.sessions.prove_by_answer(index)
        } else {
            self.sessions.prove_by_data(index)
        };
        if newer {
            self.last_handshake = Some(now);
            self.failed_attempts = 0;
            self.rested = self.resting;
            // The engine answers with data of its own, or with a handshake.
            self.sent_at = now;
        }
        newer
    }

    pub(super) fn stats(&self) -> PeerStats {
        PeerStats {
            public_key: self.config.public_key,
            endpoint: self.endpoint,
            last_handshake: self.last_handshake,
            unanswered_since: self.unanswered_since,
            rested: self.rested,
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            dropped: self.dropped,
        }
    }
}
