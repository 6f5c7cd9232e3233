//! A reusable batch of packets in one buffer.
//!
//! Packets lie one after another in a single allocation that only grows, so a loop that clears and refills its batches
//! allocates nothing once it is warm. Each packet starts at a multiple of 16 and is followed by zeros up to the next one:
//! the padding that `WireGuard` asks for is there without a copy.

use std::ops::Range;

/// Alignment of each packet, and the unit of `WireGuard`'s padding.
const ALIGN: usize = 16;

/// Packets, each with its `M`: a peer, an address, or nothing.
#[derive(Debug, Default)]
pub struct Batch<M> {
    bytes: Vec<u8>,
    items: Vec<(Range<usize>, M)>,
    /// End of the last packet, rounded up to [`ALIGN`].
    end: usize,
}

impl<M> Batch<M> {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            items: Vec::new(),
            end: 0,
        }
    }

    /// Forgets the packets and keeps the memory.
    pub fn clear(&mut self) {
        self.items.clear();
        self.end = 0;
    }

    /// Number of packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no packet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The packet at `index`, with what belongs to it.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(&[u8], &M)> {
        let (range, meta) = self.items.get(index)?;
        Some((&self.bytes[range.clone()], meta))
    }

    /// The packet at `index`, to be changed in place.
    pub fn get_mut(&mut self, index: usize) -> Option<(&mut [u8], &M)> {
        let (range, meta) = self.items.get(index)?;
        Some((&mut self.bytes[range.clone()], meta))
    }

    /// The packets in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &M)> {
        self.items
            .iter()
            .map(|(range, meta)| (&self.bytes[range.clone()], meta))
    }

    /// Forgets the packets for which `keep` is false; the others stay where they are.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &M) -> bool) {
        let bytes = &self.bytes;
        self.items
            .retain(|(range, meta)| keep(&bytes[range.clone()], meta));
    }

    /// The packet at `index` with zeros behind it up to a multiple of 16 bytes, and its own length.
    pub(crate) fn padded(&self, index: usize) -> Option<(&[u8], usize)> {
        let (range, _) = self.items.get(index)?;
        let end = range.end.next_multiple_of(ALIGN).min(self.bytes.len());
        Some((self.bytes.get(range.start..end)?, range.len()))
    }

    /// Appends a copy of `packet`.
    pub fn push(&mut self, packet: &[u8], meta: M) {
        self.reserve(packet.len())[..packet.len()].copy_from_slice(packet);
        self.commit(packet.len(), meta);
    }

    /// At least `len` writable bytes behind the last packet; what is written becomes a packet by [`Batch::commit`].
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        let needed = self.end + len.next_multiple_of(ALIGN);
        if self.bytes.len() < needed {
            self.bytes.resize(needed, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Makes the first `len` of the reserved bytes a packet. `len` beyond what was reserved is cut.
    pub fn commit(&mut self, len: usize, meta: M) {
        let start = self.end;
        let stop = (start + len).min(self.bytes.len());
        self.end = stop.next_multiple_of(ALIGN).min(self.bytes.len());
        self.bytes[stop..self.end].fill(0);
        self.items.push((start..stop, meta));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_in_order_and_padding_is_zero_after_reuse() {
        let mut batch = Batch::new();
        batch.push(&[0xff; 64], 'x');
        batch.clear();
        batch.push(&[1; 17], 'a');
        batch.push(&[2; 16], 'b');
        batch.push(&[], 'c');
        let seen: Vec<(Vec<u8>, char)> = batch
            .iter()
            .map(|(bytes, meta)| (bytes.to_vec(), *meta))
            .collect();
        assert_eq!(seen, [(vec![1; 17], 'a'), (vec![2; 16], 'b'), (vec![], 'c')]);
        assert_eq!(
            batch.padded(0),
            Some(([&[1u8; 17][..], &[0; 15]].concat().as_slice(), 17))
        );
        assert_eq!(batch.padded(1), Some((&[2u8; 16][..], 16)));
        assert_eq!(batch.padded(2), Some((&[][..], 0)));
        assert_eq!(batch.padded(3), None);
    }

    #[test]
    fn what_is_not_kept_is_gone_and_the_rest_is_unharmed() {
        let mut batch = Batch::new();
        for byte in 1..=3 {
            batch.push(&[byte; 17], byte);
        }
        batch.retain(|packet, byte| packet[0] == *byte && *byte != 2);
        batch.push(&[4; 3], 4);
        let seen: Vec<Vec<u8>> = batch.iter().map(|(bytes, _)| bytes.to_vec()).collect();
        assert_eq!(seen, [vec![1; 17], vec![3; 17], vec![4; 3]]);
        assert_eq!(
            batch.padded(1),
            Some(([&[3u8; 17][..], &[0; 15]].concat().as_slice(), 17))
        );
    }

    #[test]
    fn a_reservation_that_is_not_committed_leaves_nothing() {
        let mut batch = Batch::new();
        batch.reserve(100)[..3].copy_from_slice(b"abc");
        assert!(batch.is_empty());
        batch.push(b"de", ());
        assert_eq!(batch.get(0), Some((&b"de"[..], &())));
        assert_eq!(batch.get(1), None);
    }
}
