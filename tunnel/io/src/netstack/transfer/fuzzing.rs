//! A connection's bytes for the fuzz targets (`tests/fuzz`) and for the test that replays their corpus: two ends and a path that
//! loses, doubles and reorders, and one end before anybody at all.

#![expect(
    clippy::panic,
    reason = "a check that does not hold is what these functions are for"
)]

mod end;
mod packet;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::end::{DEAD_AFTER, End, Hello, byte};
use self::packet::{ACK, FIN, Packet, RST, SYN, options, ranges};

/// Events of one run; the rest of the input is not read.
const STEPS: usize = 512;
/// Packets on the path each way; more are lost.
const PATH: usize = 256;
/// Packets in one visit at most, as in the stack.
const ROOM: usize = 64;
/// Rounds after which two honest ends have everything, over a path that has become a good one.
const ROUNDS: usize = 20_000;

struct Input<'i>(std::slice::Iter<'i, u8>);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn number(&mut self) -> i32 {
        (i32::from(self.short()) << 16) | i32::from(self.short())
    }

    /// Mostly small, at times any.
    fn offset(&mut self) -> i64 {
        match self.byte() {
            0 => 0,
            kind @ 1..=0x7f => i64::from(self.byte()) << (kind % 8),
            kind @ 0x80..=0xef => -(i64::from(self.byte()) << (kind % 8)),
            _ => self.number().into(),
        }
    }

    /// A time that passes: up to a quarter of a second, or up to some minutes.
    fn time(&mut self, is_long: bool) -> Duration {
        let unit = if is_long { 1000 } else { 1 };
        Duration::from_millis(u64::from(self.byte()) * unit)
    }

    fn memory(&mut self) -> usize {
        if self.byte() & 1 == 0 { 1 << 20 } else { 64 << 20 }
    }
}

/// Two honest ends. When the path has become a good one, all that was written arrives, and the end of it.
pub fn pair(bytes: &[u8]) {
    let mut input = Input(bytes.iter());
    let start = Instant::now();
    // Only both together shift their windows.
    let scaled = input.byte() & 4;
    let mut hello = || Hello {
        number: input.number(),
        window: u16::MAX,
        options: options(input.byte() & 3 | scaled, input.short()),
    };
    let hellos = [hello(), hello()];
    let memory = input.memory();
    let end = |side: usize| End::new(side, &hellos[side], &hellos[1 - side], memory, start);
    let (Some(one), Some(other)) = (end(0), end(1)) else {
        return;
    };
    let mut path = Path {
        ends: [one, other],
        ways: Default::default(),
        now: start + Duration::from_millis(5),
    };
    for _ in 0..STEPS {
        if input.0.len() == 0 {
            break;
        }
        path.step(&mut input);
        path.check();
    }
    path.settle();
    let Path { ends, .. } = path;
    ends.into_iter().for_each(End::finish);
}

struct Path {
    ends: [End; 2],
    /// To the first end and to the second.
    ways: [VecDeque<Vec<u8>>; 2],
    now: Instant,
}

impl Path {
    fn step(&mut self, input: &mut Input<'_>) {
        let verb = input.byte();
        let side = usize::from(verb >> 7);
        let way = &mut self.ways[side];
        match verb & 0x7f {
            0..=23 => self.visit(side, ROOM),
            24..=31 => self.visit(side, usize::from(input.byte()) % ROOM),
            32..=47 => self.ends[side].write(usize::from(input.short() >> 2)),
            48..=63 => self.ends[side].read(usize::from(input.short())),
            64..=87 => self.deliver(side, usize::from(verb & 15) + 1),
            88..=95 => drop(way.pop_front()),
            96..=99 => {
                if let Some(packet) = way.front().cloned() {
                    way.push_back(packet);
                }
            }
            100..=107 => way.rotate_left(usize::from(verb & 3).min(way.len())),
            108..=123 => self.now += input.time(false),
            124..=126 => self.ends[side].is_shut = true,
            // Something that gets lost all of it.
            _ => way.clear(),
        }
    }

    fn visit(&mut self, side: usize, room: usize) {
        self.ends[side].visit(room, None, self.now);
        self.send(side);
    }

    fn deliver(&mut self, side: usize, most: usize) {
        for _ in 0..most {
            let Some(packet) = self.ways[side].pop_front() else {
                break;
            };
            self.ends[side].take(&packet, self.now);
        }
        self.send(side);
    }

    /// What an end made is on the path.
    fn send(&mut self, side: usize) {
        let way = &mut self.ways[1 - side];
        for (packet, ()) in self.ends[side].out.iter() {
            if way.len() < PATH {
                way.push_back(packet.to_vec());
            }
        }
        self.ends[side].out.clear();
    }

    fn check(&self) {
        for (end, other) in [(0, 1), (1, 0)].map(|(end, other)| (&self.ends[end], &self.ends[other])) {
            assert!(!end.transfer.is_reset(), "nobody reset it");
            assert!(end.acknowledged <= other.written + u64::from(other.is_shut));
        }
    }

