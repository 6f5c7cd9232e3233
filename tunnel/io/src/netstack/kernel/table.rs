//! Which connections the kernel has, and when one is over.
//!
//! The kernel does not say when it is done with a connection whose socket was closed, so that is seen in what passes: both ends'
//! FINs, and their acknowledgements. A connection that ends otherwise (a path that is gone) is over after a silence in both
//! directions. The kernel would go on with it for minutes, and hold what it has yet to deliver, so it is told (see [`Cut`]).

mod left;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use self::left::Left;
use super::Number;
use super::packet::Segment;
use crate::netstack::flow::Flow;

/// Silence after which a connection that was left is over. The kernel's retransmissions may come to lie a minute apart.
const SILENCE: Duration = Duration::from_secs(60);

/// Connections that were left and are not over. Beyond, the one is forgotten that was left first among those of the peer that
/// has most: its end does not hear what it had yet to hear. Each counts for its peer until it is over, so no peer alone can bring
/// that about, and those that do bear it themselves. An orderly end takes as long as the peer takes to read what is on its way,
/// so these are the ones of slow readers and of paths that are gone.
const MAX_LEFT: usize = 4096;

/// One connection.
#[derive(Debug)]
pub(super) struct Carried {
    /// As the peer sees it.
    pub(super) flow: Flow,
    /// When a packet passed last.
    last: Instant,
    /// It was left, and at this time it is looked whether it has been silent.
    left: Option<Instant>,
    /// Nobody waits to hear that it is over.
    is_disowned: bool,
    reset: Option<By>,
    ours: Direction,
    peers: Direction,
}

/// Whose reset was the last thing that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Kernel,
    Peer,
}

/// What is known of one direction of a connection.
#[derive(Debug, Default)]
struct Direction {
    /// What is acknowledged when its end has arrived.
    end: Option<u32>,
    end_has_arrived: bool,
    /// What was acknowledged last.
    acknowledged: Option<u32>,
}

impl Direction {
    fn note_end(&mut self, segment: &Segment) {
        if segment.is_fin {
            self.end = Some(segment.next_sequence);
        }
    }

    fn note_acknowledgement(&mut self, segment: &Segment) {
        let Some(acknowledged) = segment.acknowledged else {
            return;
        };
        self.acknowledged = Some(acknowledged);
        // The distance is a small positive number, or a large one when it is negative (RFC 9293, section 3.4).
        self.end_has_arrived |= self
            .end
            .is_some_and(|end| acknowledged.wrapping_sub(end) < 1 << 31);
    }
}

/// A connection that is over while the kernel may still work on it: it is to be reset there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) number: Number,
    pub(super) flow: Flow,
    /// What the kernel acknowledged last: what it expects next, or a little less.
    pub(super) expected: u32,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    carried: HashMap<Number, Carried>,
    last: Option<Number>,
    left: Left,
    disowned: usize,
    over: VecDeque<(Flow, Number)>,
    cuts: VecDeque<Cut>,
}

impl Carried {
    pub(super) fn is_left(&self) -> bool {
        self.left.is_some()
    }

    pub(super) fn note_incoming(&mut self, segment: &Segment, now: Instant) {
        self.last = now;
        self.reset = segment.is_reset.then_some(By::Peer);
        self.peers.note_end(segment);
        self.ours.note_acknowledgement(segment);
    }

    pub(super) fn note_outgoing(&mut self, segment: &Segment, now: Instant) {
        self.last = now;
        // A reset from the peer at which the kernel goes on was none.
        self.reset = segment.is_reset.then_some(By::Kernel);
        self.ours.note_end(segment);
        self.peers.note_acknowledgement(segment);
    }

    fn is_over(&self) -> bool {
        self.is_left() && (self.reset.is_some() || self.has_ended())
    }

    fn has_ended(&self) -> bool {
        self.ours.end_has_arrived && self.peers.end_has_arrived
    }
}

impl Table {
    /// Gives a connection its number.
    pub(super) fn insert(&mut self, flow: Flow, now: Instant) -> Number {
        let mut number = self.last.map_or(Number(1), Number::next);
        // There are 16 million, and some thousand connections.
        while self.carried.contains_key(&number) {
            number = number.next();
        }
        self.last = Some(number);
        self.carried.insert(
            number,
            Carried {
                flow,
                last: now,
                left: None,
                is_disowned: false,
                reset: None,
                ours: Direction::default(),
                peers: Direction::default(),
            },
        );
        number
    }

    pub(super) fn get(&self, number: Number) -> Option<&Carried> {
        self.carried.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: Number) -> Option<&mut Carried> {
        self.carried.get_mut(&number)
    }

    /// Connections that somebody waits to hear the end of.
    pub(super) fn owned(&self) -> usize {
        self.carried.len() - self.disowned
    }

    /// The connection has no stream any more.
    pub(super) fn leave(&mut self, number: Number, now: Instant) {
        let Some(carried) = self.carried.get_mut(&number).filter(|carried| !carried.is_left()) else {
            return;
        };
        let look_at = now + SILENCE;
        carried.left = Some(look_at);
        carried.last = carried.last.max(now);
        self.left.insert(carried.flow.remote.ip(), look_at, number);
        self.settle(number);
        if self.left.len() > MAX_LEFT
            && let Some(first) = self.left.first_of_most()
        {
            self.finish(first);
        }
    }

    /// Nobody is to be told when the connection is over.
    pub(super) fn disown(&mut self, number: Number) {
        if let Some(carried) = self
            .carried
            .get_mut(&number)
            .filter(|carried| !carried.is_disowned)
        {
            carried.is_disowned = true;
            self.disowned += 1;
        }
    }

    /// Ends all connections: nothing can pass any more.
    pub(super) fn end_all(&mut self) {
        let numbers: Vec<Number> = self.carried.keys().copied().collect();
        for number in numbers {
            self.finish(number);
        }
        self.cuts.clear();
    }

    /// Ends the connection if nothing is left to pass.
    pub(super) fn settle(&mut self, number: Number) {
        if self.carried.get(&number).is_some_and(Carried::is_over) {
            self.finish(number);
        }
    }

    /// Ends the connection, whatever is left to pass.
    pub(super) fn finish(&mut self, number: Number) {
        let Some(carried) = self.carried.remove(&number) else {
            return;
        };
        if let Some(look_at) = carried.left {
            self.left.remove(carried.flow.remote.ip(), look_at, number);
        }
        // A reset from the peer may be one that the kernel does not believe.
        if !carried.has_ended()
            && carried.reset != Some(By::Kernel)
            && let Some(expected) = carried.peers.acknowledged
        {
            self.cuts.push_back(Cut {
                number,
                flow: carried.flow,
                expected,
            });
        }
        if carried.is_disowned {
            self.disowned -= 1;
        } else {
            self.over.push_back((carried.flow, number));
        }
    }

    /// The next connection that is over, be it by silence.
    pub(super) fn poll_over(&mut self, now: Instant) -> Option<(Flow, Number)> {
        while let Some((at, number)) = self.left.first().filter(|(at, _)| *at <= now) {
            let Some(carried) = self.carried.get_mut(&number) else {
                break;
            };
            if carried.last + SILENCE > now {
                let look_at = carried.last + SILENCE;
                carried.left = Some(look_at);
                let peer = carried.flow.remote.ip();
                self.left.remove(peer, at, number);
                self.left.insert(peer, look_at, number);
            } else {
                self.finish(number);
            }
        }
        self.over.pop_front()
    }

    /// The next connection that the kernel is to be told of.
    pub(super) fn poll_cut(&mut self) -> Option<Cut> {
        self.cuts.pop_front()
    }
}
