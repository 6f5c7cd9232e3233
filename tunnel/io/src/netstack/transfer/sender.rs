//! Sending over a path that loses packets.
//!
//! ```text
//!   the application's ring ─ as much as may be sent ─► kept ─► path
//!                                                       │ ▲ again, if lost
//!                                      acknowledged ◄───┘ └── [scoreboard, rate]
//! ```
//!
//! - What is lost is found from selective acknowledgements and send times (`scoreboard`) and sent again.
//! - How much may be in flight follows the rate of delivery (`rate`), and ends at the window of the other end (`window`).
//! - How long an answer is waited for follows the round trip (`round_trip`).
//! - Only what may be sent is taken from the ring, so what is held here is what is in flight, and bounded as that is.
//!
//! A closed window is probed for as long as there is something to send, because the news that it is open again can be
//! lost. The probe is a segment without bytes that begins before the window: whoever gets it must answer (RFC 9293, section
//! 3.10.7.4), and it is no byte of the stream.
//!
//! An other end without selective acknowledgements is served by duplicate ones (RFC 6582) and the timer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_tunnel_core::Batch;
use smoltcp::wire::TcpSeqNumber;

use super::super::pool::{Pool, Queue};
use super::rate::Rate;
use super::round_trip::RoundTrip;
use super::scoreboard::{Delivery, Scoreboard};
use super::segment::{Fields, Heading};
use super::window::Window;

/// While so many segments are in flight none follows that is shorter than it could be: what is known of a segment takes some
/// 80 bytes, which no pool counts, and an application that writes byte by byte would have as many of them as the window has bytes.
const MANY: usize = 64;
/// Duplicate acknowledgements that mean a loss (RFC 5681, section 3.2).
const DUPLICATES: u32 = 3;

/// What the other end's SYN says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) selective: bool,
    /// Shift of its window's field.
    pub(super) scale: u8,
    /// Bytes that fit into a segment to it.
    pub(super) segment: usize,
    /// Its window at first.
    pub(super) window: u16,
}

/// An acknowledgement as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    pub(super) number: TcpSeqNumber,
    pub(super) window: u16,
    /// Where its segment lies among what the other end sends.
    pub(super) at: i128,
    /// It is nothing but an acknowledgement.
    pub(super) is_bare: bool,
    pub(super) ranges: [Option<(u32, u32)>; 3],
}

#[derive(Debug)]
pub(super) struct Sender {
    pool: Arc<Pool>,
    /// Sequence number of position 0.
    origin: TcpSeqNumber,
    offer: Offer,
    board: Scoreboard,
    rate: Rate,
    /// From the first byte that is not acknowledged to the last that was taken from the ring.
    kept: Queue,
    /// The application writes no more than what is kept.
    is_closed: bool,
    window: Window,
    round_trip: RoundTrip,
    /// When something was last sent for the first time or delivered, and the timeouts since.
    progress: Instant,
    timeouts: u32,
    /// When a closed window is probed, and how often it was.
    probe_at: Option<Instant>,
    probes: u32,
    duplicates: u32,
    /// What was sent when the last loss was found by duplicates: until then there is one loss for each step.
    recovers: u64,
}

impl Sender {
    pub(super) fn new(
        pool: &Arc<Pool>,
        origin: TcpSeqNumber,
        offer: Offer,
        round_trip: Option<Duration>,
        now: Instant,
    ) -> Self {
        Self {
            kept: Queue::new(Arc::clone(pool)),
            pool: Arc::clone(pool),
            origin,
            offer,
            board: Scoreboard::default(),
            rate: Rate::new(now),
            is_closed: false,
            window: Window::new(offer.window, offer.scale),
            round_trip: RoundTrip::new(round_trip),
            progress: now,
            timeouts: 0,
            probe_at: None,
            probes: 0,
            duplicates: 0,
            recovers: 0,
        }
    }

    /// The position that a sequence number stands for.
    fn position(&self, number: TcpSeqNumber) -> Option<u64> {
        let near = self.board.end();
        let offset = number.0.wrapping_sub(self.number(near).0);
        near.checked_add_signed(i64::from(offset))
    }

    fn number(&self, position: u64) -> TcpSeqNumber {
        TcpSeqNumber(self.origin.0.wrapping_add(position as i32))
    }

    /// Where the next new byte begins, or what follows FIN.
    pub(super) fn next(&self) -> TcpSeqNumber {
        self.number(self.board.end())
    }

