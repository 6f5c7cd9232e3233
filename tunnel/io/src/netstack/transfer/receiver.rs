//! What the other end sends: in order to the application, out of order kept until the gap is filled.
//!
//! ```text
//!   segment ─ next one ──────────────► ready ─ visit ─► the application's ring
//!           └ after a gap ─► islands ─────┘ when it is filled
//! ```
//!
//! What was once let in is taken, except under a lack of memory, when it is dropped like a packet that the path lost. The
//! field of the window counts in units of its scale and is rounded up; what that lets in beyond the window is taken, too. How far the window may open follows what the application takes in one round
//! trip (as Linux does, "dynamic right-sizing"): several times that, because the sender may double its rate, and goes on behind a
//! gap while what was lost is sent again. Where the window was far larger than that for some time, it is halved.
//!
//! Positions count bytes from the first one of the connection, FIN as one more; they do not wrap.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::wire::TcpSeqNumber;

use super::super::budget::{Budget, FLOOR};
use super::super::pool::{Islands, Pool, Queue};
use super::segment::{MAX_RANGES, Range};

/// An acknowledgement goes out for every second packet (RFC 9293, section 3.8.6.3), so that the other end's window opens
/// as fast as it may; once that is over, fewer do.
const ACKNOWLEDGE_EVERY: usize = 2;
const ACKNOWLEDGE_EVERY_LATER: usize = 8;
/// Packets after which it is over.
const LATER: u64 = 4096;
/// Rounds in which the application's rate is measured take at least this long, because threads come and go; and at most that.
const ROUND: std::ops::RangeInclusive<Duration> = Duration::from_millis(4)..=Duration::from_secs(1);
/// The window is so many times what is read in a round, and at most twice as many.
const TIMES: u64 = 4;
/// An acknowledgement that goes out anyway moves the right edge by no less than this: some packets.
const NOTABLE: u64 = 4 << 10;
/// How long a window is looked at before it may shrink.
const SHRINK_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Receiver {
    pool: Arc<Pool>,
    /// Sequence number of position 0.
    origin: TcpSeqNumber,
    /// The next position that is missing.
    next: u64,
    /// Where the other end's FIN is, once it was seen.
    end: Option<u64>,
    /// Shift of the window's field.
    scale: u8,
    /// How far the window opens beyond what the application has read.
    window: usize,
    /// Its right edge, which never moves back, and the furthest that the other end was told.
    granted: u64,
    edge: u64,
    /// What the application has read, as was last seen.
    read: u64,
    pub(super) ready: Queue,
    islands: Islands,
    /// Where segments came out of order last, the newest first.
    recent: [Option<u64>; MAX_RANGES],
    /// Packets that came since the last acknowledgement, and in all.
    unacknowledged: usize,
    packets: u64,
    /// An acknowledgement is wanted now.
    is_urgent: bool,
    round: (Instant, u64),
    /// The most that was read in a round since then.
    peak: (Instant, u64),
}

impl Receiver {
    /// `window` is what the other end was told, too.
    pub(super) fn new(pool: Arc<Pool>, origin: TcpSeqNumber, scale: u8, window: usize, now: Instant) -> Self {
        Self {
            ready: Queue::new(Arc::clone(&pool)),
            islands: Islands::new(Arc::clone(&pool)),
            pool,
            origin,
            next: 0,
            end: None,
            scale,
            window,
            granted: window.min(u16::MAX.into()) as u64,
            edge: window.min(u16::MAX.into()) as u64,
            read: 0,
            recent: [None; MAX_RANGES],
            unacknowledged: 0,
            packets: 0,
            is_urgent: false,
            round: (now, 0),
            peak: (now, 0),
        }
    }

    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The position that a sequence number stands for; it may lie before the first one.
    pub(super) fn position(&self, number: TcpSeqNumber) -> i128 {
        let offset = number.0.wrapping_sub(self.number(self.next).0);
        i128::from(self.next) + i128::from(offset)
    }

    fn number(&self, position: u64) -> TcpSeqNumber {
        TcpSeqNumber(self.origin.0.wrapping_add(position as i32))
    }

    /// Whether everything has arrived, the end included.
    pub(super) fn is_finished(&self) -> bool {
        self.end.is_some_and(|end| self.next > end)
    }

    /// Whether a segment without bytes that begins there could belong to what is expected next.
    pub(super) fn expects(&self, position: i128) -> bool {
        (i128::from(self.next)..=i128::from(self.edge.max(self.next))).contains(&position)
    }

    /// Whether what is at that position has arrived.
    pub(super) fn has_passed(&self, position: i128) -> bool {
        position < i128::from(self.next)
    }

    /// Asks for an acknowledgement at once.
    pub(super) fn want_acknowledgement(&mut self) {
        self.is_urgent = true;
    }

    /// Takes the bytes and the end of a segment that begins at `start`.
    pub(super) fn take(&mut self, start: i128, mut bytes: &[u8], has_end: bool) {
        self.packets += 1;
        self.unacknowledged += 1;
        let next = i128::from(self.next);
        if start < next {
            // Sent again, although it is here: the other end is to know.
            self.is_urgent = true;
            let skipped = usize::try_from(next - start).unwrap_or(usize::MAX);
            if skipped > bytes.len() || (skipped == bytes.len() && !has_end) {
                return;
            }
            bytes = &bytes[skipped..];
        }
        let start = start.max(next) as u64;
        let room = usize::try_from(self.edge.max(self.next).saturating_sub(start)).unwrap_or(usize::MAX);
        let is_cut = bytes.len() > room;
        if is_cut {
            self.is_urgent = true;
            bytes = &bytes[..room];
        }
        if has_end && !is_cut && self.end.is_none() && start <= self.edge.max(self.next) {
            let end = start + bytes.len() as u64;
            // One before what is here already is none.
            self.end = (self.islands.end() <= end).then_some(end);
            self.is_urgent = true;
        }
        if let Some(end) = self.end {
            // Nothing comes behind the end.
            let left = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
            bytes = &bytes[..bytes.len().min(left)];
        }
        if start == self.next {
            self.take_next(bytes);
        } else if !bytes.is_empty() {
            self.is_urgent = true;
            if self.pool.free() > 0 && self.islands.insert(start, bytes) {
                self.recent.rotate_right(1);
                self.recent[0] = Some(start);
            }
        }
        if self.end == Some(self.next) {
            self.next += 1;
        }
    }

