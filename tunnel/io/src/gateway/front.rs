//! The gateway's decisions about packets, on the netstack's thread.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use orfe_tunnel_core::{Batch, Event, PeerConfig, PeerId, PublicKey};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::counters::{Peer, Resets};
use super::policy::{Policy, Target};
use super::segment::{Kind, Segment};
use super::upstream::{Forward, Forwarders};
use super::{Desired, GatewayPeer, GatewayStats, Shown};
use crate::netstack::{Ends, Flow, Front, TunnelStream};

/// Connections at once of one peer, so that one cannot use up the gateway's.
const MAX_CONNECTIONS_PER_PEER: usize = 512;
/// Connections at once whose upstream is being dialled.
const MAX_DIALLING: usize = 1024;
/// What forwarders ask of the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// The upstream is connected: let the device in.
    Admit {
        flow: Flow,
        attempt: u64,
        reply: oneshot::Sender<TunnelStream>,
    },
    /// It could not be reached: refuse the device.
    Refuse { flow: Flow, attempt: u64 },
}

#[derive(Debug)]
pub(super) struct GatewayFront {
    desired: Arc<Mutex<Desired>>,
    shown: Arc<Mutex<Shown>>,
    forwarders: Forwarders,
    policy: Policy,
    peers: HashMap<PeerId, Peer>,
    flows: HashMap<Flow, Entry>,
    dialling: usize,
    attempts: u64,
    resets: Resets,
}

/// A connection of a device.
#[derive(Debug)]
struct Entry {
    peer: PeerId,
    target: Arc<Target>,
    attempt: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The upstream is being dialled; the SYN waits.
    Dialling { syn: Vec<u8>, cancel: CancellationToken },
    /// The connection is in the stack.
    Open,
}

impl GatewayFront {
    pub(super) fn new(
        desired: Arc<Mutex<Desired>>,
        shown: Arc<Mutex<Shown>>,
        forwarders: Forwarders,
    ) -> Self {
        Self {
            desired,
            shown,
            forwarders,
            policy: Policy::default(),
            peers: HashMap::new(),
            flows: HashMap::new(),
            dialling: 0,
            attempts: 0,
            resets: Resets::default(),
        }
    }

    fn set_peers(&mut self, peers: Vec<GatewayPeer>, ends: &mut Ends, now: Instant) {
        let kept: HashSet<PublicKey> = peers.iter().map(|peer| peer.public_key).collect();
        self.peers.retain(|_, peer| {
            let keep = kept.contains(&peer.public_key);
            if !keep {
                ends.node.remove_peer(&peer.public_key);
                tracing::info!(device = %peer.name, "peer removed");
            }
            keep
        });
        for GatewayPeer {
            public_key,
            preshared_key,
            allowed_ips,
            name,
        } in peers
        {
            let config = PeerConfig {
                public_key,
                preshared_key,
                endpoint: None,
                allowed_ips,
                keepalive: None,
            };
            match ends.node.set_peer(config, now) {
                Ok(id) => {
                    let peer = self.peers.entry(id).or_insert_with(|| Peer::new(public_key));
                    if *peer.name != *name {
                        peer.name = name.into();
                    }
                }
                Err(error) => tracing::error!(device = name, %error, "peer not taken"),
            }
        }
        // A connection stays only while its device's address still belongs to the same, present peer.
        let (known, node) = (&self.peers, &ends.node);
        let lost: HashSet<Flow> = self
            .flows
            .iter()
            .filter(|(flow, entry)| {
                !known.contains_key(&entry.peer) || node.route(flow.remote.ip()) != Some(entry.peer)
            })
            .map(|(flow, _)| *flow)
            .collect();
        self.cut(&lost, ends);
    }

    fn set_policy(&mut self, policy: Policy, ends: &mut Ends) {
        self.policy = policy;
        let lost: HashSet<Flow> = self
            .flows
            .iter()
            .filter(|(flow, entry)| self.policy.target(flow.local) != Some(&entry.target))
            .map(|(flow, _)| *flow)
            .collect();
        self.cut(&lost, ends);
    }

    fn cut(&mut self, lost: &HashSet<Flow>, ends: &mut Ends) {
        if lost.is_empty() {
            return;
        }
        ends.stack.abort_where(|flow| lost.contains(flow));
        for flow in lost {
            // Open ones go when the stack lets go of them.
            if let Some(syn) = self.forget_dialling(flow) {
                ends.stack.push(&syn);
            }
        }
    }

    /// Forgets a connection whose upstream is being dialled; its SYN, given to the stack, is answered with a reset.
    fn forget_dialling(&mut self, flow: &Flow) -> Option<Vec<u8>> {
        let entry = self.flows.get_mut(flow)?;
        let Stage::Dialling { syn, cancel } = &mut entry.stage else {
            return None;
        };
        cancel.cancel();
        let syn = std::mem::take(syn);
        self.dialling -= 1;
        self.forget(flow);
        Some(syn)
    }

    fn forget(&mut self, flow: &Flow) {
        if let Some(entry) = self.flows.remove(flow)
            && let Some(peer) = self.peers.get_mut(&entry.peer)
        {
            peer.connections -= 1;
        }
    }

