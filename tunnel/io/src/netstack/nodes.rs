//! The thread's `WireGuard` end: one node, and for the time of a change of keys a second one.
//!
//! Two static keys can be good at one UDP port because every datagram names its receiver: a handshake initiation by a MAC
//! that only the owner of the right public key makes, everything else by a session's index. So while there are two
//! nodes both are handed every datagram, and the one that it is not for drops it before any curve is computed. A packet
//! from inside goes through the node on which its peer shook hands last.
//!
//! To the outside there is one node: peers have the first one's numbers, and what both count is put together. With one node
//! nothing is added to what it does.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use orfe_tunnel_core::{
    Batch, Datagrams, Event, Node, NodeConfig, NodeDrops, PeerConfig, PeerError, PeerId, PeerStats,
    PrivateKey, PublicKey, Stray, packet,
};

/// One end, under one static key or two.
#[derive(Debug)]
pub(crate) struct Nodes {
    first: Node,
    second: Option<Second>,
}

/// The node of the other key.
#[derive(Debug)]
struct Second {
    node: Node,
    /// Its peers' numbers, and those that they have in the first node.
    numbers: HashMap<PeerId, PeerId>,
    /// Those of its peers that shook hands here last.
    at_home: HashSet<PeerId>,
    packets: Batch<PeerId>,
    /// Packets from inside, for the first node and for this one.
    outgoing: [Batch<()>; 2],
    /// What the first node had dropped before this one came.
    before: NodeDrops,
}

impl From<Node> for Nodes {
    fn from(first: Node) -> Self {
        Self { first, second: None }
    }
}

impl Nodes {
    /// Answers for these keys, one or two, from now on; no others. Peers that a key did not have before must be set again.
    /// When the first node goes, the answer has the peers' new numbers by the old ones.
    pub(crate) fn set_keys(&mut self, keys: &[PrivateKey], now: Instant) -> Option<HashMap<PeerId, PeerId>> {
        let is_wanted = |node: &Node| keys.iter().any(|key| key.public_key() == node.public_key());
        self.second = self.second.take().filter(|second| is_wanted(&second.node));
        let mut renumbered = None;
        if !is_wanted(&self.first)
            && let Some(second) = self.second.take()
        {
            self.first = second.node;
            let numbers = second.numbers.into_iter();
            renumbered = Some(numbers.map(|(new, old)| (old, new)).collect());
        }
        let held = self.first.public_key();
        let missing = keys.iter().find(|key| key.public_key() != held);
        if let (None, Some(key)) = (&self.second, missing) {
            let config = NodeConfig {
                private_key: key.clone(),
                mtu: self.first.mtu(),
                limits: self.first.limits(),
            };
            self.second = Some(Second {
                node: Node::sharded(config, self.first.shard(), now),
                numbers: HashMap::new(),
                at_home: HashSet::new(),
                packets: Batch::new(),
                outgoing: [Batch::new(), Batch::new()],
                before: self.first.drops(),
            });
        }
        renumbered
    }

    /// The key on which the peer shook hands last.
    pub(crate) fn key_of(&self, peer: &PublicKey) -> PublicKey {
        match &self.second {
            Some(second) if second.has_at_home(peer) => second.node.public_key(),
            _ => self.first.public_key(),
        }
    }

    pub(crate) fn set_peer(&mut self, config: PeerConfig, now: Instant) -> Result<PeerId, PeerError> {
        let id = self.first.set_peer(config.clone(), now)?;
        if let Some(second) = &mut self.second {
            let number = second.node.set_peer(config, now)?;
            second.numbers.insert(number, id);
        }
        Ok(id)
    }

    pub(crate) fn remove_peer(&mut self, public_key: &PublicKey) -> bool {
        if let Some(second) = &mut self.second {
            if let Some(number) = second.node.peer_id(public_key) {
                second.numbers.remove(&number);
                second.at_home.remove(&number);
            }
            second.node.remove_peer(public_key);
        }
        self.first.remove_peer(public_key)
    }

