//! What was sent and not yet acknowledged, and what of it is lost.
//!
//! ```text
//!   sent ──► in flight ──acknowledged, cumulatively or selectively──► delivered
//!              ▲   │ something sent later was delivered (RACK, RFC 8985), or the timer ran out
//!        resent│   ▼
//!              └─ lost
//! ```
//!
//! Positions count bytes from the first one of the connection, FIN as one more; they do not wrap.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::rate::Stamp;

/// A segment that was sent.
#[derive(Debug, Clone, Copy)]
struct Segment {
    start: u64,
    len: u32,
    state: State,
    was_resent: bool,
    sent_at: Instant,
    stamp: Stamp,
}

impl Segment {
    fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    InFlight,
    Delivered,
    Lost,
}

/// What an acknowledgement delivered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delivery {
    pub(super) bytes: u64,
    /// Of what was sent last among it.
    pub(super) newest: Option<(Instant, Stamp)>,
    /// When that was sent, if it was sent only once: the time since then is the round trip.
    pub(super) sent_once_at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    /// From `acknowledged` to `end`, without gaps.
    segments: VecDeque<Segment>,
    acknowledged: u64,
    end: u64,
    in_flight: u64,
    lost: u64,
    /// Delivered bytes above the first hole reach up to here.
    delivered_up_to: u64,
    /// When the one that was sent last of all delivered ones was sent.
    newest_delivered: Option<Instant>,
}

impl Scoreboard {
    /// First byte that is not acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// End of what was ever sent.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes sent that are neither delivered nor lost.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes that are lost and wait to be sent again.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Segments that are not acknowledged, or not all of them before.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// `len` new bytes were sent.
    pub(super) fn sent(&mut self, len: u32, now: Instant, stamp: Stamp) {
        self.segments.push_back(Segment {
            start: self.end,
            len,
            state: State::InFlight,
            was_resent: false,
            sent_at: now,
            stamp,
        });
        self.end += u64::from(len);
        self.in_flight += u64::from(len);
    }

    /// Everything before `position` has arrived.
    pub(super) fn acknowledge(&mut self, position: u64, delivery: &mut Delivery) {
        while let Some(segment) = self
            .segments
            .front_mut()
            .filter(|segment| segment.start < position)
        {
            let whole = segment.end() <= position;
            let part = if whole {
                segment.len
            } else {
                (position - segment.start) as u32
            };
            let before = segment.state;
            let counted = Segment {
                len: part,
                ..*segment
            };
            if whole {
                self.segments.pop_front();
            } else {
                segment.start += u64::from(part);
                segment.len -= part;
            }
            self.count(counted, before, delivery);
        }
        self.acknowledged = self.acknowledged.max(position);
    }

    /// Everything from `start` to `end` has arrived.
    pub(super) fn acknowledge_range(&mut self, start: u64, end: u64, delivery: &mut Delivery) {
        let first = self.segments.partition_point(|segment| segment.start < start);
        for index in first..self.segments.len() {
            let segment = &mut self.segments[index];
            if segment.end() > end {
                break;
            }
            let before = std::mem::replace(&mut segment.state, State::Delivered);
            let counted = *segment;
            self.delivered_up_to = self.delivered_up_to.max(counted.end());
            self.count(counted, before, delivery);
        }
    }

    fn count(&mut self, segment: Segment, before: State, delivery: &mut Delivery) {
        let len = u64::from(segment.len);
        match before {
            State::Delivered => return,
            State::InFlight => self.in_flight -= len,
            State::Lost => self.lost -= len,
        }
        delivery.bytes += len;
        if delivery.newest.is_none_or(|(at, _)| segment.sent_at >= at) {
            delivery.newest = Some((segment.sent_at, segment.stamp));
            delivery.sent_once_at = (!segment.was_resent).then_some(segment.sent_at);
        }
        self.newest_delivered = self.newest_delivered.max(Some(segment.sent_at));
    }

    /// Marks as lost what was sent more than `tolerance` before something that has arrived. The bytes marked.
    pub(super) fn detect(&mut self, tolerance: Duration) -> u64 {
        let Some(newest) = self.newest_delivered else {
            return 0;
        };
        if self.delivered_up_to <= self.acknowledged {
            return 0;
        }
        let mut marked = 0;
        for segment in &mut self.segments {
            if segment.start >= self.delivered_up_to {
                break;
            }
            if segment.state == State::InFlight && segment.sent_at + tolerance < newest {
                segment.state = State::Lost;
                marked += u64::from(segment.len);
            }
        }
        self.in_flight -= marked;
        self.lost += marked;
        marked
    }

    /// Marks as lost all that has not arrived.
    pub(super) fn lose_all(&mut self) {
        for segment in &mut self.segments {
            if segment.state == State::InFlight {
                segment.state = State::Lost;
            }
        }
        self.lost += std::mem::take(&mut self.in_flight);
    }

    /// Marks the last segment that has not arrived as lost, so that it is sent again: its acknowledgement tells what else is.
    pub(super) fn lose_last(&mut self) {
        let last = self.segments.iter_mut().rev();
        if let Some(segment) = last.into_iter().find(|segment| segment.state == State::InFlight) {
            segment.state = State::Lost;
            self.in_flight -= u64::from(segment.len);
            self.lost += u64::from(segment.len);
        }
    }

    /// Marks the first segment that has not arrived as lost. The bytes marked.
    pub(super) fn lose_first(&mut self) -> u64 {
        let first = self
            .segments
            .iter_mut()
            .find(|segment| segment.state == State::InFlight);
        let Some(segment) = first else { return 0 };
        segment.state = State::Lost;
        let len = u64::from(segment.len);
        self.in_flight -= len;
        self.lost += len;
        len
    }

    /// Takes the first lost segments, up to `limit` bytes but one at least, to be sent again now. `resend` gets position and length.
    pub(super) fn resend(
        &mut self,
        limit: u64,
        now: Instant,
        stamp: Stamp,
        mut resend: impl FnMut(u64, u32) -> bool,
    ) {
        let mut taken = 0;
        for segment in &mut self.segments {
            if self.lost == 0 || (taken > 0 && taken >= limit) {
                break;
            }
            if segment.state == State::Lost {
                if !resend(segment.start, segment.len) {
                    break;
                }
                segment.state = State::InFlight;
                segment.was_resent = true;
                segment.sent_at = now;
                segment.stamp = stamp;
                let len = u64::from(segment.len);
                self.lost -= len;
                self.in_flight += len;
                taken += len;
            }
        }
    }
}