    /// Smoothed round trip.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.smoothed()
    }

    /// Whether the other end has all of it, and the end as well.
    pub(super) fn is_finished(&self) -> bool {
        self.is_closed && self.board.acknowledged() > self.kept.end()
    }

    /// Whether something is kept that the other end does not have.
    pub(super) fn is_waiting(&self) -> bool {
        !self.kept.is_empty() || (self.is_closed && !self.is_finished())
    }

    /// Bytes that are not acknowledged.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Segments that are not acknowledged.
    pub(super) fn segments(&self) -> usize {
        self.board.len()
    }

    /// Takes from the ring what may be sent soon, and a little more, by which it is seen that there is more.
    pub(super) fn take(&mut self, ring: &mut Queue) {
        while !ring.is_empty() && self.unsent() <= self.allowed() {
            let has_memory = self.kept.len() < self.pool.free();
            // One block it may hold however little memory is left: it goes on, if slowly.
            if !self.kept.is_empty() && !has_memory {
                break;
            }
            self.kept.take_block(ring);
        }
    }

    /// The ring is empty and stays so.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Bytes that were never sent.
    fn unsent(&self) -> u64 {
        self.kept.end().saturating_sub(self.board.end())
    }

    /// New bytes that may be sent.
    fn allowed(&self) -> u64 {
        if self.awaits_sign() {
            return 0;
        }
        let waiting = self.board.in_flight() + self.board.lost();
        let by_rate = self.rate.window().saturating_sub(waiting);
        by_rate.min(self.window.edge().saturating_sub(self.board.end()))
    }

    /// Whether FIN is due and was not sent.
    fn owes_end(&self) -> bool {
        self.is_closed && self.board.end() == self.kept.end()
    }

    /// Takes an acknowledgement. The round trip, if it tells one. An error means that it is for what was never sent.
    pub(super) fn acknowledge(&mut self, heard: Heard, now: Instant) -> Result<Option<Duration>, Unsent> {
        let Some(acknowledged) = self.position(heard.number) else {
            return Ok(None);
        };
        if acknowledged > self.board.end() {
            return Err(Unsent);
        }
        let before = self.board.acknowledged();
        let is_old = acknowledged < before;
        if self.window.note(heard.window, heard.at, acknowledged, before) {
            (self.probe_at, self.probes) = (None, 0);
        }
        let mut delivery = Delivery::default();
        if !is_old {
            self.kept.consume((acknowledged - before) as usize);
            self.board.acknowledge(acknowledged, &mut delivery);
        }
        for (left, right) in heard.ranges.into_iter().flatten() {
            let range = self
                .position(TcpSeqNumber(left.cast_signed()))
                .zip(self.position(TcpSeqNumber(right.cast_signed())));
            if let Some((left, right)) = range.filter(|(left, right)| left < right) {
                self.board
                    .acknowledge_range(left, right.min(self.board.end()), &mut delivery);
            }
        }
        if !self.offer.selective && !is_old {
            self.note_duplicate(acknowledged, acknowledged == before && heard.is_bare);
        }
        Ok(self.note(&delivery, now))
    }

    /// The first of what is missing is lost, when there are enough duplicates, or a loss is mended and what follows is
    /// missing as well.
    fn note_duplicate(&mut self, acknowledged: u64, is_duplicate: bool) {
        if self.board.is_empty() {
            self.duplicates = 0;
        } else if is_duplicate {
            self.duplicates += 1;
            if self.duplicates == DUPLICATES && acknowledged >= self.recovers {
                self.recovers = self.board.end();
                self.rate.note_lost(self.board.lose_first());
            }
        } else {
            self.duplicates = 0;
            if acknowledged < self.recovers {
                self.rate.note_lost(self.board.lose_first());
            }
        }
    }

    fn note(&mut self, delivery: &Delivery, now: Instant) -> Option<Duration> {
        let newest = delivery.newest?;
        self.progress = now;
        self.timeouts = 0;
        let round_trip = delivery
            .sent_once_at
            .map(|sent_at| now.saturating_duration_since(sent_at));
        self.rate.note_delivered(delivery.bytes, newest, round_trip, now);
        let sample = round_trip?;
        self.round_trip.note(sample);
        Some(sample)
    }

    /// Sends what is lost and then what is new, as far as there is `room` for packets. The packets sent.
    pub(super) fn work(
        &mut self,
        heading: &Heading,
        fields: Fields,
        now: Instant,
        room: usize,
        out: &mut Batch<()>,
    ) -> usize {
        let before = out.len();
        if !self.board.is_empty() {
            let lost = self.board.detect(self.round_trip.tolerance());
            self.rate.note_lost(lost);
            if now >= self.progress + self.round_trip.timeout(self.timeouts) {
                self.time_out(now);
            }
            self.resend(heading, fields, now, room, out);
        }
        let left = room.saturating_sub(out.len() - before);
        self.send(heading, fields, now, left, out);
        self.probe(heading, fields, now, out);
        out.len() - before
    }

    fn time_out(&mut self, now: Instant) {
        self.progress = now;
        if self.timeouts == 0 {
            self.board.lose_last();
        } else {
            self.board.lose_all();
            self.rate.note_silence();
        }
        self.timeouts = self.timeouts.saturating_add(1);
    }

    /// Whether everything in flight was given up, and nothing was heard since: one segment at a time tells whether the path is
    /// there (RFC 6298, section 5; RFC 5681, section 3.1), and more would be poured into one that may be full.
    fn is_silent(&self) -> bool {
        self.timeouts > 1
    }

    /// Whether that segment is on its way.
    fn awaits_sign(&self) -> bool {
        self.is_silent() && self.board.in_flight() > 0
    }

    fn resend(
        &mut self,
        heading: &Heading,
        fields: Fields,
        now: Instant,
        mut room: usize,
        out: &mut Batch<()>,
    ) {
        if self.board.lost() == 0 || room == 0 || self.awaits_sign() {
            return;
        }
        if self.is_silent() {
            room = 1;
        }
        let limit = self.rate.window().saturating_sub(self.board.in_flight());
        let stamp = self.rate.stamp(self.board.in_flight(), now);
        let mut board = std::mem::take(&mut self.board);
        board.resend(limit, now, stamp, |position, len| {
            let fits = room > 0;
            if fits {
                room -= 1;
                self.put(heading, fields, position, len as usize, out);
            }
            fits
        });
        self.board = board;
    }

    fn send(
        &mut self,
        heading: &Heading,
        fields: Fields,
        now: Instant,
        mut room: usize,
        out: &mut Batch<()>,
    ) {
        while room > 0 && !self.awaits_sign() {
            let (end, unsent) = (self.board.end(), self.unsent());
            let len = unsent.min(self.offer.segment as u64).min(self.allowed());
            let is_tail = len == unsent;
            // A short segment goes out only when nothing more is there, or when nothing longer ever could (RFC 9293,
            // section 3.8.6.2.1).
            let is_silly =
                len < self.offer.segment as u64 && !self.board.is_empty() && len < self.window.widest() / 2;
            if unsent > 0 && (len == 0 || (!is_tail && is_silly) || self.waits_for_more(len)) {
                return;
            }
            let has_end = is_tail && self.is_closed && end <= self.kept.end();
            if len == 0 && !has_end {
                break;
            }
            let stamp = self.rate.stamp(self.board.in_flight(), now);
            if self.board.is_empty() {
                self.progress = now;
            }
            self.board.sent(len as u32 + u32::from(has_end), now, stamp);
            self.put(heading, fields, end, len as usize + usize::from(has_end), out);
            room -= 1;
        }
        if self.unsent() == 0 && !self.owes_end() {
            self.rate.note_limited(self.board.in_flight());
        }
    }

    /// Whether a segment of `len` new bytes is to become longer before it goes out.
    fn waits_for_more(&self, len: u64) -> bool {
        let is_last = self.is_closed && len == self.unsent();
        self.board.len() >= MANY && len < self.offer.segment as u64 && !is_last
    }

    /// Makes the segment of `len` at `position`, which counts the end as one.
    fn put(&self, heading: &Heading, fields: Fields, position: u64, len: usize, out: &mut Batch<()>) {
        let until = position + len as u64;
        let fin = until > self.kept.end();
        let fields = Fields {
            sequence: self.number(position),
            push: until >= self.kept.end(),
            fin,
            ..fields
        };
        let len = len - usize::from(fin);
        heading.put(fields, &[], len, |bytes| self.kept.copy(position, bytes), out);
    }

    fn is_shut_out(&self) -> bool {
        self.unsent() > 0 && self.board.is_empty() && self.window.edge() <= self.board.end()
    }

    /// Asks whether a closed window is open again.
    fn probe(&mut self, heading: &Heading, fields: Fields, now: Instant, out: &mut Batch<()>) {
        if !self.is_shut_out() {
            self.probe_at = None;
            return;
        }
        if self.probe_at.is_some_and(|at| at <= now) {
            self.ask(heading, fields, out);
            self.probes = self.probes.saturating_add(1);
            self.probe_at = None;
        }
        if self.probe_at.is_none() {
            self.probe_at = Some(now + self.round_trip.probe_pause(self.probes));
        }
    }

    /// Sends what must be answered.
    pub(super) fn ask(&self, heading: &Heading, fields: Fields, out: &mut Batch<()>) {
        let fields = Fields {
            sequence: self.next() - 1,
            ..fields
        };
        heading.put(fields, &[], 0, |_| {}, out);
    }

    /// When [`Sender::work`] is to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.board.is_empty() {
            self.probe_at
        } else {
            Some(self.progress + self.round_trip.timeout(self.timeouts))
        }
    }

    /// Whether a call of [`Sender::work`] would send something.
    pub(super) fn has_work(&self) -> bool {
        if self.awaits_sign() {
            return false;
        }
        let unsent = self.unsent();
        let len = unsent.min(self.offer.segment as u64);
        let lost = self.board.lost() > 0 && self.rate.window() > self.board.in_flight();
        lost || (unsent > 0 && self.allowed() >= len && !self.waits_for_more(len))
            || (unsent == 0 && self.owes_end())
    }
}

/// An acknowledgement is for what was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsent;
