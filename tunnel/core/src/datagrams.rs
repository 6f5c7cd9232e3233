//! Datagrams on their way out, in runs that one system call can send.
//!
//! The kernel takes many datagrams at once when they go to one destination, lie one behind the other, and have the same
//! size, the last excepted, which may be shorter (UDP segmentation offload). So that is how they are written in the first
//! place: encryption puts each datagram where it will be sent from, and a run ends where the next one does not fit.

use std::net::SocketAddr;
use std::ops::Range;

/// Datagrams of one run at most: what every kernel with segmentation offload takes (`UDP_MAX_SEGMENTS` before Linux 6.10).
pub const MAX_RUN_DATAGRAMS: usize = 64;
/// Bytes of one run at most. The length of an IP packet is a 16-bit number that also counts the headers.
pub const MAX_RUN_BYTES: usize = 65_000;

/// Datagrams in runs, in the order in which they were added. The memory grows to the largest batch and is kept.
#[derive(Debug, Default)]
pub struct Datagrams {
    bytes: Vec<u8>,
    runs: Vec<RunAt>,
    len: usize,
}

#[derive(Debug)]
struct RunAt {
    destination: SocketAddr,
    range: Range<usize>,
    /// Length of every datagram but the last.
    segment: usize,
    datagrams: usize,
}

impl RunAt {
    /// Whether a datagram of `len` bytes to `destination` may come behind what is there.
    fn takes(&self, len: usize, destination: SocketAddr) -> bool {
        let all_full = self.range.len() == self.segment * self.datagrams;
        self.destination == destination
            && all_full
            && len <= self.segment
            && self.datagrams < MAX_RUN_DATAGRAMS
            && self.range.len() + len <= MAX_RUN_BYTES
    }
}

/// Datagrams of one size to one destination, one behind the other. Only the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Where they go.
    pub destination: SocketAddr,
    /// All of them.
    pub bytes: &'a [u8],
    /// Length of every datagram but the last, in bytes.
    pub segment: usize,
}

impl<'a> Run<'a> {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.segment.max(1))
    }
}

impl Datagrams {
    /// No datagrams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the datagrams and keeps the memory.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.len = 0;
    }

    /// Number of datagrams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no datagram.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runs in order.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.runs.iter().map(|run| Run {
            destination: run.destination,
            bytes: &self.bytes[run.range.clone()],
            segment: run.segment,
        })
    }

    /// The run at `index`.
    #[must_use]
    pub fn run(&self, index: usize) -> Option<Run<'_>> {
        let run = self.runs.get(index)?;
        Some(Run {
            destination: run.destination,
            bytes: &self.bytes[run.range.clone()],
            segment: run.segment,
        })
    }

    /// The datagrams one by one, in order, with their destinations.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        self.runs()
            .flat_map(|run| run.datagrams().map(move |datagram| (datagram, run.destination)))
    }

    /// Appends a copy of `datagram`.
    pub fn push(&mut self, datagram: &[u8], destination: SocketAddr) {
        self.reserve(datagram.len())[..datagram.len()].copy_from_slice(datagram);
        self.commit(datagram.len(), destination);
    }

    /// At least `len` writable bytes behind the last datagram; what is written becomes one by [`Datagrams::commit`].
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        let end = self.end();
        if self.bytes.len() < end + len {
            self.bytes.resize(end + len, 0);
        }
        &mut self.bytes[end..]
    }

    /// Makes the first `len` of the reserved bytes a datagram; of none, nothing. `len` beyond what was reserved is cut.
    pub fn commit(&mut self, len: usize, destination: SocketAddr) {
        let start = self.end();
        let len = len.min(self.bytes.len() - start);
        if len == 0 {
            return;
        }
        self.len += 1;
        match self.runs.last_mut() {
            Some(run) if run.takes(len, destination) => {
                run.range.end += len;
                run.datagrams += 1;
            }
            _ => self.runs.push(RunAt {
                destination,
                range: start..start + len,
                segment: len,
                datagrams: 1,
            }),
        }
    }

    fn end(&self) -> usize {
        self.runs.last().map_or(0, |run| run.range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 51820))
    }

    fn shapes(datagrams: &Datagrams) -> Vec<(u8, usize, usize)> {
        datagrams
            .runs()
            .map(|run| {
                let SocketAddr::V4(address) = run.destination else {
                    panic!("only IPv4 here");
                };
                (address.ip().octets()[3], run.bytes.len(), run.segment)
            })
            .collect()
    }

    #[test]
    fn equal_datagrams_to_one_place_are_one_run_and_a_shorter_one_is_its_last() {
        let mut datagrams = Datagrams::new();
        for (len, destination) in [
            (100, 1),
            (100, 1),
            (60, 1),
            (100, 1),
            (100, 2),
            (120, 2),
            (120, 1),
        ] {
            datagrams.push(&vec![len; usize::from(len)], to(destination));
        }
        assert_eq!(
            shapes(&datagrams),
            [
                (1, 260, 100),
                (1, 100, 100),
                (2, 100, 100),
                (2, 120, 120),
                (1, 120, 120)
            ]
        );
        assert_eq!(datagrams.len(), 7);
        let lens: Vec<usize> = datagrams.iter().map(|(datagram, _)| datagram.len()).collect();
        assert_eq!(lens, [100, 100, 60, 100, 100, 120, 120]);
        assert!(
            datagrams
                .iter()
                .all(|(datagram, _)| datagram.iter().all(|byte| usize::from(*byte) == datagram.len()))
        );
        datagrams.clear();
        assert!(datagrams.is_empty() && datagrams.run(0).is_none());
    }

    #[test]
    fn a_run_ends_at_what_the_kernel_takes() {
        let mut datagrams = Datagrams::new();
        for _ in 0..130 {
            datagrams.push(&[1; 32], to(1));
        }
        assert_eq!(shapes(&datagrams), [(1, 2048, 32), (1, 2048, 32), (1, 64, 32)]);
        datagrams.clear();
        for _ in 0..46 {
            datagrams.push(&[1; 1452], to(1));
        }
        assert_eq!(shapes(&datagrams), [(1, 44 * 1452, 1452), (1, 2 * 1452, 1452)]);
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let mut datagrams = Datagrams::new();
        datagrams.reserve(100)[..3].copy_from_slice(b"abc");
        datagrams.commit(0, to(1));
        assert!(datagrams.is_empty());
        datagrams.push(b"de", to(1));
        assert_eq!(datagrams.run(0).map(|run| run.bytes), Some(&b"de"[..]));
    }
}