    pub(crate) fn set_endpoint(&mut self, public_key: &PublicKey, endpoint: SocketAddr) -> bool {
        self.first.set_endpoint(public_key, endpoint)
    }

    pub(crate) fn rehandshake(&mut self, public_key: &PublicKey, now: Instant, out: &mut Datagrams) {
        self.first.rehandshake(public_key, now, out);
    }

    pub(crate) fn probe(
        &mut self,
        public_key: &PublicKey,
        endpoint: SocketAddr,
        now: Instant,
        out: &mut Datagrams,
    ) {
        self.first.probe(public_key, endpoint, now, out);
    }

    /// See [`Node::set_in_use`]; only a device's node keeps sessions, and a device has one key.
    pub(crate) fn set_in_use(&mut self, public_key: &PublicKey, in_use: bool, now: Instant) {
        self.first.set_in_use(public_key, in_use, now);
    }

    pub(crate) fn is_resting(&self, public_key: &PublicKey) -> bool {
        self.first.is_resting(public_key)
    }

    /// See [`Node::handle_measuring`]; a device, which alone measures, has one key.
    pub(crate) fn handle_measuring(&mut self, packet: &[u8], now: Instant, out: &mut Datagrams) {
        self.first.handle_measuring(packet, now, out);
    }

    /// See [`Node::set_segment_mtu`].
    pub(crate) fn set_segment_mtu(&mut self, mtu: usize) {
        self.first.set_segment_mtu(mtu);
        if let Some(second) = &mut self.second {
            second.node.set_segment_mtu(mtu);
        }
    }

    pub(crate) fn route(&self, address: IpAddr) -> Option<PeerId> {
        self.first.route(address)
    }

    /// What is known of a peer: the state of where it shook hands last, and the counters of both.
    pub(crate) fn stats(&self, public_key: &PublicKey) -> Option<PeerStats> {
        let first = self.first.stats(public_key)?;
        let Some(second) = &self.second else {
            return Some(first);
        };
        let other = second.node.stats(public_key)?;
        let (mut stats, less) = if second.has_at_home(public_key) {
            (other, first)
        } else {
            (first, other)
        };
        stats.rx_bytes += less.rx_bytes;
        stats.tx_bytes += less.tx_bytes;
        stats.dropped.spoofed_source += less.dropped.spoofed_source;
        stats.dropped.rejected += less.dropped.rejected;
        stats.dropped.no_endpoint += less.dropped.no_endpoint;
        Some(stats)
    }

