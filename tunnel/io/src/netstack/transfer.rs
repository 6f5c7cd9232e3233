//! The bytes of one connection, once it is open.
//!
//! smoltcp opens connections and answers what belongs to none. What an open one carries goes by its own: smoltcp's buffers
//! cannot change while a connection lives, it sends badly over paths that lose packets, and it is hard to keep it from throwing
//! acknowledgements away. So this has the sequence numbers, both ways:
//!
//! ```text
//!   ring of the application ─► sender ─── segments ──► path       each byte lies in one block of one pool,
//!   ring of the application ◄─ receiver ◄─ segments ── path       which is handed on from left to right or back
//! ```
//!
//! A connection is over when both ends are sent and acknowledged, when either side resets it, or when the other end was
//! silent for too long.

pub(crate) mod fuzzing;
mod rate;
mod receiver;
mod round_trip;
mod scoreboard;
mod segment;
mod sender;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_tunnel_core::Batch;
use smoltcp::wire::{TcpPacket, TcpSeqNumber};

use self::receiver::Receiver;
use self::segment::{Fields, Heading, Range};
use self::sender::{Heard, Offer, Sender};
use super::budget::Budget;
use super::flow::Header;
use super::pool::{Pool, Queue};

/// Shift of our windows' field: enough for the largest window.
const SCALE: u8 = 8;
/// Largest shift (RFC 7323, section 2.3).
const MAX_SCALE: u8 = 14;
/// Bytes in a segment to an end that names no size (RFC 9293, section 3.7.1), or a smaller one: each segment under way has a
/// record of up to 80 bytes that no pool counts, and nobody takes less.
const DEFAULT_SEGMENT: u16 = 536;

/// What is known of a connection while smoltcp opens it.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// Our SYN: its number, what it was made of, when it was sent first and how often.
    syn: Option<(TcpSeqNumber, Heading, Instant)>,
    syns: u32,
    /// Theirs: its number, and what it offers.
    theirs: Option<(TcpSeqNumber, Offer)>,
    has_scale: bool,
}

impl Opening {
    /// Looks at a packet that smoltcp made, and gives our window to a SYN.
    pub(super) fn outgoing(&mut self, packet: &mut [u8], header: &Header, window: usize, now: Instant) {
        let Ok(segment) = TcpPacket::new_checked(&packet[header.offset..]) else {
            return;
        };
        if !segment.syn() {
            return;
        }
        let number = segment.seq_number();
        segment::set_window(packet, header, u16::try_from(window).unwrap_or(u16::MAX), SCALE);
        self.syns = self.syns.saturating_add(1);
        if self.syn.is_none()
            && let Some(heading) = Heading::new(packet)
        {
            self.syn = Some((number, heading, now));
        }
    }

    /// Looks at a packet before smoltcp does.
    pub(super) fn incoming(&mut self, packet: &[u8], header: &Header) {
        let Some(Ok(segment)) = packet.get(header.offset..).map(TcpPacket::new_checked) else {
            return;
        };
        if !segment.syn() || segment.rst() {
            return;
        }
        let Ok(options) = segment.options_summary() else {
            return;
        };
        self.has_scale = options.window_scale.is_some();
        let named = options.max_segment_size.unwrap_or(DEFAULT_SEGMENT);
        let offer = Offer {
            selective: options.sack_permitted,
            scale: options.window_scale.unwrap_or(0).min(MAX_SCALE),
            segment: named.max(DEFAULT_SEGMENT).into(),
            window: segment.window_len(),
        };
        self.theirs = Some((segment.seq_number(), offer));
    }

    /// Whether this packet acknowledges our SYN after theirs was heard, so that the connection is open.
    pub(super) fn is_opened_by(&self, packet: &[u8], header: &Header) -> bool {
        let segment = packet.get(header.offset..).map(TcpPacket::new_checked);
        let (Some(Ok(segment)), Some((number, ..))) = (segment, &self.syn) else {
            return false;
        };
        self.theirs.is_some()
            && segment.ack()
            && !segment.syn()
            && !segment.rst()
            && segment.ack_number() == *number + 1
    }