    fn handle_packet(&mut self, id: PeerId, packet: &[u8], ends: &mut Ends, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(segment) = Segment::parse(packet) else {
            peer.dropped += 1;
            return;
        };
        match self.flows.get_mut(&segment.flow) {
            Some(entry) if entry.peer != id => peer.dropped += 1,
            Some(Entry {
                stage: Stage::Open, ..
            }) => ends.stack.push(packet),
            Some(Entry {
                stage: Stage::Dialling { syn, .. },
                ..
            }) => match segment.kind {
                // A retransmission, or a new attempt from the same port: the latest counts.
                Kind::Syn => packet.clone_into(syn),
                Kind::Reset => drop(self.forget_dialling(&segment.flow)),
                Kind::Other => peer.dropped += 1,
            },
            None => self.handle_stranger(id, segment, packet, ends, now),
        }
    }

    /// A segment of no known connection.
    fn handle_stranger(
        &mut self,
        id: PeerId,
        segment: Segment,
        packet: &[u8],
        ends: &mut Ends,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if segment.kind == Kind::Syn {
            let has_room = peer.connections < MAX_CONNECTIONS_PER_PEER && self.dialling < MAX_DIALLING;
            match self.policy.target(segment.flow.local) {
                Some(target) if has_room => {
                    let target = Arc::clone(target);
                    peer.connections += 1;
                    self.attempts += 1;
                    let forward = Forward {
                        flow: segment.flow,
                        attempt: self.attempts,
                        device: Arc::clone(&peer.name),
                        target: Arc::clone(&target),
                    };
                    let stage = Stage::Dialling {
                        syn: packet.to_vec(),
                        cancel: self.forwarders.start(forward),
                    };
                    self.dialling += 1;
                    self.flows.insert(
                        segment.flow,
                        Entry {
                            peer: id,
                            target,
                            attempt: self.attempts,
                            stage,
                        },
                    );
                    return;
                }
                named => {
                    peer.refused += 1;
                    let device = &peer.name;
                    tracing::debug!(%device, destination = %segment.flow.local, named = named.is_some(), "refused");
                }
            }
        } else {
            peer.dropped += 1;
        }
        if segment.kind != Kind::Reset && self.resets.admit(now) {
            // The stack knows no such connection, and so answers with a reset.
            ends.stack.push(packet);
        }
    }

    fn admit(
        &mut self,
        flow: Flow,
        attempt: u64,
        reply: oneshot::Sender<TunnelStream>,
        ends: &mut Ends,
        now: Instant,
    ) {
        let Some(entry) = self.flows.get_mut(&flow).filter(|entry| entry.attempt == attempt) else {
            return;
        };
        let Stage::Dialling { syn, .. } = &mut entry.stage else {
            return;
        };
        let syn = std::mem::take(syn);
        if let Some(stream) = ends.stack.accept(flow, &syn, now) {
            entry.stage = Stage::Open;
            self.dialling -= 1;
            if let Some(peer) = self.peers.get_mut(&entry.peer) {
                peer.forwarded += 1;
            }
            // If the forwarder is gone, dropping the stream resets the connection.
            drop(reply.send(stream));
        } else {
            tracing::warn!(destination = %flow.local, "no room for a connection in the TCP stack");
            self.refuse(flow, attempt, ends, |peer| &mut peer.refused);
            ends.stack.push(&syn);
        }
    }

    fn refuse(
        &mut self,
        flow: Flow,
        attempt: u64,
        ends: &mut Ends,
        counter: impl FnOnce(&mut Peer) -> &mut u64,
    ) {
        let Some(entry) = self.flows.get(&flow).filter(|entry| entry.attempt == attempt) else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(&entry.peer) {
            *counter(peer) += 1;
        }
        if let Some(syn) = self.forget_dialling(&flow)
            && !syn.is_empty()
        {
            ends.stack.push(&syn);
        }
    }
}

impl Front for GatewayFront {
    type Command = Command;

    fn reconcile(&mut self, ends: &mut Ends, now: Instant) -> bool {
        let desired = std::mem::take(&mut *self.desired.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(policy) = desired.policy {
            self.set_policy(policy, ends);
        }
        let are_declared = desired.peers.is_some();
        if let Some(peers) = desired.peers {
            self.set_peers(peers, ends, now);
        }
        are_declared
    }

    fn handle_command(&mut self, command: Command, ends: &mut Ends, now: Instant) {
        match command {
            Command::Admit { flow, attempt, reply } => self.admit(flow, attempt, reply, ends, now),
            Command::Refuse { flow, attempt } => self.refuse(flow, attempt, ends, |peer| &mut peer.failed),
        }
    }

    fn handle_packets(&mut self, packets: &Batch<PeerId>, ends: &mut Ends, now: Instant) {
        for (packet, id) in packets.iter() {
            self.handle_packet(*id, packet, ends, now);
        }
    }

    fn handle_event(&mut self, event: Event) {
        tracing::debug!(?event, "peer");
    }

    fn handle_closed(&mut self, flow: Flow) {
        self.forget(&flow);
    }

    fn publish(&mut self, ends: &Ends, _now: Instant) {
        let peers = self.peers.values().filter_map(|peer| peer.stats(ends)).collect();
        let total = GatewayStats {
            dropped: ends.node.drops().total(),
            connections: ends.stack.connections(),
            buffered_bytes: ends.stack.buffered(),
        };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Shown { peers, total };
    }
}
