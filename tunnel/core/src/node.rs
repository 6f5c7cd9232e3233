//! One end of `WireGuard`: peers, their engines, and the policy around them.
//!
//! A peer is found by its public key (handshake initiations, configuration), by the upper 24 bits of a session index
//! (everything else from the network), or by the device-wide table of allowed IPs (packets from inside).
//!
//! A peer's handshake, as a node drives it when the peer has an endpoint and a keepalive:
//!
//! ```text
//!            added, rehandshake          response or first data
//!   Idle ───────────────────────► Trying ─────────────────────► Fresh ──120 s──► Trying …
//!                                   │ ▲ every 5 s + jitter
//!                           90 s of silence: Expired ── jittered back-off ──► Trying
//! ```
//!
//! Other peers are tried only when there is a packet for them. Nothing here blocks or fails as a whole: what cannot be
//! handled is dropped and counted, for its peer where one is proved, else for the node.

mod inbound;
mod outbound;
mod peer;
mod probe;
mod rest;
mod sessions;
mod strays;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use self::outbound::Outbound;
use self::peer::Peer;
pub use self::peer::{PeerConfig, PeerDrops, PeerStats};
use crate::allowed_ips::AllowedIps;
use crate::datagrams::Datagrams;
use crate::engine::{BoringtunEngine, Engine};
use crate::key::{PrivateKey, PublicKey};
use crate::limit::{HandshakeLimiter, HandshakeLimits};
use crate::shard::{Shard, Stray};

/// Age at which a session carries no more packets (`WireGuard` paper, section 6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_mins(3);

/// How long handshakes may go without any answer until the peer counts as silent: the first and two retries were lost.
pub const SILENT_AFTER_TIME: Duration = Duration::from_secs(15);

/// Events kept until they are polled. The oldest go first: they are hints, and [`Node::stats`] has the truth.
const MAX_EVENTS: usize = 1024;

/// A peer's number within its node: the upper 24 bits of its session indices, chosen at random but for those that name its
/// shard, where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u32);

/// Spreads peer numbers over a table. They are drawn at random by this node and by nobody else, so there is nothing to
/// defend against, and every batch of packets asks.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // 2^64 divided by the golden ratio: neighbours end up far apart, in the upper bits, too.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What a node is made from.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Our static key.
    pub private_key: PrivateKey,
    /// Largest inner packet in bytes; [`Node::set_mtu`] changes it. Padding does not go beyond it, and TCP inside is
    /// told to keep to it.
    pub mtu: usize,
    /// Bounds on handshake work.
    pub limits: HandshakeLimits,
}

/// What happened to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A new session is proved to work in both directions.
    HandshakeCompleted {
        /// The peer.
        peer: PublicKey,
        /// Where it is.
        endpoint: SocketAddr,
    },
    /// An authentic packet came from a new address, and answers go there now.
    EndpointChanged {
        /// The peer.
        peer: PublicKey,
        /// Where it was.
        from: Option<SocketAddr>,
        /// Where it is.
        to: SocketAddr,
    },
    /// No handshake succeeded for 90 s, or nothing was exchanged for 540 s.
    SessionExpired {
        /// The peer.
        peer: PublicKey,
    },
}

/// Datagrams and packets that were dropped before they could be told to belong to a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeDrops {
    /// Not a `WireGuard` message.
    pub malformed: u64,
    /// For a session of nobody.
    pub unknown_index: u64,
    /// A handshake that is not for this node, or is forged.
    pub rejected_handshake: u64,
    /// A handshake with a static key that is no peer's.
    pub unknown_peer: u64,
    /// A handshake message beyond the limits; answered by a cookie or by nothing.
    pub limited: u64,
    /// An inner packet to an address that no peer has.
    pub no_route: u64,
    /// An inner packet that is larger than the MTU.
    pub too_big: u64,
    /// For another shard, and its queue was full.
    pub strays: u64,
}

impl NodeDrops {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.malformed
            + self.unknown_index
            + self.rejected_handshake
            + self.unknown_peer
            + self.limited
            + self.no_route
            + self.too_big
            + self.strays
    }
}

/// Why a peer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer has this node's own key.
    #[error("peer {0} has this node's own public key")]
    OwnKey(PublicKey),
}

/// One end of `WireGuard`.
pub struct Node<E: Engine = BoringtunEngine> {
    private_key: PrivateKey,
    public_key: PublicKey,
    mtu: usize,
    shard: Shard,
    limits: HandshakeLimits,
    /// The packet size that TCP connections are told to keep to when they are made.
    segment_mtu: usize,
    /// Largest inner packet that was ever taken: one of that size may still wait for a session.
    largest: usize,
    gate: E::Gate,
    limiter: HandshakeLimiter,
    peers: HashMap<PeerId, Peer<E>, BuildHasherDefault<IdHasher>>,
    by_key: HashMap<PublicKey, PeerId>,
    allowed_ips: AllowedIps<PeerId>,
    /// Who was at an address when its newest session was proved; one address for each peer at most. See [`inbound`].
    seen_at: HashMap<SocketAddr, PeerId>,
    events: VecDeque<Event>,
    /// Answers to packets that were too big, until they are polled.
    bounced: VecDeque<Vec<u8>>,
    /// Datagrams for other shards, until they are polled.
    strays: Vec<Stray>,
    drops: NodeDrops,
    rng: StdRng,
    /// The last round of the engines' timers; see [`timers`].
    round_at: Instant,
}

impl<E: Engine> fmt::Debug for Node<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("public_key", &self.public_key)
            .field("peers", &self.peers.len())
            .field("drops", &self.drops)
            .finish_non_exhaustive()
    }
}

impl<E: Engine> Node<E> {
    /// A node without peers.
    #[must_use]
    pub fn new(config: NodeConfig, now: Instant) -> Self {
        Self::sharded(config, Shard::WHOLE, now)
    }

