//! TCP: a connection from its first segment to its end.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use orfe_tunnel_core::PeerId;
use tokio::sync::oneshot;

use super::{Entry, GatewayFront, MAX_CONNECTIONS_PER_PEER, MAX_DIALLING, Stage};
use crate::gateway::counters::Peer;
use crate::gateway::policy::{Service, Target, Transport};
use crate::gateway::segment::{Kind, Segment};
use crate::gateway::upstream::{By, PeerConnection};
use crate::netstack::{Accepted, Ends, Flow, Number};

impl GatewayFront {
    pub(super) fn cut(&mut self, lost: &HashSet<Flow>, ends: &mut Ends, now: Instant) {
        if lost.is_empty() {
            return;
        }
        ends.stack.abort_where(|flow| lost.contains(flow));
        for flow in lost {
            // Open ones go when the stack lets go of them.
            if let Some(syn) = self.forget_dialling(flow) {
                ends.stack.push(&syn);
            } else if let Some(number) = self.carried(flow) {
                if let Some(kernel) = &mut ends.kernel {
                    kernel.abort(number, now);
                }
                self.forget(flow);
            }
        }
    }

    /// The kernel's number of a connection that it has.
    fn carried(&self, flow: &Flow) -> Option<Number> {
        match self.flows.get(flow)?.stage {
            Stage::Carried(number) => Some(number),
            Stage::Dialling { .. } | Stage::Open => None,
        }
    }

    /// The task of a connection has ended.
    pub(super) fn leave(&mut self, flow: Flow, attempt: u64, ends: &mut Ends, now: Instant) {
        let is_it = self
            .flows
            .get(&flow)
            .is_some_and(|entry| entry.attempt == attempt);
        if let Some(number) = self.carried(&flow).filter(|_| is_it)
            && let Some(kernel) = &mut ends.kernel
        {
            kernel.leave(number, now);
        }
    }

