//! A gateway of several threads, each with a node, a socket and a TCP stack of its own.
//!
//! A peer belongs to one shard, by its public key. Every node knows all peers, so that the table of allowed IPs is the whole
//! gateway's in each, but only the peer's own shard ever has a session with it, and the indices of that session name the
//! shard: their bits 8 and 9 are its number. Whoever passes datagrams on reads them there; a kernel with a filter does so
//! before the datagram is read at all.
//!
//! A handshake initiation names nobody before a curve was computed, so it is taken wherever it lands. Any datagram that is for
//! another shard becomes a [`Stray`], for the caller to hand over.

use std::net::SocketAddr;

use crate::key::PublicKey;

/// Most shards of a gateway. As many as the two bits of a session index can tell apart.
pub const MAX_SHARDS: u8 = 1 << SHARD_BITS;

/// Bits of a peer's number that name its shard.
const SHARD_BITS: u32 = 2;
/// The lower bits of a session index count the sessions of its peer.
const SESSION_BITS: u32 = 8;

/// Which part of a gateway a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u8,
    count: u8,
}

impl Shard {
    /// The only one: all peers are its own, and session indices carry nothing.
    pub const WHOLE: Self = Self { number: 0, count: 1 };

    /// The shard with this number, from 0, of `count`. `None` when there is no such, or `count` is above [`MAX_SHARDS`].
    #[must_use]
    pub fn new(number: u8, count: u8) -> Option<Self> {
        (number < count && count <= MAX_SHARDS).then_some(Self { number, count })
    }

    /// Its number, from 0.
    #[must_use]
    pub fn number(self) -> u8 {
        self.number
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u8 {
        self.count
    }

    /// Whether a peer is this shard's.
    #[must_use]
    pub fn owns(self, peer: &PublicKey) -> bool {
        self.number_of(peer) == self.number
    }

    /// The number of the peer's shard. A public key is as good as random; who searches for one that crowds a shard does so
    /// with keys that the gateway's owner has to admit one by one.
    pub(crate) fn number_of(self, peer: &PublicKey) -> u8 {
        let [a, b, c, d, ..] = *peer.as_bytes();
        // Less than `count`, which is a `u8`.
        (u32::from_le_bytes([a, b, c, d]) % u32::from(self.count)) as u8
    }

    /// The shard that gave out a session index; `None` for this one. The number may be one that does not exist.
    pub(crate) fn elsewhere(self, index: u32) -> Option<u8> {
        let number = (index >> SESSION_BITS) as u8 & (MAX_SHARDS - 1);
        (self.count > 1 && number != self.number).then_some(number)
    }

    /// A peer's number, 24 bits, made of as many random ones.
    pub(crate) fn stamp(self, random: u32, peer: &PublicKey) -> u32 {
        if self.count == 1 {
            return random;
        }
        random & !(u32::from(MAX_SHARDS) - 1) | u32::from(self.number_of(peer))
    }
}

/// Datagrams of one source for another shard, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The shard that they are for; it exists.
    pub shard: u8,
    /// Where they come from.
    pub source: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    /// Length of each but the last.
    pub(crate) stride: usize,
    /// For a handshake initiation, what the shard that got it found out.
    pub(crate) claim: Option<Claim>,
}

/// An initiation that is within the limits and whose MAC was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The static key that it was made for.
    pub(crate) receiver: PublicKey,
    /// The static key in it; not proved yet.
    pub(crate) peer: PublicKey,
}

impl Stray {
    /// Bytes of the datagrams together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing in it; never of one that a node made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many datagrams these are.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.stride.max(1))
    }

    /// Whether this is a handshake initiation. All else is found by its index.
    #[must_use]
    pub fn is_initiation(&self) -> bool {
        self.claim.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;

    #[test]
    fn there_are_as_many_as_the_bits_tell_apart() {
        assert_eq!(Shard::new(0, 1), Some(Shard::WHOLE));
        assert!(Shard::new(3, 4).is_some());
        for (number, count) in [(0, 0), (1, 1), (4, 4), (0, 5)] {
            assert_eq!(Shard::new(number, count), None, "{number} of {count}");
        }
    }

    #[test]
    fn an_index_names_the_shard_of_its_peer() {
        for count in 1..=MAX_SHARDS {
            let shards: Vec<Shard> = (0..count)
                .filter_map(|number| Shard::new(number, count))
                .collect();
            for random in [0, 0x00ab_cdef, 0x00ff_ffff] {
                let key = PrivateKey::generate().public_key();
                let owners: Vec<&Shard> = shards.iter().filter(|shard| shard.owns(&key)).collect();
                assert_eq!(owners.len(), 1, "one owner");
                let index = shards[0].stamp(random, &key) << SESSION_BITS | 0xff;
                for shard in &shards {
                    let expected = (shard != owners[0]).then(|| owners[0].number());
                    assert_eq!(shard.elsewhere(index), expected);
                }
            }
        }
    }

    #[test]
    fn the_only_shard_leaves_numbers_as_they_are() {
        let key = PrivateKey::generate().public_key();
        assert_eq!(Shard::WHOLE.stamp(0x00ab_cdef, &key), 0x00ab_cdef);
        assert_eq!(Shard::WHOLE.elsewhere(u32::MAX), None);
    }
}
