//! One direction of an impaired path, without I/O: what is put in comes out later, twice, or not at all.
//!
//! Datagrams meet the impairments in the order of a real path: lost at random, then queued at the bottleneck (and
//! dropped when its queue is full), then delayed; a repeated one comes twice at the same moment, a held-back one later
//! than those behind it. All chance comes from one seeded generator, so that a run with the same datagrams at the same
//! times repeats.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Bytes under way at once; beyond it datagrams are dropped and counted. 3 Gbit/s with 100 ms of delay need 38 MB.
const MAX_BYTES: usize = 64 << 20;
/// IPv4 and UDP headers, which a bottleneck carries too.
const HEADERS: usize = 28;
/// How much later than its neighbours a held-back datagram comes.
const HELD_BACK: Duration = Duration::from_millis(2);

/// A part of all datagrams, 0 to 100 %, to a millionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(u32);

/// The number is not a percentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a share is a number from 0 to 100, in percent")]
pub struct ShareError;

impl Share {
    const WHOLE: u32 = 1_000_000;

    /// `percent` of all, 0 to 100.
    pub fn from_percent(percent: f64) -> Result<Self, ShareError> {
        if (0.0..=100.0).contains(&percent) {
            Ok(Self((percent * 10_000.0).round() as u32))
        } else {
            Err(ShareError)
        }
    }

    /// In percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    fn hits(self, rng: &mut StdRng) -> bool {
        self.0 > 0 && rng.random_range(0..Self::WHOLE) < self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = ShareError;

    fn try_from(percent: f64) -> Result<Self, ShareError> {
        Self::from_percent(percent)
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.percent()
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        Self::from_percent(text.parse().map_err(|_| ShareError)?)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent())
    }
}

/// The slowest link of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// What it carries, IP and UDP headers included.
    pub bits_per_second: u64,
    /// What waits in front of it at most; a datagram that finds no room is dropped.
    pub queue_bytes: usize,
}

/// What a direction does to its datagrams. The default does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Impairment {
    /// How long each is under way, at least.
    pub delay: Duration,
    /// How many are lost.
    pub loss: Share,
    /// How many come twice.
    pub duplicate: Share,
    /// How many are overtaken by those behind them.
    pub reorder: Share,
    /// The slowest link, if any.
    pub bottleneck: Option<Bottleneck>,
}

/// What became of the datagrams of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Came out; a repeated one counts twice.
    pub passed: u64,
    /// Lost at random.
    pub lost: u64,
    /// Dropped at the bottleneck, because too much was under way, or because the system did not take it.
    pub dropped: u64,
    /// Thrown away while the path was blocked.
    pub blocked: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
}

/// A datagram on its way.
#[derive(Debug)]
struct UnderWay<T> {
    due: Instant,
    /// Orders those that are due at the same time.
    number: u64,
    len: usize,
    datagram: T,
}

impl<T> PartialEq for UnderWay<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for UnderWay<T> {}

