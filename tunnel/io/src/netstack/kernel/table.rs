//! Which connections the kernel has, and when one is over.
//!
//! The kernel does not say when it is done with a connection whose socket was closed, so that is seen in what passes: the
//! other end's FIN, and the acknowledgement of ours. A connection that ends otherwise (a path that is gone) is over after a
//! silence in both directions.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Number;
use super::packet::Segment;
use crate::netstack::flow::Flow;

/// Silence after which a connection that was left is over. The kernel's retransmissions may come to lie a minute apart.
const SILENCE: Duration = Duration::from_secs(60);

/// Connections that were left and are not over. Beyond, the one that was left first is forgotten: its end does not hear what it
/// had yet to hear. Each counts for its peer until it is over, so no peer alone can bring that about. An orderly end takes as
/// long as the peer takes to read what is on its way, so these are the ones of slow readers and of paths that are gone.
const MAX_LEFT: usize = 4096;

/// One connection.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four facts that come in any order and do not follow from one another"
)]
pub(super) struct Carried {
    /// As the peer sees it.
    pub(super) flow: Flow,
    /// When a packet passed last.
    last: Instant,
    /// It was left, and at this time it is looked whether it has been silent.
    left: Option<Instant>,
    /// Nobody waits to hear that it is over.
    is_disowned: bool,
    has_reset: bool,
    peer_has_ended: bool,
    /// What the peer acknowledges when it has our end.
    our_end: Option<u32>,
    our_end_has_arrived: bool,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    carried: HashMap<Number, Carried>,
    last: Option<Number>,
    /// Those that were left and are not over, in the order in which they are to be looked at.
    left: BTreeSet<(Instant, Number)>,
    disowned: usize,
    over: VecDeque<(Flow, Number)>,
}

impl Carried {
    pub(super) fn is_left(&self) -> bool {
        self.left.is_some()
    }

    pub(super) fn note_incoming(&mut self, segment: &Segment, now: Instant) {
        self.last = now;
        self.has_reset = segment.is_reset;
        self.peer_has_ended |= segment.is_fin;
        if let (Some(acknowledged), Some(end)) = (segment.acknowledged, self.our_end) {
            // The distance is a small positive number, or a large one when it is negative (RFC 9293, section 3.4).
            self.our_end_has_arrived |= acknowledged.wrapping_sub(end) < 1 << 31;
        }
    }

    pub(super) fn note_outgoing(&mut self, segment: &Segment, now: Instant) {
        self.last = now;
        // A reset from the peer at which the kernel goes on was none.
        self.has_reset = segment.is_reset;
        if segment.is_fin {
            self.our_end = Some(segment.next_sequence);
        }
    }

