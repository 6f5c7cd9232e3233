//! Memory for the bytes of all connections of a stack.
//!
//! Bytes lie in blocks of one size, which one pool gives out and takes back, and they lie there once: what the application
//! wrote waits, is in flight and is sent again from the same block; only its owner changes. So what is held is what is
//! buffered, rounded up to blocks, however large windows are. The pool knows how much that is; who would like more
//! than the least that a connection needs to go on asks it first.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a block. Small, because of a thousand connections most hold a few bytes, if any.
pub(super) const BLOCK: usize = 4 << 10;
/// What a connection takes beside its bytes, the proxy's part of it included. It counts as given out, so that many connections
/// leave less to each of them and all together stay within one bound.
pub(super) const CONNECTION: usize = 12 << 10;
/// Blocks that are kept for the next one who asks. The rest goes back to the allocator.
const SPARE: usize = 256;

type Bytes = Box<[u8]>;

/// Where blocks come from and go to.
pub(super) struct Pool {
    limit: usize,
    /// Bytes given out.
    taken: AtomicUsize,
    spare: Mutex<Vec<Bytes>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limit", &self.limit)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool that has `limit` bytes for those who can do with less.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: AtomicUsize::new(0),
            spare: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes given out, in whole blocks, and what connections take beside.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Bytes that may still be given to those who can do with less.
    pub(super) fn free(&self) -> usize {
        self.limit.saturating_sub(self.taken())
    }

    /// A connection comes.
    pub(super) fn enter(&self) {
        self.taken.fetch_add(CONNECTION, Ordering::Relaxed);
    }

    /// A connection that came is gone.
    pub(super) fn leave(&self) {
        self.taken.fetch_sub(CONNECTION, Ordering::Relaxed);
    }

    fn take(&self) -> Bytes {
        self.taken.fetch_add(BLOCK, Ordering::Relaxed);
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| vec![0; BLOCK].into_boxed_slice())
    }

    fn give_back(&self, bytes: Bytes) {
        self.taken.fetch_sub(BLOCK, Ordering::Relaxed);
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(bytes);
        }
    }
}

#[derive(Debug)]
struct Block {
    bytes: Bytes,
    /// What of it is in use.
    start: usize,
    end: usize,
    /// Place of the first byte in the queue's count.
    position: u64,
}

impl Block {
    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

/// A queue of bytes that are counted from the first one ever queued.
#[derive(Debug)]
pub(super) struct Queue {
    pool: Arc<Pool>,
    blocks: VecDeque<Block>,
    begin: u64,
    end: u64,
}

impl Queue {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            blocks: VecDeque::new(),
            begin: 0,
            end: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        (self.end - self.begin) as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// Bytes ever queued.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let has_room = self.blocks.back().is_some_and(|block| block.end < BLOCK);
            if !has_room {
                self.blocks.push_back(Block {
                    bytes: self.pool.take(),
                    start: 0,
                    end: 0,
                    position: self.end,
                });
            }
            let Some(block) = self.blocks.back_mut() else {
                return;
            };
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - block.end));
            block.bytes[block.end..][..now.len()].copy_from_slice(now);
            block.end += now.len();
            self.end += now.len() as u64;
            bytes = later;
        }
    }

    /// Moves the first block of `other` behind this queue.
    pub(super) fn take_block(&mut self, other: &mut Self) {
        let Some(mut block) = other.blocks.pop_front() else {
            return;
        };
        let len = block.end - block.start;
        other.begin += len as u64;
        // What fits into the last block goes there, so that two neighbours are never both nearly empty.
        if self.blocks.back().is_some_and(|last| BLOCK - last.end >= len) {
            self.push(block.filled());
            self.pool.give_back(block.bytes);
        } else {
            block.position = self.end;
            self.end += len as u64;
            self.blocks.push_back(block);
        }
        other.tidy();
    }

    /// Moves all of `other` behind this queue.
    pub(super) fn take_all(&mut self, other: &mut Self) {
        while !other.is_empty() {
            self.take_block(other);
        }
    }

    /// The first bytes, as many as lie together. Empty when there are none.
    pub(super) fn front(&self) -> &[u8] {
        self.blocks.front().map_or(&[], Block::filled)
    }

    /// Lets go of the first `len` bytes.
    pub(super) fn consume(&mut self, len: usize) {
        let mut left = len.min(self.len());
        self.begin += left as u64;
        while let Some(block) = self.blocks.front_mut() {
            let part = left.min(block.end - block.start);
            block.start += part;
            block.position += part as u64;
            left -= part;
            if block.start < block.end {
                break;
            }
            if let Some(block) = self.blocks.pop_front() {
                self.pool.give_back(block.bytes);
            }
        }
        self.tidy();
    }

    /// Copies what begins at `position` to `out`, which it must fill.
    pub(super) fn copy(&self, position: u64, mut out: &mut [u8]) {
        let after = self.blocks.partition_point(|block| block.position <= position);
        let mut index = after.saturating_sub(1);
        let mut skipped = self
            .blocks
            .get(index)
            .map_or(0, |block| position.saturating_sub(block.position) as usize);
        while !out.is_empty()
            && let Some(block) = self.blocks.get(index)
        {
            let from = block.filled().get(skipped..).unwrap_or_default();
            let len = from.len().min(out.len());
            out[..len].copy_from_slice(&from[..len]);
            out = &mut out[len..];
            (index, skipped) = (index + 1, 0);
        }
    }

    pub(super) fn clear(&mut self) {
        self.consume(self.len());
    }

    /// The list of many blocks is no more needed when they are gone.
    fn tidy(&mut self) {
        if self.blocks.is_empty() && self.blocks.capacity() > 8 {
            self.blocks = VecDeque::new();
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        for block in self.blocks.drain(..) {
            self.pool.give_back(block.bytes);
        }
    }
}