    /// A node without peers that is one of several behind one port, all with the same key. Each is to be told of every peer;
    /// its limits are its own.
    #[must_use]
    pub fn sharded(config: NodeConfig, shard: Shard, now: Instant) -> Self {
        Self {
            public_key: config.private_key.public_key(),
            mtu: config.mtu,
            shard,
            limits: config.limits,
            segment_mtu: config.mtu,
            largest: config.mtu,
            gate: E::gate(&config.private_key),
            limiter: HandshakeLimiter::new(&config.limits, now),
            peers: HashMap::default(),
            by_key: HashMap::new(),
            allowed_ips: AllowedIps::new(),
            seen_at: HashMap::new(),
            events: VecDeque::new(),
            bounced: VecDeque::new(),
            strays: Vec::new(),
            drops: NodeDrops::default(),
            rng: StdRng::from_rng(&mut rand::rng()),
            round_at: now,
            private_key: config.private_key,
        }
    }

    /// Our public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Adds a peer or changes it. Its session survives unless the preshared key changed; other peers are not
    /// touched, except that a network named here is taken from whoever had it. An endpoint that was learnt from the
    /// peer stays when the configuration names none.
    pub fn set_peer(&mut self, config: PeerConfig, now: Instant) -> Result<PeerId, PeerError> {
        if config.public_key == self.public_key {
            return Err(PeerError::OwnKey(config.public_key));
        }
        let id = match self.by_key.get(&config.public_key) {
            Some(id) => *id,
            None => self.new_id(&config.public_key),
        };
        for network in self
            .peers
            .get(&id)
            .into_iter()
            .flat_map(|peer| &peer.config.allowed_ips)
        {
            self.allowed_ips.remove(*network, id);
        }
        for network in &config.allowed_ips {
            self.allowed_ips.insert(*network, id);
        }
        self.by_key.insert(config.public_key, id);
        match self.peers.get_mut(&id) {
            Some(peer) => peer.reconfigure(config, now),
            None => {
                self.peers.insert(id, Peer::new(id, config, now));
            }
        }
        Ok(id)
    }

    /// Forgets a peer with its sessions and networks. False when there was none.
    pub fn remove_peer(&mut self, public_key: &PublicKey) -> bool {
        let Some(id) = self.by_key.remove(public_key) else {
            return false;
        };
        let Some(peer) = self.peers.remove(&id) else {
            return false;
        };
        self.forget_seen(peer.seen_at, id);
        for network in peer.config.allowed_ips {
            self.allowed_ips.remove(network, id);
        }
        true
    }

    /// Sends what is for this peer to `endpoint` from now on. False when there is no such peer.
    pub fn set_endpoint(&mut self, public_key: &PublicKey, endpoint: SocketAddr) -> bool {
        let peer = self.by_key.get(public_key).and_then(|id| self.peers.get_mut(id));
        peer.map(|peer| peer.send_to(endpoint)).is_some()
    }

    /// Starts a handshake at once, whatever the state: after a change of network, or when the other end is known to
    /// have restarted. Nothing is sent to a peer without endpoint. The caller spaces its calls.
    pub fn rehandshake(&mut self, public_key: &PublicKey, now: Instant, out: &mut Datagrams) {
        self.catch_up(now, out);
        let Some(peer) = self.by_key.get(public_key).and_then(|id| self.peers.get_mut(id)) else {
            return;
        };
        peer.initiate(&self.gate, &self.private_key, true, now, out);
    }

    /// Takes packets of at most `mtu` bytes from now on: what the path lets through has changed, or was found out. TCP
    /// connections that are made later keep to it by themselves.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
        self.segment_mtu = mtu;
        self.largest = self.largest.max(mtu);
    }

    /// TCP connections that are made from now on keep to packets of `mtu` bytes; larger packets pass as before. For a TCP
    /// stack that cannot be told "too big": what its older connections send takes its chance on the path.
    pub fn set_segment_mtu(&mut self, mtu: usize) {
        self.segment_mtu = mtu.min(self.mtu);
    }

    /// How many peers it knows.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Largest inner packet in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// Its bounds on handshake work.
    #[must_use]
    pub fn limits(&self) -> HandshakeLimits {
        self.limits
    }

    /// The peer that may use `address` inside the tunnel.
    #[must_use]
    pub fn route(&self, address: IpAddr) -> Option<PeerId> {
        self.allowed_ips.lookup(address)
    }

    /// The number of the peer with this key.
    #[must_use]
    pub fn peer_id(&self, public_key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(public_key).copied()
    }

    /// The peer's counters; `None` when there is no such peer.
    #[must_use]
    pub fn stats(&self, public_key: &PublicKey) -> Option<PeerStats> {
        let id = self.by_key.get(public_key)?;
        self.peers.get(id).map(Peer::stats)
    }

    /// What is known of each peer, in no order.
    pub fn all_stats(&self) -> impl Iterator<Item = PeerStats> {
        self.peers.values().map(Peer::stats)
    }

    /// What was dropped without a peer to count it for.
    #[must_use]
    pub fn drops(&self) -> NodeDrops {
        self.drops
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn new_id(&mut self, peer: &PublicKey) -> PeerId {
        // 2^24 numbers for some thousand peers: the first draw is nearly always free. Random, so that an index tells
        // an observer nothing about how many peers there are.
        loop {
            let id = PeerId(self.shard.stamp(self.rng.random_range(0..1 << 24), peer));
            if !self.peers.contains_key(&id) {
                return id;
            }
        }
    }
}

fn push_event(events: &mut VecDeque<Event>, event: Event) {
    if events.len() == MAX_EVENTS {
        events.pop_front();
    }
    events.push_back(event);
}
