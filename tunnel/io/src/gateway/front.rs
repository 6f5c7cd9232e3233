//! The gateway's decisions about packets, on the netstack's thread.

mod connections;
mod other;
mod peers;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orfe_tunnel_core::{Batch, Bucket, Event, PeerId, PublicKey, Rate, Shard};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::counters::Peer;
use super::datagrams::Inlet;
use super::packet::Inner;
use super::policy::{Access, DNS_PORT, Policy, Service, Target, Transport};
use super::segment::Segment;
use super::upstream::Forwarders;
use super::{Desired, GatewayStats, Shown};
use crate::netstack::{Accepted, Ends, Flow, Front, KernelStack, Number};

/// Connections at once of one peer, so that one cannot use up the gateway's.
const MAX_CONNECTIONS_PER_PEER: usize = 1024;
/// Connections at once whose upstream is being dialled. This and what follows for all peers is the whole gateway's; each
/// thread has an equal share of it.
const MAX_DIALLING: usize = 1024;
/// UDP flows at once, of one peer and of all. Each has a socket and a queue; beyond, new flows are refused.
const MAX_FLOWS_PER_PEER: usize = 256;
const MAX_FLOWS: usize = 4096;
/// Questions at once that the resolver is asked, for one peer and for all. Beyond, questions are dropped and asked again.
const MAX_QUESTIONS_PER_PEER: usize = 32;
const MAX_QUESTIONS: usize = 512;
/// Resets for what belongs to no connection, and what else tells peers that something is refused, of one thread. Beyond it, and
/// beyond what one peer may have of it, such packets are dropped without an answer.
const RESETS: Rate = Rate {
    per_second: 1000.0,
    burst: 1000.0,
};
/// How often every peer is shown anew, changed or not: what the node alone counts (forged datagrams) changes nothing here.
const SHOW_ALL: Duration = Duration::from_secs(10);

/// What tasks ask of the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// The upstream is connected: let the peer in.
    Admit {
        flow: Flow,
        attempt: u64,
        reply: oneshot::Sender<Accepted>,
    },
    /// It could not be reached: refuse the peer.
    Refuse {
        flow: Flow,
        attempt: u64,
        error: io::Error,
    },
    /// Nothing is copied any more, or nothing came to be copied.
    Left { flow: Flow, attempt: u64 },
    /// A datagram for the peer of a UDP flow.
    Datagram {
        flow: Flow,
        attempt: u64,
        payload: Vec<u8>,
    },
    /// A UDP flow is over.
    FlowEnded { flow: Flow, attempt: u64 },
    /// The kernel's TCP is there again, in a new namespace.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "there are no namespaces to be had again")
    )]
    Regain(Box<KernelStack>),
    /// The resolver was asked for a peer.
    Resolved {
        flow: Flow,
        peer: PeerId,
        answer: Vec<u8>,
    },
}

#[derive(Debug)]
pub(super) struct GatewayFront {
    /// The gateway's own inner addresses.
    own: Vec<IpAddr>,
    shard: Shard,
    desired: Arc<Mutex<Desired>>,
    shown: Arc<Mutex<Shown>>,
    forwarders: Forwarders,
    policy: Arc<Policy>,
    peers: HashMap<PeerId, Peer>,
    by_key: HashMap<PublicKey, PeerId>,
    /// Peers of other shards. The node knows them, and nothing of theirs comes here.
    foreign: HashSet<PublicKey>,
    flows: HashMap<Flow, Entry>,
    datagrams: HashMap<Flow, DatagramEntry>,
    dialling: usize,
    questions: usize,
    attempts: u64,
    resets: Bucket,
    /// Packets made here, for the tunnel.
    answers: Batch<()>,
    /// Peers that changed since they were shown.
    changed: Vec<PeerId>,
    shown_all: Option<Instant>,
}

/// A connection of a peer.
#[derive(Debug)]
struct Entry {
    peer: PeerId,
    target: Target,
    attempt: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The upstream is being dialled; the SYN waits.
    Dialling { syn: Vec<u8>, cancel: CancellationToken },
    /// The connection is in the stack.
    Open,
    /// The kernel has it.
    Carried(Number),
}

/// A UDP flow of a peer. Dropping it ends its task.
#[derive(Debug)]
struct DatagramEntry {
    peer: PeerId,
    target: Target,
    attempt: u64,
    queue: Inlet,
}

impl GatewayFront {
    pub(super) fn new(
        own: Vec<IpAddr>,
        shard: Shard,
        desired: Arc<Mutex<Desired>>,
        shown: Arc<Mutex<Shown>>,
        forwarders: Forwarders,
        now: Instant,
    ) -> Self {
        Self {
            own,
            shard,
            desired,
            shown,
            forwarders,
            policy: Arc::default(),
            peers: HashMap::new(),
            by_key: HashMap::new(),
            foreign: HashSet::new(),
            flows: HashMap::new(),
            datagrams: HashMap::new(),
            dialling: 0,
            questions: 0,
            attempts: 0,
            resets: Bucket::full(RESETS, now),
            answers: Batch::new(),
            changed: Vec::new(),
            shown_all: None,
        }
    }

    /// This thread's part of what all peers together may have, at most `all`.
    fn share(&self, all: usize) -> usize {
        all / usize::from(self.shard.count())
    }

    fn target(&self, access: &Access, transport: Transport, flow: Flow) -> Option<Target> {
        if flow.local.port() == DNS_PORT && self.own.contains(&flow.local.ip()) {
            return Some(Target {
                name: "dns".to_owned(),
                service: Service::Dns,
            });
        }
        self.policy.target(access, transport, flow.local)
    }

