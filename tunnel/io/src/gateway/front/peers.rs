//! Who the peers are: taken, changed, removed and renumbered, without touching what goes on of the others.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use orfe_tunnel_core::{PeerConfig, PeerId, PublicKey};

use super::GatewayFront;
use crate::gateway::Admitted;
use crate::gateway::counters::Peer;
use crate::gateway::policy::{Target, Transport};
use crate::netstack::{Ends, Flow};

impl GatewayFront {
    /// Has the node know exactly these peers.
    pub(super) fn set_peers(&mut self, admitted: &[Admitted], ends: &mut Ends, now: Instant) {
        let kept: HashSet<PublicKey> = admitted.iter().map(|admitted| admitted.peer.public_key).collect();
        self.peers.retain(|_, peer| {
            let keep = kept.contains(&peer.public_key);
            if !keep {
                ends.node.remove_peer(&peer.public_key);
                self.by_key.remove(&peer.public_key);
                tracing::info!(device = %peer.name, "peer removed");
            }
            keep
        });
        self.foreign.retain(|public_key| {
            let keep = kept.contains(public_key);
            if !keep {
                ends.node.remove_peer(public_key);
            }
            keep
        });
        for Admitted { peer, access } in admitted {
            let public_key = peer.public_key;
            let config = PeerConfig {
                public_key,
                preshared_key: peer.preshared_key.clone(),
                endpoint: None,
                allowed_ips: peer.allowed_ips.clone(),
                keepalive: None,
            };
            match ends.node.set_peer(config, now) {
                Ok(_) if !self.shard.owns(&public_key) => {
                    self.foreign.insert(public_key);
                }
                Ok(id) => {
                    let known = self.peers.entry(id).or_insert_with(|| Peer::new(public_key, now));
                    if *known.name != *peer.name {
                        known.name = peer.name.as_str().into();
                    }
                    known.access = access.clone();
                    self.by_key.insert(public_key, id);
                }
                Err(error) => tracing::error!(device = peer.name, %error, "peer not taken"),
            }
        }
        // What is shown is whole again at once: those gone are not in it any more.
        self.shown_all = None;
    }

    /// Ends what present peers and policy do not allow any more. A connection stays only while its peer's address still
    /// belongs to the same, present peer, and policy still leads it to the same place.
    pub(super) fn cut_what_is_not_allowed(&mut self, ends: &mut Ends, now: Instant) {
        let stays = |flow: &Flow, peer: PeerId, transport, target: &Target| {
            self.peers.get(&peer).is_some_and(|known| {
                ends.node.route(flow.remote.ip()) == Some(peer)
                    && self.target(&known.access, transport, *flow).as_ref() == Some(target)
            })
        };
        let lost: HashSet<Flow> = self
            .flows
            .iter()
            .filter(|(flow, entry)| !stays(flow, entry.peer, Transport::Tcp, &entry.target))
            .map(|(flow, _)| *flow)
            .collect();
        let lost_datagrams: Vec<Flow> = self
            .datagrams
            .iter()
            .filter(|(flow, entry)| !stays(flow, entry.peer, Transport::Udp, &entry.target))
            .map(|(flow, _)| *flow)
            .collect();
        self.cut(&lost, ends, now);
        for flow in lost_datagrams {
            self.forget_datagrams(&flow);
        }
    }

    /// Peers have other numbers, because the node that had given them is gone.
    pub(super) fn renumber(&mut self, numbers: &HashMap<PeerId, PeerId>) {
        let new = |old: &mut PeerId| {
            if let Some(number) = numbers.get(old) {
                *old = *number;
            }
        };
        self.flows.values_mut().for_each(|entry| new(&mut entry.peer));
        self.datagrams.values_mut().for_each(|entry| new(&mut entry.peer));
        self.by_key.values_mut().for_each(new);
        self.changed.clear();
        let peers = std::mem::take(&mut self.peers).into_iter();
        self.peers = peers
            .map(|(mut id, mut peer)| {
                new(&mut id);
                peer.is_changed = false;
                // Answers that are still to come know the old number and will not find the peer; they are asked for again.
                peer.questions = 0;
                (id, peer)
            })
            .collect();
    }
}