    /// Both applications write no more and read all, and no packet is lost.
    fn settle(&mut self) {
        for end in &mut self.ends {
            end.is_shut = true;
        }
        for _ in 0..ROUNDS {
            for side in [0, 1] {
                self.visit(side, ROOM);
                self.ends[side].read(usize::MAX);
            }
            let is_quiet = self.ways.iter().all(VecDeque::is_empty);
            for side in [0, 1] {
                self.deliver(side, PATH);
            }
            self.check();
            let is_over = |end: &End| end.transfer.is_over() && end.is_read();
            if self.ends.iter().all(is_over) {
                return self.check_all();
            }
            self.now += Duration::from_millis(1);
            if is_quiet {
                let deadlines = self.ends.iter().filter_map(|end| end.transfer.deadline());
                let Some(next) = deadlines.min() else {
                    panic!("nobody has anything to do");
                };
                self.now = self.now.max(next);
            }
        }
        panic!("it does not come to an end");
    }

    fn check_all(&self) {
        let [one, other] = &self.ends;
        assert_eq!((one.read, other.read), (other.written, one.written));
        assert!(self.ends.iter().all(|end| end.transfer.is_delivered()));
    }
}

/// One end, and whatever segments. What it hands over is what was sent at that place, and it acknowledges nothing else.
pub fn peer(bytes: &[u8]) {
    let mut input = Input(bytes.iter());
    let mut now = Instant::now();
    let own = Hello {
        number: input.number(),
        window: u16::MAX,
        options: options(7, 1240),
    };
    let mut other = Hello {
        number: input.number(),
        window: input.short(),
        options: Vec::new(),
    };
    let length = usize::from(input.byte()) % 41;
    other.options.extend((0..length).map(|_| input.byte()));
    let Some(mut end) = End::new(0, &own, &other, input.memory(), now) else {
        return;
    };
    now += Duration::from_millis(5);
    let mut sent = Sent::default();
    for _ in 0..STEPS {
        if input.0.len() == 0 {
            break;
        }
        match input.byte() {
            0..=0x3f => end.visit(ROOM, None, now),
            0x40..=0x47 => end.visit(
                usize::from(input.byte()) % ROOM,
                Some(Duration::from_secs(60)),
                now,
            ),
            0x48..=0x5f => end.write(usize::from(input.short() >> 2)),
            0x60..=0x77 => end.read(usize::from(input.short())),
            verb @ 0x78..=0x8f => now += input.time(verb < 0x80),
            0x90 => end.is_shut = true,
            0x91 => end.transfer.abort(),
            verb => segment(verb, &mut input, &mut sent, &mut end, now),
        }
        end.out.clear();
        let until = sent.until();
        assert!(
            end.acknowledged <= until && end.read <= until,
            "more than was ever sent"
        );
        if end.transfer.has_ended() && end.is_read() {
            assert!(sent.ends.contains(&end.read.into()), "no end was there");
        }
    }
    // Somebody who is silent is given up, or has nothing to answer.
    end.is_shut = true;
    for _ in 0..64 {
        end.visit(ROOM, None, now);
        end.read(usize::MAX);
        end.out.clear();
        now += DEAD_AFTER / 8;
    }
    assert!(
        end.transfer.is_over() || end.transfer.is_delivered(),
        "nobody is there, and nobody notices"
    );
    end.finish();
}

/// A segment of the other end.
fn segment(verb: u8, input: &mut Input<'_>, sent: &mut Sent, end: &mut End, now: Instant) {
    let (at, number) = end.their_number(input.offset());
    let acknowledgement = end.our_number(if verb & 1 == 0 { 0 } else { input.offset() });
    let window = if verb & 2 == 0 { u16::MAX } else { input.short() };
    let length = if verb & 4 == 0 { 0 } else { input.short() % 2048 };
    let rare = if verb & 8 == 0 { 0 } else { input.byte() };
    let flags = match rare & 7 {
        1 => ACK | RST,
        2 => RST,
        3 => ACK | SYN,
        4 => 0,
        5..=7 => ACK | FIN,
        _ => ACK,
    };
    let mut given = Vec::new();
    for _ in 0..(rare >> 3) % 4 {
        given.push((
            end.our_number(-input.offset().abs()),
            end.our_number(-input.offset().abs()),
        ));
    }
    let options = if given.is_empty() {
        Vec::new()
    } else {
        ranges(&given)
    };
    let payload: Vec<u8> = (at..at + i128::from(length))
        .map(|at| byte(1, at as u64))
        .collect();
    sent.note(at, at + i128::from(length), flags & FIN != 0);
    let packet = Packet {
        from: 1,
        number,
        acknowledgement,
        flags,
        window,
        options: &options,
        payload: &payload,
    };
    end.take(&packet.to_bytes(), now);
}

/// What was sent of a stream: ranges, which have its end as one more, and where an end was.
#[derive(Default)]
struct Sent {
    ranges: Vec<(i128, i128)>,
    ends: Vec<i128>,
}

impl Sent {
    fn note(&mut self, start: i128, end: i128, is_end: bool) {
        self.ranges.push((start, end + i128::from(is_end)));
        if is_end {
            self.ends.push(end);
        }
    }

    /// Until where all of it was.
    fn until(&self) -> u64 {
        let mut until = 0;
        while let Some((_, end)) = self
            .ranges
            .iter()
            .find(|(start, end)| *start <= until && until < *end)
        {
            until = *end;
        }
        until as u64
    }
}
