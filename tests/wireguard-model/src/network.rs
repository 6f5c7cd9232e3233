//! The network between the nodes: delay, loss, copies, disorder, and a memory for replays.

use std::net::SocketAddr;
use std::time::Duration;

/// Datagrams remembered for replays.
const RECORDED: usize = 64;

/// What happens to datagrams from now on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// One of this many is lost; 0 loses none, 1 all.
    pub lose_every: u8,
    /// One of this many arrives twice; 0 none.
    pub copy_every: u8,
    /// One of this many is held back behind those sent after it; 0 none.
    pub hold_every: u8,
}

/// What happened to a datagram that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It will arrive.
    Carried,
    /// It will not.
    Lost,
}

#[derive(Debug, Clone)]
struct InFlight {
    at: Duration,
    number: u64,
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// Datagrams on their way.
#[derive(Debug, Default)]
pub struct Network {
    pub weather: Weather,
    in_flight: Vec<InFlight>,
    recorded: Vec<(SocketAddr, Vec<u8>)>,
    count: u64,
}

/// One way through the network.
const DELAY: Duration = Duration::from_millis(10);
/// How much later a datagram comes that is held back: behind what is sent within it.
const HELD: Duration = Duration::from_millis(400);

impl Network {
    /// Takes a datagram at `now`.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], now: Duration) -> Fate {
        self.count += 1;
        let hits = |every: u8| every != 0 && self.count.is_multiple_of(u64::from(every));
        if self.recorded.len() == RECORDED {
            self.recorded.remove(0);
        }
        self.recorded.push((to, bytes.to_vec()));
        if hits(self.weather.lose_every) {
            return Fate::Lost;
        }
        let at = now
            + if hits(self.weather.hold_every) {
                HELD
            } else {
                DELAY
            };
        let copies = if hits(self.weather.copy_every) { 2 } else { 1 };
        for copy in 0..copies {
            self.in_flight.push(InFlight {
                at: at + DELAY * copy,
                number: self.count,
                from,
                to,
                bytes: bytes.to_vec(),
            });
        }
        Fate::Carried
    }

    /// Sends a recorded datagram once more, from an address of the replayer's own; false when there is none.
    pub fn replay(&mut self, which: usize, from: SocketAddr, now: Duration) -> bool {
        let Some((to, bytes)) = self.recorded.get(which % self.recorded.len().max(1)).cloned() else {
            return false;
        };
        self.in_flight.push(InFlight {
            at: now + DELAY,
            number: 0,
            from,
            to,
            bytes,
        });
        true
    }

    /// Sends a recorded datagram with one bit changed; false when there is none.
    pub fn forge(&mut self, which: usize, bit: usize, from: SocketAddr, now: Duration) -> bool {
        if !self.replay(which, from, now) {
            return false;
        }
        if let Some(forged) = self.in_flight.last_mut()
            && !forged.bytes.is_empty()
        {
            let bit = bit % (forged.bytes.len() * 8);
            forged.bytes[bit / 8] ^= 1 << (bit % 8);
        }
        true
    }

    /// Datagrams that can be replayed.
    pub fn recorded(&self) -> usize {
        self.recorded.len()
    }

    /// Datagrams that were handed over so far.
    pub fn carried(&self) -> u64 {
        self.count
    }

    /// When the next datagram arrives.
    pub fn next_arrival(&self) -> Option<Duration> {
        self.in_flight.iter().map(|datagram| datagram.at).min()
    }

    /// The next datagram that has arrived at `now`: sender, receiver, bytes.
    pub fn arrive(&mut self, now: Duration) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let (index, _) = self
            .in_flight
            .iter()
            .enumerate()
            .filter(|(_, datagram)| datagram.at <= now)
            .min_by_key(|(_, datagram)| (datagram.at, datagram.number))?;
        let arrived = self.in_flight.swap_remove(index);
        Some((arrived.from, arrived.to, arrived.bytes))
    }

    /// Forgets what is on its way: the receiver slept.
    pub fn lose_all(&mut self) {
        self.in_flight.clear();
    }
}
