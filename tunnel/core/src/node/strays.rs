//! Datagrams for other shards of the gateway that this node is one of.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Node, PeerId};
use crate::batch::Batch;
use crate::datagrams::Datagrams;
use crate::engine::Engine;
use crate::shard::{Claim, Shard, Stray};

/// Strays kept until they are polled. A caller polls after each batch that it received; what is beyond is lost, as on a
/// full link.
const MAX_STRAYS: usize = 1024;

impl<E: Engine> Node<E> {
    /// Which part of a gateway this is.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// What came here and is for another shard, to be handed to [`Node::handle_stray`] there; oldest first.
    pub fn drain_strays(&mut self) -> impl Iterator<Item = Stray> {
        self.strays.drain(..)
    }

    /// Takes what landed at another shard. An initiation has passed the limits there and is not held to them again.
    pub fn handle_stray(
        &mut self,
        stray: &Stray,
        now: Instant,
        packets: &mut Batch<PeerId>,
        out: &mut Datagrams,
    ) {
        match stray.claim {
            None => self.handle_run(&stray.bytes, stray.stride, stray.source, now, packets, out),
            Some(claim) if claim.receiver == self.public_key => {
                self.catch_up(now, out);
                self.answer_initiation(&claim.peer, &stray.bytes, stray.source, out);
            }
            // For the gateway's other key, or one that is good no more.
            Some(_) => {}
        }
    }

    /// Counts datagrams that could not be handed over.
    pub fn note_lost_strays(&mut self, datagrams: u64) {
        self.drops.strays += datagrams;
    }

    /// Keeps datagrams of one session, `first` and `more`, for the shard that gave out its index.
    pub(super) fn stray<'a>(
        &mut self,
        shard: u8,
        first: &[u8],
        more: impl Iterator<Item = &'a [u8]>,
        source: SocketAddr,
    ) {
        if shard >= self.shard.count() {
            self.drops.unknown_index += 1 + more.count() as u64;
            return;
        }
        let mut bytes = first.to_vec();
        more.for_each(|datagram| bytes.extend_from_slice(datagram));
        self.keep_stray(Stray {
            shard,
            source,
            bytes,
            stride: first.len(),
            claim: None,
        });
    }

    /// Keeps an initiation that is known to be for another shard's peer.
    pub(super) fn stray_initiation(&mut self, claim: Claim, datagram: &[u8], source: SocketAddr) {
        self.keep_stray(Stray {
            shard: self.shard.number_of(&claim.peer),
            source,
            bytes: datagram.to_vec(),
            stride: datagram.len(),
            claim: Some(claim),
        });
    }

    fn keep_stray(&mut self, stray: Stray) {
        if self.strays.len() < MAX_STRAYS {
            self.strays.push(stray);
        } else {
            self.drops.strays += stray.datagrams() as u64;
        }
    }
}