    fn note_change(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && !std::mem::replace(&mut peer.is_changed, true)
        {
            self.changed.push(id);
        }
    }

    fn handle_packet(&mut self, id: PeerId, packet: &[u8], ends: &mut Ends, now: Instant) {
        self.note_change(id);
        if let Some(segment) = Segment::parse(packet) {
            self.handle_segment(id, segment, packet, ends, now);
        } else if let Some(inner) = Inner::parse(packet) {
            self.handle_other(id, inner, packet, now);
        } else {
            self.count(id, |peer| &mut peer.unsupported);
        }
    }

    fn count(&mut self, id: PeerId, counter: impl FnOnce(&mut Peer) -> &mut u64) {
        if let Some(peer) = self.peers.get_mut(&id) {
            *counter(peer) += 1;
        }
    }

    /// Whether a peer may be told now that something is refused.
    fn may_be_refused(&mut self, id: PeerId, now: Instant) -> bool {
        self.peers
            .get_mut(&id)
            .is_some_and(|peer| peer.may_be_refused(now))
            && self.resets.take(RESETS, now)
    }

    /// Sends what was made here.
    fn flush(&mut self, ends: &mut Ends, now: Instant) {
        if !self.answers.is_empty() {
            ends.node.handle_packets(&self.answers, now, &mut ends.out);
            self.answers.clear();
        }
    }
}

impl Front for GatewayFront {
    type Command = Command;

    fn reconcile(&mut self, ends: &mut Ends, now: Instant) -> bool {
        let desired = std::mem::take(&mut *self.desired.lock().unwrap_or_else(PoisonError::into_inner));
        if desired.policy.is_none() && desired.peers.is_none() {
            return false;
        }
        if let Some(numbers) = desired.keys.and_then(|keys| ends.node.set_keys(&keys, now)) {
            self.renumber(&numbers);
        }
        if let Some(policy) = desired.policy {
            self.policy = policy;
        }
        let are_declared = desired.peers.is_some();
        if let Some(peers) = desired.peers {
            self.set_peers(&peers, ends, now);
        }
        self.cut_what_is_not_allowed(ends, now);
        are_declared
    }

    fn handle_command(&mut self, command: Command, ends: &mut Ends, now: Instant) {
        match command {
            Command::Admit { flow, attempt, reply } => self.admit(flow, attempt, reply, ends, now),
            Command::Refuse { flow, attempt, error } => self.fail(flow, attempt, &error, ends, now),
            Command::Left { flow, attempt } => self.leave(flow, attempt, ends, now),
            Command::Datagram {
                flow,
                attempt,
                payload,
            } => {
                if self
                    .datagrams
                    .get(&flow)
                    .is_some_and(|entry| entry.attempt == attempt)
                {
                    self.answer(flow, &payload);
                }
            }
            Command::FlowEnded { flow, attempt } => {
                if self
                    .datagrams
                    .get(&flow)
                    .is_some_and(|entry| entry.attempt == attempt)
                {
                    self.forget_datagrams(&flow);
                }
            }
            Command::Regain(kernel) => ends.next_kernel = Some(kernel),
            Command::Resolved { flow, peer, answer } => {
                self.questions -= 1;
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.questions = known.questions.saturating_sub(1);
                    self.answer(flow, &answer);
                }
            }
        }
        self.flush(ends, now);
    }

    fn handle_packets(&mut self, packets: &Batch<PeerId>, ends: &mut Ends, now: Instant) {
        for (packet, id) in packets.iter() {
            self.handle_packet(*id, packet, ends, now);
        }
        self.flush(ends, now);
    }

    fn handle_event(&mut self, event: Event) {
        tracing::debug!(?event, "peer");
        let (Event::HandshakeCompleted { peer, .. }
        | Event::EndpointChanged { peer, .. }
        | Event::SessionExpired { peer, .. }) = event
        else {
            return;
        };
        if let Some(id) = self.by_key.get(&peer).copied() {
            self.note_change(id);
        }
    }

    fn handle_closed(&mut self, flow: Flow) {
        self.forget(&flow);
    }

    fn handle_over(&mut self, flow: Flow, number: Number) {
        let is_it = |entry: &Entry| matches!(entry.stage, Stage::Carried(carried) if carried == number);
        if self.flows.get(&flow).is_some_and(is_it) {
            self.forget(&flow);
        }
    }

    /// Shows the peers that changed; the others stand as they were shown before.
    fn publish(&mut self, ends: &Ends, now: Instant) {
        let is_whole = self
            .shown_all
            .is_some_and(|at| now.saturating_duration_since(at) < SHOW_ALL);
        let changed = std::mem::take(&mut self.changed);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = ends.kernel.as_ref();
        shown.total = GatewayStats {
            dropped: ends.node.drops().total(),
            connections: ends.stack.connections() + kernel.map_or(0, KernelStack::connections),
            buffered_bytes: ends.stack.buffered() + kernel.map_or(0, KernelStack::buffered),
        };
        if is_whole {
            for id in changed {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.is_changed = false;
                    if let Some(stats) = peer.stats(ends) {
                        shown.peers.insert(peer.public_key, stats);
                    }
                }
            }
        } else {
            self.shown_all = Some(now);
            shown.peers.clear();
            for peer in self.peers.values_mut() {
                peer.is_changed = false;
                if let Some(stats) = peer.stats(ends) {
                    shown.peers.insert(peer.public_key, stats);
                }
            }
        }
    }
}
