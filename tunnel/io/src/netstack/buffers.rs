//! How large a connection's buffers are.
//!
//! smoltcp cannot change the buffers of a connection that lives, and a small one caps its speed at buffer / round trip. So
//! the size is chosen when the connection begins, from the round trip that its path showed before: what the path can hold
//! at [`TARGET_RATE`], and no more. The memory is zero pages until it is used; as a ring goes round it touches all of them, so a
//! connection that moves much data does hold the whole of its buffers, and one that moves little does not.
//!
//! All sizes together stay below one bound, whatever the connections do: what each *may* hold is taken off the budget when
//! it begins and comes back when it ends. Enough for every connection that may still come is kept back, at the smallest size, and
//! one connection gets at most a quarter of the rest: the first ones are as large as they want, and the more there are, the smaller
//! the later ones get.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::connection::RING;

/// Smallest buffer each way.
const MIN_BUFFER: usize = 16 << 10;
/// Smallest buffer that a connection wants: the time that threads need to answer each other counts as round trip, too.
const NEAR_BUFFER: usize = 512 << 10;
/// What a connection wants while nothing is known of its path: only the first one is in that place.
const UNKNOWN_BUFFER: usize = MAX_BUFFER;
/// Largest buffer each way; the window's scale is made for it.
const MAX_BUFFER: usize = 4 << 20;
/// Bytes per second that a buffer should carry (1 Gbit/s), as long as it stays within [`MAX_BUFFER`].
const TARGET_RATE: u128 = 125_000_000;
/// One connection gets at most this part of what is free.
const SHARE: usize = 4;

/// What one connection may hold: this much in each of its two smoltcp buffers and in its `sender`, and in each of its two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) buffer: usize,
    pub(super) ring: usize,
}

impl Size {
    const MIN: Self = Self::with_buffer(MIN_BUFFER);

    const fn with_buffer(buffer: usize) -> Self {
        let ring = if buffer / 2 < RING { buffer / 2 } else { RING };
        Self { buffer, ring }
    }

    /// Two smoltcp buffers, as much again for what is kept to be sent again, and two rings.
    const fn total(self) -> usize {
        3 * self.buffer + 2 * self.ring
    }
}

/// The bound on the memory of all connections.
#[derive(Debug)]
pub(super) struct Budget {
    free: usize,
    /// Connections that may still come.
    vacant: usize,
}

impl Budget {
    /// `memory` bytes for at most `connections`; never less than these need at the smallest size.
    pub(super) fn new(memory: usize, connections: usize) -> Self {
        Self {
            free: memory.max(connections * Size::MIN.total()),
            vacant: connections,
        }
    }

    /// The size of a connection over a path with this round trip. `None` when there are as many as may be.
    pub(super) fn take(&mut self, round_trip: Option<Duration>) -> Option<Size> {
        self.vacant = self.vacant.checked_sub(1)?;
        let wanted = match round_trip {
            Some(round_trip) => {
                let bytes = round_trip.as_nanos().saturating_mul(TARGET_RATE) / 1_000_000_000;
                usize::try_from(bytes)
                    .unwrap_or(MAX_BUFFER)
                    .clamp(NEAR_BUFFER, MAX_BUFFER)
                    .next_power_of_two()
            }
            None => UNKNOWN_BUFFER,
        };
        let spare = self.free.saturating_sub((self.vacant + 1) * Size::MIN.total());
        let mut size = Size::with_buffer(wanted);
        while size.total() > spare / SHARE && size.buffer > MIN_BUFFER {
            size = Size::with_buffer(size.buffer / 2);
        }
        self.free -= size.total();
        Some(size)
    }

    /// A connection of this size is gone.
    pub(super) fn give_back(&mut self, size: Size) {
        self.free += size.total();
        self.vacant += 1;
    }
}

/// A round trip is forgotten after this long without one as short: paths change.
const REMEMBER: Duration = Duration::from_mins(5);
/// Paths remembered at most. Beyond it, those are forgotten that were not confirmed for the longest time.
const MAX_PATHS: usize = 4096;

/// The shortest round trips seen lately, by path.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    paths: HashMap<Option<IpAddr>, (Duration, Instant)>,
}

impl RoundTrips {
    /// Notes a measurement. Queues and delayed answers make it longer than the path is, so the shortest counts.
    pub(super) fn note(&mut self, path: Option<IpAddr>, round_trip: Duration, now: Instant) {
        match self.paths.get_mut(&path) {
            Some((shortest, at)) => {
                if round_trip <= *shortest || now.saturating_duration_since(*at) > REMEMBER {
                    (*shortest, *at) = (round_trip, now);
                }
            }
            None => {
                if self.paths.len() >= MAX_PATHS {
                    let oldest = self.paths.iter().min_by_key(|(_, (_, at))| *at);
                    if let Some(oldest) = oldest.map(|(path, _)| *path) {
                        self.paths.remove(&oldest);
                    }
                }
                self.paths.insert(path, (round_trip, now));
            }
        }
    }

    pub(super) fn get(&self, path: Option<IpAddr>) -> Option<Duration> {
        self.paths.get(&path).map(|(shortest, _)| *shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: usize = 96 << 20;
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_connections_get_what_their_path_needs() {
        for (round_trip, expected) in [
            (None, 4 << 20),
            (Some(Duration::ZERO), 512 << 10),
            (Some(3 * MS), 512 << 10),
            (Some(8 * MS), 1 << 20),
            (Some(20 * MS), 4 << 20),
            (Some(50 * MS), 4 << 20),
            (Some(Duration::MAX), 4 << 20),
        ] {
            let size = Budget::new(MEMORY, 512).take(round_trip);
            assert_eq!(size.map(|size| size.buffer), Some(expected), "{round_trip:?}");
        }
    }

    #[test]
    fn all_connections_together_stay_within_the_bound() {
        for memory in [0, MEMORY, 1 << 30] {
            let mut budget = Budget::new(memory, 512);
            let sizes: Vec<Size> = std::iter::from_fn(|| budget.take(Some(100 * MS))).collect();
            assert_eq!(sizes.len(), 512);
            let total: usize = sizes.iter().map(|size| size.total()).sum();
            assert!(
                total <= memory.max(512 * Size::MIN.total()),
                "{total} of {memory}"
            );
            assert!(sizes.is_sorted_by(|before, after| before.buffer >= after.buffer));
            sizes.iter().for_each(|size| budget.give_back(*size));
            assert_eq!(
                budget.free,
                memory.max(512 * Size::MIN.total()),
                "all of it came back"
            );
        }
    }

    #[test]
    fn the_shortest_round_trip_counts_until_it_is_old() {
        let (mut trips, now) = (RoundTrips::default(), Instant::now());
        trips.note(None, 50 * MS, now);
        trips.note(None, 80 * MS, now);
        assert_eq!(trips.get(None), Some(50 * MS));
        trips.note(None, 80 * MS, now + REMEMBER + MS);
        assert_eq!(trips.get(None), Some(80 * MS));
        for number in 0..2 * MAX_PATHS as u32 {
            trips.note(Some(IpAddr::from(number.to_be_bytes())), MS, now);
        }
        assert!(trips.paths.len() <= MAX_PATHS);
    }
}