    fn is_over(&self) -> bool {
        self.is_left() && (self.has_reset || (self.peer_has_ended && self.our_end_has_arrived))
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
                has_reset: false,
                peer_has_ended: false,
                our_end: None,
                our_end_has_arrived: false,
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
        self.left.insert((look_at, number));
        self.settle(number);
        if self.left.len() > MAX_LEFT
            && let Some((_, first)) = self.left.first().copied()
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
            self.left.remove(&(look_at, number));
        }
        if carried.is_disowned {
            self.disowned -= 1;
        } else {
            self.over.push_back((carried.flow, number));
        }
    }

    /// The next connection that is over, be it by silence.
    pub(super) fn poll_over(&mut self, now: Instant) -> Option<(Flow, Number)> {
        while let Some((at, number)) = self.left.first().copied().filter(|(at, _)| *at <= now) {
            self.left.remove(&(at, number));
            match self.carried.get_mut(&number) {
                Some(carried) if carried.last + SILENCE > now => {
                    let look_at = carried.last + SILENCE;
                    carried.left = Some(look_at);
                    self.left.insert((look_at, number));
                }
                _ => self.finish(number),
            }
        }
        self.over.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow {
            local: "100.127.0.1:443".parse().unwrap(),
            remote: ([100, 64, 0, 1], port).into(),
        }
    }

    fn segment(change: impl FnOnce(&mut Segment)) -> Segment {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[32] = 5 << 4;
        let mut segment = Segment::parse(&packet).unwrap();
        change(&mut segment);
        segment
    }

    fn fin(next_sequence: u32) -> Segment {
        segment(|segment| {
            segment.is_fin = true;
            segment.next_sequence = next_sequence;
        })
    }

    fn ack(number: u32) -> Segment {
        segment(|segment| segment.acknowledged = Some(number))
    }

    #[test]
    fn it_is_over_when_both_ends_have_arrived() {
        let (mut table, now) = (Table::default(), Instant::now());
        // Numbers of the sequence wrap.
        let end = 3_u32.wrapping_sub(5);
        let number = table.insert(flow(1), now);
        table.get_mut(number).unwrap().note_incoming(&fin(9), now);
        table.get_mut(number).unwrap().note_outgoing(&fin(end), now);
        table.leave(number, now);
        assert_eq!(table.poll_over(now), None, "our end has not arrived");
        table.get_mut(number).unwrap().note_incoming(&ack(end - 1), now);
        table.settle(number);
        assert_eq!(table.poll_over(now), None, "only what is before it has");
        table.get_mut(number).unwrap().note_incoming(&ack(1), now);
        table.settle(number);
        assert_eq!(table.poll_over(now), Some((flow(1), number)));
        assert_eq!((table.poll_over(now), table.owned()), (None, 0));
    }

    #[test]
    fn a_reset_ends_it_unless_the_kernel_goes_on() {
        let (mut table, now) = (Table::default(), Instant::now());
        let reset = segment(|segment| segment.is_reset = true);
        let number = table.insert(flow(1), now);
        table.get_mut(number).unwrap().note_incoming(&reset, now);
        table.settle(number);
        assert_eq!(table.poll_over(now), None, "its stream is still there");
        table.get_mut(number).unwrap().note_outgoing(&ack(1), now);
        table.leave(number, now);
        assert_eq!(table.poll_over(now), None, "it went on");
        table.get_mut(number).unwrap().note_outgoing(&reset, now);
        table.settle(number);
        assert_eq!(table.poll_over(now), Some((flow(1), number)));
    }

    #[test]
    fn silence_ends_it_and_packets_put_that_off() {
        let (mut table, now) = (Table::default(), Instant::now());
        let number = table.insert(flow(1), now);
        assert_eq!(
            table.poll_over(now + 100 * SILENCE),
            None,
            "a stream may be silent"
        );
        table.leave(number, now);
        let later = now + SILENCE / 2;
        table.get_mut(number).unwrap().note_outgoing(&ack(1), later);
        assert_eq!(table.poll_over(now + SILENCE), None);
        assert_eq!(table.poll_over(later + SILENCE), Some((flow(1), number)));
    }

    #[test]
    fn those_that_were_left_are_bounded_and_numbers_go_round() {
        let (mut table, now) = (Table::default(), Instant::now());
        let first = table.insert(flow(1), now);
        table.leave(first, now);
        for port in 0..MAX_LEFT {
            let number = table.insert(flow(port as u16), now);
            table.leave(number, now);
        }
        assert_eq!(table.poll_over(now), Some((flow(1), first)));
        assert_eq!(table.owned(), MAX_LEFT);

        table.last = Some(Number((1 << 24) - 1));
        let number = table.insert(flow(1), now);
        assert_eq!(number, first, "its number is free again");
        table.last = Some(Number((1 << 24) - 1));
        assert_ne!(table.insert(flow(2), now), number);
    }

    #[test]
    fn one_that_ends_slowly_outlives_any_number_that_end_in_order() {
        let (mut table, now) = (Table::default(), Instant::now());
        let slow = table.insert(flow(1), now);
        table.leave(slow, now);
        for port in 0..=2 * MAX_LEFT {
            let number = table.insert(flow(port as u16), now);
            let carried = table.get_mut(number).unwrap();
            carried.note_incoming(&fin(9), now);
            carried.note_outgoing(&fin(9), now);
            carried.note_incoming(&ack(9), now);
            table.leave(number, now);
            assert_eq!(table.poll_over(now), Some((flow(port as u16), number)));
        }
        assert!(
            table.get(slow).is_some(),
            "its end has yet to hear what is on its way"
        );
        assert_eq!(table.left.len(), 1);
        assert_eq!(table.poll_over(now + SILENCE), Some((flow(1), slow)));
        assert!(table.left.is_empty());
    }

    #[test]
    fn all_end_at_once_when_nothing_passes_any_more() {
        let (mut table, now) = (Table::default(), Instant::now());
        let (open, left, disowned) = (
            table.insert(flow(1), now),
            table.insert(flow(2), now),
            table.insert(flow(3), now),
        );
        table.leave(left, now);
        table.leave(disowned, now);
        table.disown(disowned);
        table.end_all();
        let mut over: Vec<_> = std::iter::from_fn(|| table.poll_over(now)).collect();
        over.sort_by_key(|(_, number)| *number);
        assert_eq!(over, [(flow(1), open), (flow(2), left)]);
        assert_eq!(table.owned(), 0);
        assert_eq!(table.poll_over(now + 2 * SILENCE), None);
    }

    #[test]
    fn those_that_others_replace_take_nobodys_place() {
        let (mut table, now) = (Table::default(), Instant::now());
        let slow = table.insert(flow(1), now);
        table.leave(slow, now);
        for _ in 0..=2 * MAX_LEFT {
            let number = table.insert(flow(2), now);
            table.leave(number, now);
            table.disown(number);
            table.finish(number);
        }
        assert!(table.get(slow).is_some());
        assert_eq!((table.left.len(), table.owned(), table.disowned), (1, 1, 0));
        assert_eq!(table.poll_over(now), None);
    }

    #[test]
    fn nobody_hears_of_the_end_of_a_disowned_one() {
        let (mut table, now) = (Table::default(), Instant::now());
        let number = table.insert(flow(1), now);
        table.leave(number, now);
        table.disown(number);
        assert_eq!(table.owned(), 0);
        assert_eq!(table.poll_over(now + SILENCE), None);
        assert!(table.get(number).is_none());
        assert_eq!(table.owned(), 0);
    }
}