    fn take_next(&mut self, bytes: &[u8]) {
        let held = self.ready.end() - self.read;
        if self.is_finished() || (self.pool.free() == 0 && held >= FLOOR as u64) {
            return;
        }
        self.ready.push(bytes);
        self.next = self.ready.end();
        if !self.islands.is_empty() {
            // A gap is filled, in part at least.
            self.is_urgent = true;
            self.next = self.islands.take(self.next, &mut self.ready);
        }
    }

    /// Hands over what is in order to the ring, which is emptied by the application. True when there was something.
    pub(super) fn hand_over(&mut self, ring: &mut Queue) -> bool {
        let had_some = !self.ready.is_empty();
        ring.take_all(&mut self.ready);
        self.read = ring.end() - ring.len() as u64;
        self.note_gain();
        had_some
    }

    /// When no more than this waits in the ring, the window may open by enough to tell the other end. `None` when it is open
    /// so far that nothing which waits would make it so.
    pub(super) fn update_below(&self) -> Option<usize> {
        let open_from = self.next_grant() + self.step();
        let below = (self.ready.end() + self.window as u64).checked_sub(open_from)?;
        usize::try_from(below).ok()
    }

    /// By how much the right edge could move.
    fn gain(&self) -> u64 {
        (self.read + self.window as u64).saturating_sub(self.granted)
    }

    /// By how much it must be able to move for an acknowledgement of its own.
    fn step(&self) -> u64 {
        (self.window / 4) as u64
    }

    /// Makes the window fit to what the application reads in one `round_trip`.
    pub(super) fn adjust(&mut self, round_trip: Option<Duration>, budget: &mut Budget, now: Instant) {
        let round = round_trip.unwrap_or_default().clamp(*ROUND.start(), *ROUND.end());
        let (since, from) = self.round;
        let took = now.saturating_duration_since(since);
        if took < round {
            return;
        }
        self.round = (now, self.read);
        // A visit that came late has seen more than one round.
        let rounds = (took.as_nanos() / round.as_nanos()).max(1);
        let read = (u128::from(self.read - from) / rounds) as u64;
        self.peak.1 = self.peak.1.max(read);
        let wanted = usize::try_from(TIMES * read).unwrap_or(usize::MAX);
        if wanted > self.window {
            self.window = budget.resize(self.window, wanted.next_multiple_of(FLOOR));
        } else if now.saturating_duration_since(self.peak.0) >= SHRINK_AFTER {
            if self.peak.1 * 2 * TIMES < self.window as u64 && self.window > super::super::budget::FIRST {
                self.window = budget.resize(self.window, self.window / 2);
            }
            self.peak = (now, 0);
        }
        self.note_gain();
    }

    /// An edge that could move far is told at once.
    fn note_gain(&mut self) {
        self.is_urgent |= self.gain() >= self.step();
    }

    /// Whether enough came, or something that is to be answered at once.
    pub(super) fn must_acknowledge(&self) -> bool {
        let every = if self.packets < LATER {
            ACKNOWLEDGE_EVERY
        } else {
            ACKNOWLEDGE_EVERY_LATER
        };
        self.is_urgent || self.unacknowledged >= every
    }

    /// Whether anything is to be acknowledged.
    pub(super) fn may_acknowledge(&self) -> bool {
        self.is_urgent || self.unacknowledged > 0
    }

    /// What a segment that is sent now acknowledges, and how far the window is open.
    pub(super) fn fields(&self) -> (TcpSeqNumber, u16) {
        let open = self.next_grant().saturating_sub(self.next);
        // Rounded up, lest a window of less than the scale's unit be none at all.
        let field = u16::try_from(open.div_ceil(1 << self.scale)).unwrap_or(u16::MAX);
        (self.number(self.next), field)
    }

    /// A segment with these fields was sent.
    pub(super) fn note_acknowledged(&mut self) {
        let (_, field) = self.fields();
        self.granted = self.next_grant();
        self.edge = self.edge.max(self.next + (u64::from(field) << self.scale));
        self.is_urgent = false;
        self.unacknowledged = 0;
    }

    /// The right edge to be told next: not moved by a few bytes at a time, unless the window is closed.
    fn next_grant(&self) -> u64 {
        if self.gain() >= self.step().min(NOTABLE) || self.granted <= self.next {
            self.granted.max(self.read + self.window as u64)
        } else {
            self.granted
        }
    }

    /// What arrived out of order, the newest first.
    pub(super) fn ranges(&self, ranges: &mut Vec<Range>) {
        ranges.clear();
        let newest = self
            .recent
            .iter()
            .flatten()
            .filter_map(|at| self.islands.around(*at));
        for (start, end) in newest.chain(self.islands.iter()) {
            let range = (self.number(start), self.number(end));
            if ranges.len() == MAX_RANGES {
                break;
            }
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
    }
}