/// Bytes of a stream that came before those in front of them.
#[derive(Debug)]
pub(super) struct Islands {
    pool: Arc<Pool>,
    /// Number of the first block, counted from the stream's begin.
    first: u64,
    blocks: VecDeque<Option<Bytes>>,
    /// What is there, in order and with gaps between.
    ranges: VecDeque<(u64, u64)>,
}

/// Islands at most: each costs time when something comes, and beyond it what comes is dropped, to be sent again.
const MAX_ISLANDS: usize = 1024;

impl Islands {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            first: 0,
            blocks: VecDeque::new(),
            ranges: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Where the first one begins and ends.
    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.ranges.front().copied()
    }

    /// Where the last one ends; 0 when there is none.
    pub(super) fn end(&self) -> u64 {
        self.ranges.back().map_or(0, |(_, end)| *end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().copied()
    }

    /// The one with the byte at `position`.
    pub(super) fn around(&self, position: u64) -> Option<(u64, u64)> {
        let index = self.ranges.partition_point(|(start, _)| *start <= position);
        let range = *self.ranges.get(index.checked_sub(1)?)?;
        (position < range.1).then_some(range)
    }

    /// Keeps `bytes` that belong at `start`, where nothing before the first block may be. False when there is no room.
    pub(super) fn insert(&mut self, start: u64, bytes: &[u8]) -> bool {
        let end = start + bytes.len() as u64;
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = self.ranges.partition_point(|range| range.0 <= end);
        if from == to && self.ranges.len() >= MAX_ISLANDS {
            return false;
        }
        self.store(start, bytes);
        let mut merged = (start, end);
        for range in self.ranges.drain(from..to) {
            merged = (merged.0.min(range.0), merged.1.max(range.1));
        }
        self.ranges.insert(from, merged);
        true
    }

    fn store(&mut self, start: u64, mut bytes: &[u8]) {
        let number = |position: u64| position / BLOCK as u64;
        if self.blocks.is_empty() {
            self.first = number(start);
        }
        while number(start) < self.first {
            self.blocks.push_front(None);
            self.first -= 1;
        }
        let mut position = start;
        while !bytes.is_empty() {
            let index = (number(position) - self.first) as usize;
            if self.blocks.len() <= index {
                self.blocks.resize_with(index + 1, || None);
            }
            let block = self.blocks[index].get_or_insert_with(|| self.pool.take());
            let offset = (position % BLOCK as u64) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - offset));
            block[offset..][..now.len()].copy_from_slice(now);
            position += now.len() as u64;
            bytes = later;
        }
    }

    /// Moves what lies at `position` to `queue`, if anything does. Where it ends.
    pub(super) fn take(&mut self, mut position: u64, queue: &mut Queue) -> u64 {
        while let Some((start, end)) = self.first().filter(|(start, _)| *start <= position) {
            self.ranges.pop_front();
            let mut from = start.max(position);
            while from < end {
                let index = (from / BLOCK as u64 - self.first) as usize;
                let offset = (from % BLOCK as u64) as usize;
                let len = (end - from).min((BLOCK - offset) as u64) as usize;
                if let Some(Some(block)) = self.blocks.get(index) {
                    queue.push(&block[offset..offset + len]);
                }
                from += len as u64;
            }
            position = position.max(end);
        }
        let until = if self.ranges.is_empty() {
            u64::MAX
        } else {
            position / BLOCK as u64
        };
        while self.first < until
            && let Some(block) = self.blocks.pop_front()
        {
            self.first += 1;
            if let Some(bytes) = block {
                self.pool.give_back(bytes);
            }
        }
        if self.blocks.is_empty() && self.blocks.capacity() > 8 {
            self.blocks = VecDeque::new();
        }
        position
    }
}

impl Drop for Islands {
    fn drop(&mut self) {
        for bytes in self.blocks.drain(..).flatten() {
            self.pool.give_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