    /// What was dropped without a peer to count it for: of what both were handed, what neither took.
    pub(crate) fn drops(&self) -> NodeDrops {
        let drops = self.first.drops();
        let Some(second) = &self.second else { return drops };
        let (before, other) = (second.before, second.node.drops());
        let neither = |count: fn(&NodeDrops) -> u64| {
            count(&before) + (count(&drops) - count(&before)).min(count(&other))
        };
        NodeDrops {
            malformed: drops.malformed,
            unknown_index: neither(|drops| drops.unknown_index),
            rejected_handshake: neither(|drops| drops.rejected_handshake),
            unknown_peer: drops.unknown_peer + other.unknown_peer,
            limited: drops.limited.max(other.limited),
            no_route: drops.no_route + other.no_route,
            too_big: drops.too_big + other.too_big,
            // Of those with an index both kept one, and only the first's is handed over.
            strays: drops.strays,
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.first.poll_event() {
            if let (Event::HandshakeCompleted { peer, .. }, Some(second)) = (&event, &mut self.second) {
                second.note_home(peer, false);
            }
            return Some(event);
        }
        let second = self.second.as_mut()?;
        let event = second.node.poll_event()?;
        if let Event::HandshakeCompleted { peer, .. } = &event {
            second.note_home(peer, true);
        }
        Some(event)
    }

    /// How many peers there are.
    pub(super) fn peers(&self) -> usize {
        self.first.peers()
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let second = self.second.as_ref().and_then(|second| second.node.poll_timeout());
        let both = self.first.poll_timeout().into_iter().chain(second);
        both.min_by_key(|(at, _)| *at)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Datagrams) {
        self.first.handle_timeout(now, out);
        if let Some(second) = &mut self.second {
            second.node.handle_timeout(now, out);
        }
    }

    pub(super) fn handle_run(
        &mut self,
        run: &[u8],
        stride: usize,
        source: SocketAddr,
        now: Instant,
        packets: &mut Batch<PeerId>,
        out: &mut Datagrams,
    ) {
        self.first.handle_run(run, stride, source, now, packets, out);
        let Some(second) = &mut self.second else { return };
        second.packets.clear();
        second
            .node
            .handle_run(run, stride, source, now, &mut second.packets, out);
        second.pass_on(packets);
    }

    /// Takes what landed at another shard.
    pub(super) fn handle_stray(
        &mut self,
        stray: &Stray,
        now: Instant,
        packets: &mut Batch<PeerId>,
        out: &mut Datagrams,
    ) {
        self.first.handle_stray(stray, now, packets, out);
        if let Some(second) = &mut self.second {
            second.packets.clear();
            second.node.handle_stray(stray, now, &mut second.packets, out);
            second.pass_on(packets);
        }
    }

    /// What landed here and is for another shard. Both nodes see that by an index, but only the one that an initiation is
    /// for by that.
    pub(super) fn drain_strays(&mut self) -> impl Iterator<Item = Stray> {
        let second = self.second.as_mut().into_iter();
        let initiations = second.flat_map(|second| second.node.drain_strays().filter(Stray::is_initiation));
        self.first.drain_strays().chain(initiations)
    }

    pub(super) fn note_lost_strays(&mut self, datagrams: u64) {
        self.first.note_lost_strays(datagrams);
    }

    pub(crate) fn handle_packets<M>(&mut self, packets: &Batch<M>, now: Instant, out: &mut Datagrams) {
        let Some(second) = &mut self.second else {
            return self.first.handle_packets(packets, now, out);
        };
        let Second {
            node,
            outgoing,
            at_home,
            ..
        } = second;
        outgoing.iter_mut().for_each(Batch::clear);
        for (packet, _) in packets.iter() {
            let peer = packet::destination(packet).and_then(|address| node.route(address));
            let goes_second = peer.is_some_and(|number| at_home.contains(&number));
            outgoing[usize::from(goes_second)].push(packet, ());
        }
        self.first.handle_packets(&outgoing[0], now, out);
        node.handle_packets(&outgoing[1], now, out);
    }

    /// [`Nodes::handle_packets`] for packets that are in no batch: `fill` gives each, with zeros behind it, and its length.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "the kernel's stack alone gives packets one by one")
    )]
    pub(super) fn outbound(
        &mut self,
        now: Instant,
        out: &mut Datagrams,
        fill: impl FnOnce(&mut dyn FnMut(&[u8], usize)),
    ) {
        if self.second.is_some() {
            let mut packets: Batch<()> = Batch::new();
            fill(&mut |padded, len| packets.push(padded.get(..len).unwrap_or(padded), ()));
            self.handle_packets(&packets, now, out);
        } else {
            let mut outbound = self.first.outbound(now, out);
            fill(&mut |padded, len| outbound.push(padded, len));
        }
    }
}

impl Second {
    /// Gives on what arrived, under the numbers that its peers have in the first node.
    fn pass_on(&self, packets: &mut Batch<PeerId>) {
        for (packet, number) in self.packets.iter() {
            if let Some(id) = self.numbers.get(number) {
                packets.push(packet, *id);
            }
        }
    }

    fn has_at_home(&self, peer: &PublicKey) -> bool {
        let number = self.node.peer_id(peer);
        number.is_some_and(|number| self.at_home.contains(&number))
    }

    fn note_home(&mut self, peer: &PublicKey, is_here: bool) {
        let Some(number) = self.node.peer_id(peer) else {
            return;
        };
        if is_here {
            self.at_home.insert(number);
        } else {
            self.at_home.remove(&number);
        }
    }
}