    /// The connection is open. `window` is our own, `largest` what fits into one segment of ours.
    pub(super) fn finish(
        self,
        pool: &Arc<Pool>,
        window: usize,
        largest: usize,
        now: Instant,
    ) -> Option<Transfer> {
        let (number, heading, sent_at) = self.syn?;
        let (theirs, mut offer) = self.theirs?;
        let scale = if self.has_scale { SCALE } else { 0 };
        offer.segment = offer.segment.min(largest);
        // Of a SYN that was sent twice nobody knows which one was answered.
        let round_trip = (self.syns == 1).then(|| now.saturating_duration_since(sent_at));
        Some(Transfer {
            sender: Sender::new(pool, number + 1, offer, round_trip, now),
            receiver: Receiver::new(Arc::clone(pool), theirs + 1, scale, window, now),
            heading,
            heard_at: now,
            asked_at: now,
            waits_since: None,
            state: State::Open,
            ranges: Vec::new(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// To be reset by us.
    Resetting,
    /// Reset.
    Reset,
}

#[derive(Debug)]
pub(super) struct Transfer {
    sender: Sender,
    receiver: Receiver,
    heading: Heading,
    /// When the other end was last heard, and asked whether it is there.
    heard_at: Instant,
    asked_at: Instant,
    /// Since when it owes an answer, or when it was last heard since then.
    waits_since: Option<Instant>,
    state: State,
    /// Kept for its memory.
    ranges: Vec<Range>,
}

impl Transfer {
    /// Takes a packet of this connection. The round trip, if it tells one.
    pub(super) fn incoming(&mut self, packet: &[u8], header: &Header, now: Instant) -> Option<Duration> {
        if self.state == State::Reset {
            return None;
        }
        let segment = TcpPacket::new_checked(packet.get(header.offset..)?).ok()?;
        let at = self.receiver.position(segment.seq_number());
        if segment.rst() {
            // RFC 9293, section 3.10.7.4: in the window.
            if self.receiver.expects(at) {
                self.state = State::Reset;
            }
            return None;
        }
        self.heard_at = now;
        self.waits_since = self.waits_since.map(|_| now);
        if segment.syn() || !segment.ack() {
            // A SYN that was answered, sent again because the answer was lost.
            self.receiver.want_acknowledgement();
            return None;
        }
        let bytes = segment.payload();
        let is_bare = bytes.is_empty() && !segment.fin();
        let heard = Heard {
            number: segment.ack_number(),
            window: segment.window_len(),
            at,
            is_bare,
            ranges: segment.selective_ack_ranges().unwrap_or_default(),
        };
        let Ok(round_trip) = self.sender.acknowledge(heard, now) else {
            self.receiver.want_acknowledgement();
            return None;
        };
        if !is_bare {
            self.receiver.take(at, bytes, segment.fin());
        } else if self.receiver.has_passed(at) {
            // A question whether we are there, or whether the window is open.
            self.receiver.want_acknowledgement();
        }
        round_trip
    }

    /// Hands over what arrived to the application's ring. True when there was something.
    pub(super) fn hand_over(&mut self, ring: &mut Queue) -> bool {
        self.receiver.hand_over(ring)
    }

    /// See [`Receiver::update_below`].
    pub(super) fn update_below(&self) -> Option<usize> {
        self.receiver.update_below()
    }

    /// Whether something arrived that was not handed over.
    pub(super) fn has_unread(&self) -> bool {
        !self.receiver.ready.is_empty()
    }

    /// Takes from the application's ring what may be sent soon.
    pub(super) fn take(&mut self, ring: &mut Queue) {
        if self.state == State::Open {
            self.sender.take(ring);
        }
    }

    /// The application sends no more than what was taken.
    pub(super) fn close(&mut self) {
        self.sender.close();
    }

    /// Resets the connection with the next packet.
    pub(super) fn abort(&mut self) {
        if self.state == State::Open {
            self.state = State::Resetting;
        }
    }

    /// Whether the other end sent everything, and it was handed over.
    pub(super) fn has_ended(&self) -> bool {
        self.receiver.is_finished() && self.receiver.ready.is_empty()
    }

    pub(super) fn is_reset(&self) -> bool {
        self.state != State::Open
    }

    /// Whether everything that was sent has arrived, the end included.
    pub(super) fn is_delivered(&self) -> bool {
        self.sender.is_finished()
    }

    /// Whether nothing more will be sent or received.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Reset || (self.sender.is_finished() && self.receiver.is_finished())
    }

    /// Bytes that wait to be acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.sender.len()
    }

    /// How far our window may open.
    pub(super) fn window(&self) -> usize {
        self.receiver.window()
    }

    /// Makes our window fit to what the application reads.
    pub(super) fn adjust(&mut self, budget: &mut Budget, now: Instant) {
        self.receiver.adjust(self.sender.round_trip(), budget, now);
    }

    /// Asks for an acknowledgement at once.
    pub(super) fn want_acknowledgement(&mut self) {
        self.receiver.want_acknowledgement();
    }

    /// Whether what came is to be acknowledged before the round is over.
    pub(super) fn must_acknowledge(&self) -> bool {
        self.receiver.must_acknowledge() && self.state == State::Open
    }

    /// Acknowledges what came.
    pub(super) fn acknowledge(&mut self, out: &mut Batch<()>) {
        let mut ranges = std::mem::take(&mut self.ranges);
        self.receiver.ranges(&mut ranges);
        self.heading.put(self.fields(), &ranges, 0, |_| {}, out);
        self.receiver.note_acknowledged();
        self.ranges = ranges;
    }

    /// What the next segment says, apart from its bytes.
    fn fields(&self) -> Fields {
        let (acknowledgement, window) = self.receiver.fields();
        Fields {
            sequence: self.sender.next(),
            acknowledgement,
            window,
            push: false,
            fin: false,
            reset: false,
        }
    }

    /// Sends what is due, at most `room` packets and one acknowledgement. The packets sent.
    pub(super) fn work(&mut self, now: Instant, room: usize, out: &mut Batch<()>) -> usize {
        match self.state {
            State::Open => {}
            State::Resetting => {
                let fields = Fields {
                    reset: true,
                    ..self.fields()
                };
                self.heading.put(fields, &[], 0, |_| {}, out);
                self.state = State::Reset;
                return 1;
            }
            State::Reset => return 0,
        }
        let before = out.len();
        let fields = self.fields();
        let sent = self.sender.work(&self.heading, fields, now, room, out);
        if sent > 0 {
            // They had it with them.
            self.receiver.note_acknowledged();
        }
        if self.receiver.may_acknowledge() {
            self.acknowledge(out);
        }
        out.len() - before
    }

    /// Asks an other end that is silent whether it is there, and gives it up when it was for too long. When this is to be
    /// called again at the latest.
    pub(super) fn watch(
        &mut self,
        keep_alive: Option<Duration>,
        dead_after: Duration,
        now: Instant,
        out: &mut Batch<()>,
    ) -> Option<Instant> {
        let owes = self.sender.is_waiting();
        if owes || keep_alive.is_some() {
            self.waits_since
                .get_or_insert(if owes { now } else { self.heard_at });
        } else {
            self.waits_since = None;
        }
        let dies_at = self.waits_since.map(|since| since + dead_after);
        if dies_at.is_some_and(|at| at <= now) {
            self.abort();
            return Some(now);
        }
        let ask_at = keep_alive
            .filter(|_| !owes)
            .map(|pause| self.heard_at.max(self.asked_at) + pause);
        if ask_at.is_some_and(|at| at <= now) {
            self.asked_at = now;
            self.sender.ask(&self.heading, self.fields(), out);
        }
        let ask_at = ask_at.map(|at| {
            if at <= now {
                now + keep_alive.unwrap_or_default()
            } else {
                at
            }
        });
        dies_at.into_iter().chain(ask_at).min()
    }

    /// When [`Transfer::work`] is to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sender.deadline()
    }

    /// Whether a call of [`Transfer::work`] would send something.
    pub(super) fn has_work(&self) -> bool {
        self.state == State::Resetting || (self.state == State::Open && self.sender.has_work())
    }
}
