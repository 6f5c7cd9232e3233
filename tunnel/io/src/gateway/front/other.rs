//! What is not TCP: UDP flows, questions about names, and echo requests to the gateway itself.

use std::time::Instant;

use orfe_tunnel_core::PeerId;

use super::{
    DatagramEntry, GatewayFront, MAX_FLOWS, MAX_FLOWS_PER_PEER, MAX_QUESTIONS, MAX_QUESTIONS_PER_PEER,
};
use crate::gateway::datagrams::{self, DatagramFlow};
use crate::gateway::dns::{self, Answer};
use crate::gateway::packet::{Datagram, Inner, datagram_to_remote};
use crate::gateway::policy::{Service, Target, Transport};
use crate::netstack::Flow;

impl GatewayFront {
    pub(super) fn forget_datagrams(&mut self, flow: &Flow) {
        if let Some(entry) = self.datagrams.remove(flow)
            && let Some(peer) = self.peers.get_mut(&entry.peer)
        {
            peer.flows -= 1;
            self.note_change(entry.peer);
        }
    }

    /// What is not TCP: datagrams, and echo requests to the gateway itself.
    pub(super) fn handle_other(&mut self, id: PeerId, inner: Inner<'_>, packet: &[u8], now: Instant) {
        if let Some(datagram) = inner.datagram() {
            self.handle_datagram(id, datagram, inner, packet, now);
        } else if self.own.contains(&inner.destination)
            && let Some(reply) = inner.echo_reply()
        {
            self.answers.push(&reply, ());
        } else {
            self.count(id, |peer| &mut peer.unsupported);
        }
    }

    pub(super) fn handle_datagram(
        &mut self,
        id: PeerId,
        datagram: Datagram<'_>,
        inner: Inner<'_>,
        packet: &[u8],
        now: Instant,
    ) {
        let flow = datagram.flow;
        if let Some(entry) = self.datagrams.get(&flow) {
            let is_taken = entry.peer == id && entry.queue.push(datagram.payload);
            if !is_taken {
                self.count(id, |peer| &mut peer.overflow);
            }
            return;
        }
        let Some(peer) = self.peers.get(&id) else { return };
        match self.target(&peer.access, Transport::Udp, flow) {
            Some(Target {
                service: Service::Dns,
                ..
            }) => self.handle_question(id, datagram),
            Some(target)
                if peer.flows < MAX_FLOWS_PER_PEER && self.datagrams.len() < self.share(MAX_FLOWS) =>
            {
                self.begin_datagrams(id, datagram, target);
            }
            named => {
                let device = &peer.name;
                tracing::debug!(%device, destination = %flow.local, named = named.is_some(), "datagram refused");
                self.count(id, |peer| &mut peer.refused);
                if self.may_be_refused(id, now) {
                    self.answers.push(&inner.prohibited(packet), ());
                }
            }
        }
    }

    pub(super) fn begin_datagrams(&mut self, id: PeerId, datagram: Datagram<'_>, target: Target) {
        let Service::Upstream(upstream) = target.service.clone() else {
            return;
        };
        let (queue, outlet) = datagrams::queue();
        // The queue is new and has room.
        queue.push(datagram.payload);
        self.attempts += 1;
        let attempt = self.attempts;
        self.forwarders.carry(DatagramFlow {
            flow: datagram.flow,
            attempt,
            name: target.name.clone(),
            upstream,
            queue: outlet,
        });
        let entry = DatagramEntry {
            peer: id,
            target,
            attempt,
            queue,
        };
        self.datagrams.insert(datagram.flow, entry);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.flows += 1;
            peer.forwarded += 1;
        }
    }

    pub(super) fn handle_question(&mut self, id: PeerId, datagram: Datagram<'_>) {
        let all_questions = self.share(MAX_QUESTIONS);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match dns::answer(datagram.payload, &self.policy, &peer.access) {
            Answer::Reply(reply) => self.answer(datagram.flow, &reply),
            Answer::Ask(question) => {
                let has_room = peer.questions < MAX_QUESTIONS_PER_PEER && self.questions < all_questions;
                match self.policy.dns().resolver.filter(|_| has_room) {
                    Some(resolver) => {
                        peer.questions += 1;
                        self.questions += 1;
                        self.forwarders.ask(datagram.flow, id, resolver, question);
                    }
                    None => peer.overflow += 1,
                }
            }
            Answer::Ignore => peer.unsupported += 1,
        }
    }

    /// Sends a datagram back to the peer's end of a flow.
    pub(super) fn answer(&mut self, flow: Flow, payload: &[u8]) {
        if let Some(packet) = datagram_to_remote(flow, payload) {
            self.answers.push(&packet, ());
        }
    }
}
