//! Which connections are to be looked at, and when.
//!
//! A connection is visited when a packet came for it, its application did something, or one of its timers is due. The others
//! cost nothing, however many they are.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::wake::Slot;

/// The queue of visits and the timers, for connections known by their slots.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Each connection is in here once at most.
    ready: VecDeque<Slot>,
    timers: BTreeSet<(Instant, Slot)>,
    /// By slot.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    is_ready: bool,
    timer: Option<Instant>,
}

impl Schedule {
    /// Asks for a visit in this round, or in the next if this round's visits are over.
    pub(super) fn ready(&mut self, slot: Slot) {
        let entry = self.entry(slot);
        if !entry.is_ready {
            entry.is_ready = true;
            self.ready.push_back(slot);
        }
    }

    /// Asks for a visit at `at`, unless one is due earlier: a visit too early finds nothing to do and asks again.
    pub(super) fn wake_at(&mut self, slot: Slot, at: Instant) {
        let entry = self.entry(slot);
        if entry.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        if let Some(later) = entry.timer.replace(at) {
            self.timers.remove(&(later, slot));
        }
        self.timers.insert((at, slot));
    }

    /// Asks for visits of those whose timers are due.
    pub(super) fn fire(&mut self, now: Instant) {
        while let Some((at, slot)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, slot));
            self.entry(slot).timer = None;
            self.ready(slot);
        }
    }

    /// The next one to be visited.
    pub(super) fn next_visit(&mut self) -> Option<Slot> {
        let slot = self.ready.pop_front()?;
        self.entry(slot).is_ready = false;
        Some(slot)
    }

    /// Number of visits asked for.
    pub(super) fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// When the next timer is due.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The slot's connection is gone.
    pub(super) fn forget(&mut self, slot: Slot) {
        if let Some(at) = self.entry(slot).timer.take() {
            self.timers.remove(&(at, slot));
        }
    }

    fn entry(&mut self, slot: Slot) -> &mut Entry {
        if self.entries.len() <= slot.0 {
            self.entries.resize(slot.0 + 1, Entry::default());
        }
        &mut self.entries[slot.0]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_is_visited_once_and_the_earliest_timer_counts() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        schedule.ready(Slot(3));
        schedule.ready(Slot(1));
        schedule.ready(Slot(3));
        schedule.wake_at(Slot(1), at(5));
        schedule.wake_at(Slot(1), at(9));
        schedule.wake_at(Slot(2), at(9));
        schedule.wake_at(Slot(2), at(4));
        let visits = |schedule: &mut Schedule| {
            std::iter::from_fn(|| schedule.next_visit().map(|slot| slot.0)).collect::<Vec<_>>()
        };
        assert_eq!(visits(&mut schedule), [3, 1]);
        assert_eq!(schedule.next_timer(), Some(at(4)));
        schedule.fire(at(5));
        assert_eq!(visits(&mut schedule), [2, 1]);
        assert_eq!(
            schedule.next_timer(),
            None,
            "later wishes went into the earlier ones"
        );
        schedule.wake_at(Slot(2), at(10));
        schedule.forget(Slot(2));
        assert_eq!(schedule.next_timer(), None);
    }
}