    /// Forgets a connection whose upstream is being dialled; its SYN, given to the stack, is answered with a reset.
    pub(super) fn forget_dialling(&mut self, flow: &Flow) -> Option<Vec<u8>> {
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

    pub(super) fn forget(&mut self, flow: &Flow) {
        if let Some(entry) = self.flows.remove(flow)
            && let Some(peer) = self.peers.get_mut(&entry.peer)
        {
            peer.connections -= 1;
            self.note_change(entry.peer);
        }
    }

    pub(super) fn handle_segment(
        &mut self,
        id: PeerId,
        segment: Segment,
        packet: &[u8],
        ends: &mut Ends,
        now: Instant,
    ) {
        match self.flows.get_mut(&segment.flow) {
            Some(entry) if entry.peer != id => self.count(id, |peer| &mut peer.unsupported),
            Some(Entry {
                stage: Stage::Open, ..
            }) => ends.stack.push(packet),
            Some(Entry {
                stage: Stage::Carried(number),
                ..
            }) => {
                let number = *number;
                let Some(kernel) = &mut ends.kernel else { return };
                if segment.kind == Kind::Syn && kernel.is_left(number) {
                    // A new connection from the port of one whose end may still be under way.
                    kernel.abort(number, now);
                    self.forget(&segment.flow);
                    self.handle_stranger(id, segment, packet, ends, now);
                } else {
                    kernel.push(number, packet, now);
                }
            }
            Some(Entry {
                stage: Stage::Dialling { syn, .. },
                ..
            }) => match segment.kind {
                // A retransmission, or a new attempt from the same port: the latest counts.
                Kind::Syn => packet.clone_into(syn),
                Kind::Reset => drop(self.forget_dialling(&segment.flow)),
                Kind::Other => self.count(id, |peer| &mut peer.unsupported),
            },
            None => self.handle_stranger(id, segment, packet, ends, now),
        }
    }

    /// A segment of no known connection.
    pub(super) fn handle_stranger(
        &mut self,
        id: PeerId,
        segment: Segment,
        packet: &[u8],
        ends: &mut Ends,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get(&id) else { return };
        if segment.kind == Kind::Syn {
            let has_room =
                peer.connections < MAX_CONNECTIONS_PER_PEER && self.dialling < self.share(MAX_DIALLING);
            match self.target(&peer.access, Transport::Tcp, segment.flow) {
                Some(target) if has_room => return self.begin(id, segment.flow, target, packet),
                named => {
                    let device = &peer.name;
                    tracing::debug!(%device, destination = %segment.flow.local, named = named.is_some(), "refused");
                    self.count(id, |peer| &mut peer.refused);
                }
            }
        } else {
            self.count(id, |peer| &mut peer.unsupported);
        }
        if segment.kind != Kind::Reset && self.may_be_refused(id, now) {
            // The stack knows no such connection, and so answers with a reset.
            ends.stack.push(packet);
        }
    }

    /// Starts to dial for a SYN.
    pub(super) fn begin(&mut self, id: PeerId, flow: Flow, target: Target, syn: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.connections += 1;
        self.attempts += 1;
        let attempt = self.attempts;
        let by = match target.service.clone() {
            Service::Upstream(upstream) => By::Upstream(upstream),
            Service::Dns => By::Dns {
                policy: Arc::clone(&self.policy),
                access: peer.access.clone(),
            },
        };
        let cancel = self.forwarders.start(PeerConnection {
            flow,
            attempt,
            device: Arc::clone(&peer.name),
            name: target.name.clone(),
            by,
        });
        let stage = Stage::Dialling {
            syn: syn.to_vec(),
            cancel,
        };
        self.dialling += 1;
        self.flows.insert(
            flow,
            Entry {
                peer: id,
                target,
                attempt,
                stage,
            },
        );
    }

    pub(super) fn admit(
        &mut self,
        flow: Flow,
        attempt: u64,
        reply: oneshot::Sender<Accepted>,
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
        if let Some(stage) = let_in(flow, &syn, reply, ends, now) {
            entry.stage = stage;
            self.dialling -= 1;
            if let Some(peer) = self.peers.get_mut(&entry.peer) {
                peer.forwarded += 1;
            }
        } else {
            let peer = entry.peer;
            if self.may_be_warned_of(peer, now) {
                tracing::warn!(destination = %flow.local, "no room for a connection in the TCP stack");
            }
            self.refuse(flow, attempt, ends, |peer| &mut peer.refused);
            ends.stack.push(&syn);
        }
    }

    /// The upstream could not be reached.
    pub(super) fn fail(
        &mut self,
        flow: Flow,
        attempt: u64,
        error: &io::Error,
        ends: &mut Ends,
        now: Instant,
    ) {
        if let Some(entry) = self.flows.get(&flow).filter(|entry| entry.attempt == attempt)
            && let Service::Upstream(upstream) = &entry.target.service
            && let Some(peer) = self.peers.get_mut(&entry.peer)
        {
            let may_warn = peer.may_be_warned_of(now);
            let (device, destination) = (&peer.name, &entry.target.name);
            if may_warn {
                tracing::warn!(%device, destination, %upstream, %error, "upstream not reached");
            } else {
                tracing::debug!(%device, destination, %upstream, %error, "upstream not reached");
            }
        }
        self.refuse(flow, attempt, ends, |peer| &mut peer.failed);
    }

    fn may_be_warned_of(&mut self, id: PeerId, now: Instant) -> bool {
        (self.peers.get_mut(&id)).is_some_and(|peer| peer.may_be_warned_of(now))
    }

    pub(super) fn refuse(
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

/// Gives a SYN to the TCP that is to have its connection. `None` when that has no room.
fn let_in(
    flow: Flow,
    syn: &[u8],
    reply: oneshot::Sender<Accepted>,
    ends: &mut Ends,
    now: Instant,
) -> Option<Stage> {
    if let Some(kernel) = ends.kernel.as_mut().filter(|kernel| kernel.can_carry(&flow)) {
        return kernel.accept(flow, syn, reply, now).map(Stage::Carried);
    }
    let stream = ends.stack.accept(flow, syn, now)?;
    // If the forwarder is gone, dropping the stream resets the connection.
    drop(reply.send(Accepted::Smoltcp(stream)));
    Some(Stage::Open)
}
