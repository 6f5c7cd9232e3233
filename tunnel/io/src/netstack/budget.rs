//! How far the windows of all connections may open.
//!
//! A window is a promise: what it lets in has to be kept until the application reads it. It takes memory only when the
//! promise is called in, so it follows what is needed: it begins small, grows with what the application takes in one round
//! trip, and shrinks when that is less (see `transfer/receiver`). All promises together stay below one bound.
//! Enough for every connection that may still come is kept back, at the least, and what those that are here take beside their
//! bytes. One connection gets at most a part of the rest, and a new one a small part: the first ones open as far as they want,
//! and the more there are, the narrower the later ones. What was kept back is also what those that send find free when all
//! other promises are called in.

use super::pool::CONNECTION;

/// Window at the least: some packets, so that a connection goes on however many there are.
pub(super) const FLOOR: usize = 4 << 10;
/// Window at the begin, if there is room: what a window without a scale can say.
pub(super) const FIRST: usize = 64 << 10;
/// A new connection gets at most this part of what is free: of a thousand that come at once most want little.
const FIRST_SHARE: usize = 768;
/// Window at the most.
const MOST: usize = 6 << 20;
/// One connection gets at most this part of what is free.
const SHARE: usize = 2;

/// The bound on all windows.
#[derive(Debug)]
pub(super) struct Budget {
    free: usize,
    /// Connections that there may be at once, and how many of them may still come.
    connections: usize,
    vacant: usize,
}

impl Budget {
    /// `memory` bytes for at most `connections`; never less than these need at the least.
    pub(super) fn new(memory: usize, connections: usize) -> Self {
        Self {
            free: memory.max(connections * FLOOR),
            connections,
            vacant: connections,
        }
    }

    /// The window of a new connection. `None` when there are as many as may be.
    pub(super) fn admit(&mut self) -> Option<usize> {
        self.vacant = self.vacant.checked_sub(1)?;
        // Its own floor was kept back.
        let window = (self.spare() / FIRST_SHARE).clamp(FLOOR, FIRST);
        self.free -= window;
        Some(window)
    }

    /// The window of a connection that has `window` and wants `wanted`.
    pub(super) fn resize(&mut self, window: usize, wanted: usize) -> usize {
        self.free += window;
        let most = self.spare() / SHARE;
        // What it has is not taken from it, unless it wants less.
        let window = wanted.min(most.max(window)).clamp(FLOOR, MOST);
        self.free -= window;
        window
    }

    /// A connection with this window is gone.
    pub(super) fn give_back(&mut self, window: usize) {
        self.free += window;
        self.vacant += 1;
    }

    /// What nobody needs.
    fn spare(&self) -> usize {
        let present = self.connections - self.vacant;
        self.free
            .saturating_sub(self.vacant * FLOOR + present * CONNECTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: usize = 12 << 20;

    #[test]
    fn the_first_connections_get_what_they_want_and_all_stay_within_the_bound() {
        for memory in [0, MEMORY, 1 << 30] {
            let bound = memory.max(1000 * FLOOR);
            let mut budget = Budget::new(memory, 1000);
            let mut windows: Vec<usize> = Vec::new();
            while let Some(window) = budget.admit() {
                windows.push(budget.resize(window, 4 << 20));
            }
            assert_eq!(windows.len(), 1000);
            if memory >= MEMORY {
                assert!(windows[0] >= 3 << 20, "{}", windows[0]);
            }
            assert!(windows.is_sorted_by(|before, after| before >= after));
            assert!(windows.iter().all(|window| *window >= FLOOR));
            assert!(windows.iter().sum::<usize>() <= bound);
            for window in windows {
                let window = budget.resize(window, 0);
                assert_eq!(window, FLOOR);
                budget.give_back(window);
            }
            assert_eq!(budget.free, bound, "all of it came back");
        }
    }
}
