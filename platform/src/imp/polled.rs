//! Where the system's own events are not used: the network is looked at from time to time.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::network::{NetworkSignal, NextHop};

/// How often. A roam is noticed within this.
const LOOK: Duration = Duration::from_secs(5);
/// A look that comes so much too late by the wall clock comes after a sleep.
const SLEEP_MIN: Duration = Duration::from_secs(5);

/// The system is not asked; a network is told by its prefix.
pub(crate) fn next_hops(_destinations: &[IpAddr]) -> Vec<NextHop> {
    Vec::new()
}

#[derive(Debug)]
pub(crate) struct Watch {
    looks: Interval,
    last: SystemTime,
}

impl Watch {
    #[allow(clippy::unnecessary_wraps, reason = "it can fail where the system is asked")]
    pub(crate) fn new() -> io::Result<Self> {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.reset();
        Ok(Self {
            looks,
            last: SystemTime::now(),
        })
    }

    pub(crate) async fn recv(&mut self) -> NetworkSignal {
        self.looks.tick().await;
        let now = SystemTime::now();
        let gap = now.duration_since(self.last).unwrap_or_default();
        self.last = now;
        if gap >= LOOK + SLEEP_MIN {
            NetworkSignal::Resumed
        } else {
            NetworkSignal::Changed
        }
    }
}