impl<T> PartialOrd for UnderWay<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for UnderWay<T> {
    /// The heap gives its greatest first, and that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

/// One direction; see the module.
#[derive(Debug)]
pub struct Pipe<T> {
    impairment: Impairment,
    rng: StdRng,
    under_way: BinaryHeap<UnderWay<T>>,
    bytes: usize,
    numbered: u64,
    /// When the bottleneck has sent all that it took.
    link_free: Option<Instant>,
    blocked: bool,
    counts: Counts,
}

impl<T: Clone> Pipe<T> {
    /// A direction whose chance is drawn from `seed`.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            rng: StdRng::seed_from_u64(seed),
            under_way: BinaryHeap::new(),
            bytes: 0,
            numbered: 0,
            link_free: None,
            blocked: false,
            counts: Counts::default(),
        }
    }

    /// Treats what comes from now on in this way; what is under way stays so.
    pub fn set(&mut self, impairment: Impairment) {
        self.impairment = impairment;
        self.link_free = None;
    }

    /// Throws away what comes from now on, and what is under way; or passes again.
    pub fn block(&mut self, blocked: bool) {
        self.blocked = blocked;
        if blocked {
            self.counts.blocked += self.under_way.len() as u64;
            self.under_way.clear();
            self.bytes = 0;
        }
    }

    /// Whether what is put in may be sent on at once, without this pipe.
    pub fn is_open(&self) -> bool {
        !self.blocked && self.under_way.is_empty() && self.impairment == Impairment::default()
    }

    /// What became of the datagrams so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Counts datagrams that were sent past this pipe, or after they came out of it.
    pub fn note_passed(&mut self, datagrams: u64) {
        self.counts.passed += datagrams;
    }

    /// Counts datagrams that the system did not take.
    pub fn note_dropped(&mut self, datagrams: u64) {
        self.counts.dropped += datagrams;
    }

    /// Puts in a datagram of `len` bytes.
    pub fn push(&mut self, now: Instant, len: usize, datagram: T) {
        if self.blocked {
            self.counts.blocked += 1;
            return;
        }
        if self.impairment.loss.hits(&mut self.rng) {
            self.counts.lost += 1;
            return;
        }
        let Some(sent) = self.send_over_link(now, len) else {
            self.counts.dropped += 1;
            return;
        };
        let mut due = sent + self.impairment.delay;
        if self.impairment.reorder.hits(&mut self.rng) {
            self.counts.reordered += 1;
            due += HELD_BACK;
        }
        if self.impairment.duplicate.hits(&mut self.rng) {
            self.counts.duplicated += 1;
            self.enqueue(due, len, datagram.clone());
        }
        self.enqueue(due, len, datagram);
    }

    /// The next datagram whose time has come.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        if self.next_due()? > now {
            return None;
        }
        let next = self.under_way.pop()?;
        self.bytes -= next.len;
        Some(next.datagram)
    }

    /// When the next datagram comes out.
    pub fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|next| next.due)
    }

    fn enqueue(&mut self, due: Instant, len: usize, datagram: T) {
        if self.bytes + len > MAX_BYTES {
            self.counts.dropped += 1;
            return;
        }
        self.bytes += len;
        self.numbered += 1;
        self.under_way.push(UnderWay {
            due,
            number: self.numbered,
            len,
            datagram,
        });
    }

    /// When the bottleneck has sent the datagram; `None` when its queue is full.
    fn send_over_link(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(link) = self.impairment.bottleneck else {
            return Some(now);
        };
        let rate = link.bits_per_second.max(1) as f64 / 8.0;
        let free = self.link_free.map_or(now, |free| free.max(now));
        let waiting = free.saturating_duration_since(now).as_secs_f64() * rate;
        if waiting + len as f64 > link.queue_bytes as f64 {
            return None;
        }
        let sent = free + Duration::from_secs_f64((len + HEADERS) as f64 / rate);
        self.link_free = Some(sent);
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn share(percent: f64) -> Share {
        Share::from_percent(percent).unwrap()
    }

    /// Sends `count` datagrams of 1000 bytes, one each millisecond; what came out when, in milliseconds.
    fn run(impairment: Impairment, seed: u64, count: u32) -> (Vec<(u32, u128)>, Counts) {
        let start = Instant::now();
        let mut pipe = Pipe::new(impairment, seed);
        let mut came = Vec::new();
        for tick in 0..count + 1000 {
            let now = start + MILLISECOND * tick;
            if tick < count {
                pipe.push(now, 1000, tick);
            }
            while let Some(number) = pipe.pop(now) {
                came.push((number, (now - start).as_millis()));
            }
        }
        assert_eq!(pipe.next_due(), None);
        (came, pipe.counts())
    }

    #[test]
    fn delay_keeps_order_and_is_exact() {
        let impairment = Impairment {
            delay: MILLISECOND * 25,
            ..Impairment::default()
        };
        let (came, _) = run(impairment, 1, 100);
        let expected: Vec<(u32, u128)> = (0..100).map(|at| (at, u128::from(at) + 25)).collect();
        assert_eq!(came, expected);
    }

    #[test]
    fn loss_duplication_and_reordering_are_as_often_as_asked_and_repeat_by_seed() {
        let impairment = Impairment {
            loss: share(5.0),
            duplicate: share(3.0),
            reorder: share(10.0),
            ..Impairment::default()
        };
        let (came, counts) = run(impairment, 7, 20_000);
        assert_eq!(run(impairment, 7, 20_000), (came.clone(), counts));
        assert_ne!(run(impairment, 8, 20_000).0, came);
        assert!((900..1100).contains(&counts.lost), "{counts:?}");
        assert!((470..670).contains(&counts.duplicated), "{counts:?}");
        assert!((1750..2050).contains(&counts.reordered), "{counts:?}");
        let overtaken = came.windows(2).filter(|pair| pair[1].0 < pair[0].0).count() as u64;
        assert!(overtaken > counts.reordered / 2, "{overtaken}");
        assert_eq!(came.len() as u64, 20_000 - counts.lost + counts.duplicated);
    }

    #[test]
    fn a_bottleneck_passes_its_rate_and_its_queue_is_bounded() {
        // 1028 bytes each millisecond are 8.2 Mbit/s; half of that passes.
        let impairment = Impairment {
            bottleneck: Some(Bottleneck {
                bits_per_second: 4_112_000,
                queue_bytes: 20_000,
            }),
            ..Impairment::default()
        };
        let (came, counts) = run(impairment, 1, 10_000);
        assert!((4990..5050).contains(&came.len()), "{}", came.len());
        assert_eq!(counts.dropped, 10_000 - came.len() as u64);
        let waited = came
            .iter()
            .map(|(number, at)| at - u128::from(*number))
            .max()
            .unwrap();
        assert!((35..=42).contains(&waited), "20 kB at 0.5 MB/s: {waited} ms");
    }

    #[test]
    fn a_blocked_direction_passes_nothing_and_forgets_what_was_under_way() {
        let now = Instant::now();
        let mut pipe = Pipe::new(
            Impairment {
                delay: MILLISECOND,
                ..Impairment::default()
            },
            1,
        );
        pipe.push(now, 10, 'a');
        pipe.block(true);
        pipe.push(now, 10, 'b');
        assert_eq!(pipe.pop(now + MILLISECOND * 9), None);
        pipe.block(false);
        pipe.push(now, 10, 'c');
        assert_eq!(pipe.pop(now + MILLISECOND * 9), Some('c'));
        assert_eq!(pipe.counts().blocked, 2);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let now = Instant::now();
        let mut pipe = Pipe::new(
            Impairment {
                delay: MILLISECOND,
                ..Impairment::default()
            },
            1,
        );
        for _ in 0..MAX_BYTES / 60_000 + 10 {
            pipe.push(now, 60_000, ());
        }
        assert!(pipe.counts().dropped >= 9, "{:?}", pipe.counts());
    }

    #[test]
    fn a_share_is_a_percentage() {
        assert_eq!("0.1".parse(), Share::from_percent(0.1));
        assert_eq!(share(0.1).to_string(), "0.1 %");
        for text in ["-1", "101", "NaN", "", "all"] {
            assert_eq!(text.parse::<Share>(), Err(ShareError), "{text}");
        }
    }
}
