//! One end of a connection with the application behind it, and what holds for it whatever the other end does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_tunnel_core::Batch;
use smoltcp::wire::{TcpPacket, TcpSeqNumber};

use super::super::super::budget::Budget;
use super::super::super::flow::Header;
use super::super::super::pool::{BLOCK, Pool, Queue};
use super::super::{Opening, Transfer};
use super::packet::{Packet, SYN};

/// Bytes of the pool: few, so that memory is short at times.
const MEMORY: usize = 256 << 10;
/// What may be held beyond it: what a connection needs to go on, and the packet that came when there was still room.
const BEYOND: usize = 64 << 10;
/// Segments in flight that may be shorter than the other end takes.
const SHORT: usize = 64;
/// Bytes of one segment at most.
const LARGEST: usize = 1240;
/// Silence after which the other end is given up.
pub(super) const DEAD_AFTER: Duration = Duration::from_mins(5);

/// What one end says of itself when the connection opens.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) number: i32,
    pub(super) window: u16,
    pub(super) options: Vec<u8>,
}

pub(super) struct End {
    /// Which of the two: their streams have different bytes.
    side: usize,
    pub(super) transfer: Transfer,
    pool: Arc<Pool>,
    budget: Budget,
    /// The application's rings.
    ring: Queue,
    incoming: Queue,
    /// What it sends.
    pub(super) out: Batch<()>,
    /// Sequence numbers of the first bytes of both streams.
    ours: TcpSeqNumber,
    theirs: TcpSeqNumber,
    /// What the application wrote and read.
    pub(super) written: u64,
    pub(super) read: u64,
    pub(super) is_shut: bool,
    /// How much of the other end's stream was acknowledged, its end as one more.
    pub(super) acknowledged: u64,
    /// Furthest position that the other end lets in, and the shift of its window's field.
    granted: u64,
    scale: u8,
    /// Furthest position that the other end was told; it moves back by less than this unit.
    promised: u64,
    unit: u64,
}

/// The byte at a position of a stream.
pub(super) fn byte(side: usize, at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ side as u8
}

impl End {
    /// A connection that was opened by these. `None` where the other end's is no SYN that opens anything.
    pub(super) fn new(side: usize, own: &Hello, other: &Hello, memory: usize, now: Instant) -> Option<Self> {
        let syn = |side, hello: &Hello| {
            let packet = Packet {
                from: side,
                number: hello.number,
                flags: SYN,
                window: hello.window,
                options: &hello.options,
                ..Packet::default()
            };
            packet.to_bytes()
        };
        let mut opening = Opening::default();
        let mut budget = Budget::new(memory, 16);
        let window = budget.admit()?;
        let mut sent = syn(side, own);
        let header = Header::parse(&sent)?;
        opening.outgoing(&mut sent, &header, window, now);
        let heard = syn(1 - side, other);
        opening.incoming(&heard, &Header::parse(&heard)?);
        let has_scale = opening.has_scale;
        let scale = opening.theirs.as_ref().map_or(0, |(_, offer)| offer.scale);
        let pool = Arc::new(Pool::new(MEMORY));
        let transfer = opening.finish(&pool, window, LARGEST, now + Duration::from_millis(5))?;
        Some(Self {
            side,
            transfer,
            budget,
            ring: Queue::new(Arc::clone(&pool)),
            incoming: Queue::new(Arc::clone(&pool)),
            pool,
            out: Batch::new(),
            ours: TcpSeqNumber(own.number.wrapping_add(1)),
            theirs: TcpSeqNumber(other.number.wrapping_add(1)),
            written: 0,
            read: 0,
            is_shut: false,
            acknowledged: 0,
            granted: other.window.into(),
            scale,
            promised: 0,
            unit: if has_scale { 1 << super::super::SCALE } else { 1 },
        })
    }

    /// The application writes, as far as a ring takes it (see `connection`).
    pub(super) fn write(&mut self, len: usize) {
        let ring = if self.pool.free() > MEMORY / 4 {
            MEMORY / 4
        } else {
            BLOCK
        };
        if self.is_shut || self.transfer.is_reset() {
            return;
        }
        let len = len.min(ring.saturating_sub(self.ring.len()));
        let bytes: Vec<u8> = (self.written..self.written + len as u64)
            .map(|at| byte(self.side, at))
            .collect();
        self.ring.push(&bytes);
        self.written += len as u64;
    }

    /// The application reads, and looks at each byte.
    pub(super) fn read(&mut self, len: usize) {
        let len = len.min(self.incoming.len());
        let mut bytes = vec![0; len];
        self.incoming.copy(self.read, &mut bytes);
        for (at, given) in (self.read..).zip(&bytes) {
            assert_eq!(*given, byte(1 - self.side, at), "at {at}");
        }
        self.incoming.consume(len);
        self.read += len as u64;
    }

    pub(super) fn is_read(&self) -> bool {
        self.incoming.is_empty() && !self.transfer.has_unread()
    }

