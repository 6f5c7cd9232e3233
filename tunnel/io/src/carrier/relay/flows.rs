//! Who is relayed: one flow for each remote address and port, in a bound, ended by silence.
//!
//! A remote that was never answered may be nobody: source addresses can be made up, and whoever knows the gateway's public key is
//! asked by it for a cookie. So an answer is only what the gateway says to keys that it knows (see
//! [`is_answer`](crate::carrier::is_answer)). Where the table is full, the oldest of those that have none makes room, so a flood
//! of them takes nothing from who is answered, and a newcomer that is known is answered long before its turn comes.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long the gateway may be silent towards a flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence {
    /// Until its first answer. A device asks every 5 s.
    pub(super) unanswered: Duration,
    /// Later. A session in use is renewed every 120 s, and that is answered; who says nothing for so long is taken anew.
    pub(super) idle: Duration,
}

/// One remote, with what leads to the gateway for it.
#[derive(Debug)]
pub(super) struct Flow<S> {
    pub(super) remote: SocketAddr,
    pub(super) socket: S,
    /// Of the first datagram, and later of the latest answer.
    since: Instant,
    is_answered: bool,
    number: u64,
}

/// All of them. A flow keeps its slot for life, and the slot is used again afterwards.
#[derive(Debug)]
pub(super) struct Flows<S> {
    slots: Vec<Option<Flow<S>>>,
    free: Vec<usize>,
    by_remote: HashMap<SocketAddr, usize>,
    /// Slot and number of the flows in the order of their beginnings; those that were answered or ended since are passed over.
    unanswered: VecDeque<(usize, u64)>,
    next_number: u64,
    max: usize,
}

impl<S> Flows<S> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_remote: HashMap::new(),
            unanswered: VecDeque::new(),
            next_number: 0,
            max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_remote.len()
    }

    pub(super) fn of(&self, remote: &SocketAddr) -> Option<usize> {
        self.by_remote.get(remote).copied()
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Flow<S>> {
        self.slots.get(slot)?.as_ref()
    }

    /// Makes room for one more; false when everybody is answered.
    pub(super) fn make_room(&mut self) -> bool {
        while self.len() >= self.max {
            let Some((slot, number)) = self.unanswered.pop_front() else {
                return false;
            };
            if self
                .get(slot)
                .is_some_and(|flow| flow.number == number && !flow.is_answered)
            {
                self.end(slot);
            }
        }
        true
    }

    /// The slot that the next flow will have.
    pub(super) fn next_slot(&self) -> usize {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    /// Takes a new flow into [`Flows::next_slot`].
    pub(super) fn begin(&mut self, remote: SocketAddr, socket: S, now: Instant) {
        let slot = self.next_slot();
        let number = self.next_number;
        self.next_number += 1;
        let flow = Flow {
            remote,
            socket,
            since: now,
            is_answered: false,
            number,
        };
        match self.free.pop() {
            Some(free) => self.slots[free] = Some(flow),
            None => self.slots.push(Some(flow)),
        }
        self.by_remote.insert(remote, slot);
        self.unanswered.push_back((slot, number));
    }

    /// The gateway answered, as it does to who it knows.
    pub(super) fn answered(&mut self, slot: usize, now: Instant) {
        if let Some(Some(flow)) = self.slots.get_mut(slot) {
            (flow.is_answered, flow.since) = (true, now);
        }
    }

    /// Ends those that the gateway is silent towards.
    pub(super) fn expire(&mut self, silence: Silence, now: Instant) {
        for slot in 0..self.slots.len() {
            let is_over = self.get(slot).is_some_and(|flow| {
                let patience = if flow.is_answered {
                    silence.idle
                } else {
                    silence.unanswered
                };
                now.saturating_duration_since(flow.since) >= patience
            });
            if is_over {
                self.end(slot);
            }
        }
        // What was passed over so far does not pile up.
        let slots = &self.slots;
        self.unanswered.retain(|(slot, number)| {
            let flow = slots.get(*slot).and_then(Option::as_ref);
            flow.is_some_and(|flow| flow.number == *number && !flow.is_answered)
        });
    }

    fn end(&mut self, slot: usize) {
        if let Some(flow) = self.slots.get_mut(slot).and_then(Option::take) {
            self.by_remote.remove(&flow.remote);
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Silence = Silence {
        unanswered: Duration::from_secs(15),
        idle: Duration::from_secs(200),
    };

    fn remote(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    fn begin(flows: &mut Flows<()>, number: u16, now: Instant) -> usize {
        assert!(flows.make_room());
        flows.begin(remote(number), (), now);
        flows.of(&remote(number)).unwrap()
    }

    #[test]
    fn who_is_answered_keeps_its_place_in_a_flood() {
        let now = Instant::now();
        let mut flows = Flows::new(4);
        let (known, other) = (begin(&mut flows, 1, now), begin(&mut flows, 2, now));
        flows.answered(known, now);
        for stranger in 100..10_000 {
            begin(&mut flows, stranger, now);
            assert_eq!(flows.len(), usize::from((stranger - 100).min(1)) + 3);
        }
        assert_eq!(flows.of(&remote(1)), Some(known));
        assert_eq!(flows.of(&remote(2)), None, "{other}");
        assert!(flows.unanswered.len() <= 4);
    }

    #[test]
    fn nobody_is_sent_away_while_everybody_is_answered() {
        let now = Instant::now();
        let mut flows = Flows::new(2);
        for number in [1, 2] {
            let slot = begin(&mut flows, number, now);
            flows.answered(slot, now);
        }
        assert!(!flows.make_room());
        assert_eq!(flows.len(), 2);
    }

    #[test]
    fn silence_ends_a_flow_and_its_slot_is_used_again() {
        let start = Instant::now();
        let mut flows = Flows::new(8);
        let stranger = begin(&mut flows, 1, start);
        let known = begin(&mut flows, 2, start);
        flows.answered(known, start + Duration::from_secs(1));
        flows.expire(SILENCE, start + Duration::from_secs(14));
        assert_eq!(flows.len(), 2);
        flows.expire(SILENCE, start + Duration::from_secs(15));
        assert_eq!((flows.len(), flows.of(&remote(1))), (1, None));
        assert!(flows.unanswered.is_empty());
        assert_eq!(begin(&mut flows, 3, start + Duration::from_secs(16)), stranger);
        flows.answered(known, start + Duration::from_secs(100));
        flows.expire(SILENCE, start + Duration::from_secs(299));
        assert_eq!(flows.of(&remote(2)), Some(known));
        flows.expire(SILENCE, start + Duration::from_secs(300));
        assert_eq!(flows.len(), 0);
    }
}