    /// What the stack does with a packet of the connection.
    pub(super) fn take(&mut self, packet: &[u8], now: Instant) {
        let Some(header) = Header::parse(packet) else {
            return;
        };
        if let Ok(segment) = TcpPacket::new_checked(&packet[header.offset..])
            && segment.ack()
        {
            let until = position(self.ours, self.written, segment.ack_number());
            let open = i128::from(segment.window_len()) << self.scale;
            self.granted = self.granted.max(u64::try_from(until + open).unwrap_or(0));
        }
        let made = self.out.len();
        self.transfer.incoming(packet, &header, now);
        if self.transfer.must_acknowledge() {
            self.transfer.acknowledge(&mut self.out);
        }
        self.check(made);
    }

    /// What the stack does when it comes to this connection, with `room` for packets.
    pub(super) fn visit(&mut self, room: usize, keep_alive: Option<Duration>, now: Instant) {
        let made = self.out.len();
        self.transfer.hand_over(&mut self.incoming);
        self.transfer.take(&mut self.ring);
        if self.transfer.is_reset() {
            self.ring.clear();
        }
        if self.is_shut && self.ring.is_empty() {
            self.transfer.close();
        }
        self.transfer.adjust(&mut self.budget, now);
        self.transfer.watch(keep_alive, DEAD_AFTER, now, &mut self.out);
        let sent = self.transfer.work(now, room, &mut self.out);
        // One that was reset is forgotten.
        if room > 0 && !self.transfer.is_over() {
            assert!(sent > 0 || !self.transfer.has_work(), "visited for ever");
            let deadline = self.transfer.deadline();
            assert!(deadline.is_none_or(|at| at > now), "woken for ever");
        }
        self.check(made);
    }

    /// Looks at the packets that were made from the one with this number on.
    fn check(&mut self, first: usize) {
        assert!(
            self.pool.taken() <= MEMORY + BEYOND,
            "{} bytes of {MEMORY}",
            self.pool.taken()
        );
        let sender = &self.transfer.sender;
        assert!(
            sender.segments() <= SHORT + 8 + sender.len() / 64,
            "{} segments for {} bytes",
            sender.segments(),
            sender.len()
        );
        for index in first..self.out.len() {
            let packet = self
                .out
                .get(index)
                .map(|(packet, ())| packet.to_vec())
                .unwrap_or_default();
            self.check_packet(&packet);
        }
    }

    fn check_packet(&mut self, packet: &[u8]) {
        let header = Header::parse(packet);
        let segment = header
            .as_ref()
            .and_then(|header| TcpPacket::new_checked(&packet[header.offset..]).ok());
        let Some(segment) = segment else {
            panic!("what is sent is no segment");
        };
        let at = position(self.ours, self.written, segment.seq_number());
        let bytes = segment.payload();
        let end = at + bytes.len() as i128;
        assert!(
            bytes.len() <= LARGEST && end <= i128::from(self.written) + 1,
            "{end}"
        );
        if !bytes.is_empty() {
            assert!(at >= 0 && end <= i128::from(self.granted), "beyond the window");
            for (at, sent) in (at as u64..).zip(bytes) {
                assert_eq!(*sent, byte(self.side, at), "at {at}");
            }
        }
        if segment.fin() {
            assert!(
                self.is_shut && end == i128::from(self.written),
                "the end is at {end}"
            );
        }
        let until = position(self.theirs, self.acknowledged, segment.ack_number());
        assert!(
            until >= i128::from(self.acknowledged),
            "an acknowledgement taken back"
        );
        self.acknowledged = until as u64;
        let open = u64::from(segment.window_len()) * self.unit;
        assert!(
            self.acknowledged + open + self.unit > self.promised,
            "a promise taken back"
        );
        self.promised = self.promised.max(self.acknowledged + open);
    }

    /// The number of the byte at an offset from the next that is expected of the other end.
    pub(super) fn their_number(&self, offset: i64) -> (i128, i32) {
        let next = position(self.theirs, self.acknowledged, self.transfer.receiver.fields().0);
        let at = next + i128::from(offset);
        (at, self.theirs.0.wrapping_add(at as i32))
    }

    /// The number of the byte at an offset from the end of what this end has sent.
    pub(super) fn our_number(&self, offset: i64) -> i32 {
        self.transfer.sender.next().0.wrapping_add(offset as i32)
    }

    /// Everything that was taken of the pool is given back when the connection is gone.
    pub(super) fn finish(self) {
        let pool = Arc::clone(&self.pool);
        drop(self);
        assert_eq!(pool.taken(), 0, "bytes are left");
    }
}

/// The position that stands for a number, near a position that is known.
fn position(origin: TcpSeqNumber, near: u64, number: TcpSeqNumber) -> i128 {
    let offset = number.0.wrapping_sub(origin.0.wrapping_add(near as i32));
    i128::from(near) + i128::from(offset)
}
