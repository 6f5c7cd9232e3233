//! Two ends without a stack around them: what is rare in the stack's tests is made to happen here.

use super::*;

const MS: Duration = Duration::from_millis(1);
const WINDOW: usize = 64 << 10;

/// One end, and the application's rings.
struct Side {
    transfer: Transfer,
    pool: Arc<Pool>,
    budget: Budget,
    to_send: Queue,
    received: Queue,
    out: Batch<()>,
}

impl Side {
    fn new(ours: i32, theirs: i32, now: Instant) -> Self {
        let pool = Arc::new(Pool::new(8 << 20));
        let offer = Offer {
            selective: true,
            scale: SCALE,
            segment: 1000,
            window: u16::MAX,
        };
        let mut budget = Budget::new(64 << 20, 16);
        let window = budget.admit().unwrap();
        // The addresses do not matter here.
        let mut header = [0; 40];
        (header[0], header[9], header[32]) = (0x45, 6, 0x50);
        Self {
            transfer: Transfer {
                sender: Sender::new(&pool, TcpSeqNumber(ours), offer, Some(10 * MS), now),
                receiver: Receiver::new(Arc::clone(&pool), TcpSeqNumber(theirs), SCALE, window, now),
                heading: Heading::new(&header).unwrap(),
                heard_at: now,
                asked_at: now,
                waits_since: None,
                state: State::Open,
                ranges: Vec::new(),
            },
            budget,
            to_send: Queue::new(Arc::clone(&pool)),
            received: Queue::new(Arc::clone(&pool)),
            pool,
            out: Batch::new(),
        }
    }

    fn visit(&mut self, now: Instant) {
        self.transfer.hand_over(&mut self.received);
        self.transfer.take(&mut self.to_send);
        self.transfer.adjust(&mut self.budget, now);
        self.transfer
            .watch(None, Duration::from_mins(5), now, &mut self.out);
        self.transfer.work(now, 64, &mut self.out);
    }

    fn close(&mut self) {
        assert!(self.to_send.is_empty());
        self.transfer.close();
    }
}

struct Pair {
    sides: [Side; 2],
    now: Instant,
}

impl Pair {
    fn new(numbers: [i32; 2]) -> Self {
        let now = Instant::now();
        let [one, other] = numbers;
        Self {
            sides: [Side::new(one, other, now), Side::new(other, one, now)],
            now,
        }
    }

    /// Both ends are visited once, and what they send arrives a millisecond later, if `passes` says so of the sender's number and
    /// the packet. True when anything was sent.
    fn round(&mut self, mut passes: impl FnMut(usize, &[u8]) -> bool) -> bool {
        self.now += MS;
        let mut is_busy = false;
        for from in [0, 1] {
            self.sides[from].visit(self.now);
            let packets = std::mem::take(&mut self.sides[from].out);
            for (packet, ()) in packets.iter() {
                is_busy = true;
                if passes(from, packet) {
                    let header = Header::parse(packet).unwrap();
                    let to = &mut self.sides[1 - from];
                    to.transfer.incoming(packet, &header, self.now);
                    if to.transfer.must_acknowledge() {
                        to.transfer.acknowledge(&mut to.out);
                    }
                }
            }
        }
        is_busy
    }

    /// Until nothing is sent for some time.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 400 {
            quiet = if self.round(|_, _| true) { 0 } else { quiet + 1 };
        }
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (at >> 8) as u8).collect()
}

fn read(queue: &mut Queue) -> Vec<u8> {
    let mut read = vec![0; queue.len()];
    queue.copy(queue.end() - queue.len() as u64, &mut read);
    queue.clear();
    read
}

fn flags(packet: &[u8]) -> (bool, bool, usize) {
    let segment = TcpPacket::new_unchecked(&packet[20..]);
    (segment.fin(), segment.rst(), segment.payload().len())
}

#[test]
fn numbers_wrap_both_ways_while_packets_are_lost() {
    for numbers in [[i32::MAX - 5000, -7000], [-1, i32::MAX], [0, i32::MIN]] {
        let mut pair = Pair::new(numbers);
        let sent = bytes(300_000);
        pair.sides.iter_mut().for_each(|side| side.to_send.push(&sent));
        let (mut heard, mut packets) = ([Vec::new(), Vec::new()], 0_u32);
        for _ in 0..60_000 {
            pair.round(|_, _| {
                packets += 1;
                packets % 17 != 0
            });
            for (side, heard) in pair.sides.iter_mut().zip(&mut heard) {
                heard.extend(read(&mut side.received));
                if side.to_send.is_empty() {
                    side.close();
                }
            }
            if pair.sides.iter().all(|side| side.transfer.is_over()) {
                break;
            }
        }
        assert!(
            pair.sides.iter().all(|side| side.transfer.is_over()),
            "{numbers:?}"
        );
        assert!(heard.iter().all(|heard| *heard == sent), "{numbers:?}");
        assert!(pair.sides.iter().all(|side| side.pool.taken() == 0));
    }
}

#[test]
fn a_lost_window_update_is_asked_for() {
    let mut pair = Pair::new([1, 2]);
    pair.sides[0].to_send.push(&bytes(4 * WINDOW));
    pair.settle();
    let held = pair.sides[1].received.len();
    assert!((WINDOW..WINDOW + 256).contains(&held), "{held}");
    assert!(
        !pair.sides[0].to_send.is_empty(),
        "no more is taken than may be sent soon"
    );
    read(&mut pair.sides[1].received);
    // Whatever tells of it is lost, for a while.
    for _ in 0..3_000 {
        pair.round(|from, _| from == 0);
    }
    let before = pair.now;
    while pair.sides[1].received.is_empty() {
        pair.round(|_, _| true);
        assert!(pair.now < before + Duration::from_secs(11), "it stands still");
    }
}

#[test]
fn both_may_wait_for_room_at_once() {
    // Neither application reads: both windows close with bytes under way, and acknowledgements lie beyond them.
    let mut pair = Pair::new([1, 2]);
    let sent = bytes(1_000_000);
    pair.sides.iter_mut().for_each(|side| side.to_send.push(&sent));
    pair.settle();
    let mut heard = [Vec::new(), Vec::new()];
    let deadline = pair.now + Duration::from_secs(60);
    while heard.iter().any(|heard| heard.len() < sent.len()) {
        pair.round(|_, _| true);
        for (side, heard) in pair.sides.iter_mut().zip(&mut heard) {
            // Each reads only when its own side has moved, as an echo does.
            if side.to_send.len() < sent.len() {
                heard.extend(read(&mut side.received));
            }
        }
        assert!(pair.now < deadline, "{:?}", heard.each_ref().map(Vec::len));
    }
    assert!(heard.iter().all(|heard| *heard == sent));
}

#[test]
fn ends_that_cross_and_are_lost_are_sent_again() {
    let mut pair = Pair::new([1, 2]);
    for side in &mut pair.sides {
        side.to_send.push(b"the last words");
        side.transfer.take(&mut side.to_send);
        side.close();
    }
    let mut lost = [0, 0];
    for _ in 0..20_000 {
        pair.round(|from, packet| {
            let (fin, ..) = flags(packet);
            lost[from] += u32::from(fin);
            !fin || lost[from] > 3
        });
    }
    for side in &mut pair.sides {
        assert!(side.transfer.is_over() && !side.transfer.is_reset() && side.transfer.has_ended());
        assert_eq!(read(&mut side.received), b"the last words");
    }
}

#[test]
fn a_half_that_is_closed_leaves_the_other_open() {
    let mut pair = Pair::new([1, 2]);
    pair.sides[0].close();
    pair.settle();
    assert!(pair.sides[1].transfer.has_ended() && pair.sides[0].transfer.is_delivered());
    let sent = bytes(500_000);
    pair.sides[1].to_send.push(&sent);
    let mut heard = Vec::new();
    for _ in 0..5_000 {
        pair.round(|_, _| true);
        heard.extend(read(&mut pair.sides[0].received));
    }
    assert!(heard == sent && !pair.sides[0].transfer.is_over());
    pair.sides[1].close();
    pair.settle();
    assert!(pair.sides.iter().all(|side| side.transfer.is_over()));
}

#[test]
fn what_cannot_be_is_answered_and_not_believed() {
    let mut pair = Pair::new([1000, 2000]);
    pair.settle();
    let [side, other] = &mut pair.sides;
    let forged = |sequence: i32, acknowledgement: i32, reset: bool| {
        let fields = Fields {
            sequence: TcpSeqNumber(sequence),
            acknowledgement: TcpSeqNumber(acknowledgement),
            window: 0,
            push: false,
            fin: false,
            reset,
        };
        let mut out = Batch::new();
        other.transfer.heading.put(fields, &[], 0, |_| {}, &mut out);
        out.get(0).unwrap().0.to_vec()
    };
    let packets = [
        (
            forged(2000, 1_001_000, false),
            true,
            "an acknowledgement of what was never sent",
        ),
        (forged(1999, 1000, false), true, "a question whether we are there"),
        (
            forged(2000 + (1 << 20), 1000, true),
            false,
            "a reset beyond the window",
        ),
        (forged(1900, 1000, true), false, "a reset before the window"),
    ];
    for (packet, is_answered, what) in packets {
        side.transfer
            .incoming(&packet, &Header::parse(&packet).unwrap(), pair.now);
        assert_eq!(side.transfer.must_acknowledge(), is_answered, "{what}");
        assert!(!side.transfer.is_reset(), "{what}");
        side.transfer.acknowledge(&mut side.out);
        side.out.clear();
    }
    let reset = forged(2000, 1000, true);
    side.transfer
        .incoming(&reset, &Header::parse(&reset).unwrap(), pair.now);
    assert!(side.transfer.is_reset());
}

#[test]
fn single_bytes_do_not_push_the_window_open() {
    let mut pair = Pair::new([1, 2]);
    for _ in 0..3 * WINDOW {
        let side = &mut pair.sides[0];
        if side.to_send.is_empty() {
            side.to_send.push(&[7]);
        }
        pair.round(|_, _| true);
    }
    let held = pair.sides[1].received.len();
    assert!((WINDOW..WINDOW + 256).contains(&held), "{held}");
}

#[test]
fn an_end_before_what_came_already_is_none() {
    let mut side = Side::new(1, 2, Instant::now());
    let receiver = &mut side.transfer.receiver;
    receiver.take(100, &[7; 50], false);
    receiver.take(60, &[7; 20], true);
    receiver.take(0, &[7; 100], false);
    assert!(!receiver.is_finished());
    receiver.take(150, &[7; 10], true);
    assert!(receiver.is_finished());
    assert_eq!(read(&mut receiver.ready), [7; 160]);
}

#[test]
fn single_bytes_that_nobody_acknowledges_do_not_become_as_many_segments() {
    let mut pair = Pair::new([1, 2]);
    let mut sent = Vec::new();
    for number in 0..1000 {
        sent.push(number as u8);
        let side = &mut pair.sides[0];
        side.to_send.push(&sent[number..]);
        side.visit(pair.now);
        side.out.clear();
    }
    let segments = pair.sides[0].transfer.sender.segments();
    assert!(segments <= 64, "{segments}");
    assert!(!pair.sides[0].transfer.has_work(), "it waits for the other end");
    // All of it arrives, the end as well, when there is one who answers.
    pair.sides[0].close();
    pair.settle();
    assert_eq!(read(&mut pair.sides[1].received), sent);
    assert!(pair.sides[1].transfer.has_ended() && pair.sides[0].transfer.is_delivered());
}

#[test]
fn windows_follow_the_rate_and_come_back() {
    let mut pair = Pair::new([1, 2]);
    let mut widest = 0;
    for _ in 0..3_000 {
        let side = &mut pair.sides[0];
        if side.to_send.len() < 1 << 20 {
            side.to_send.push(&bytes(256 << 10));
        }
        pair.round(|_, _| true);
        read(&mut pair.sides[1].received);
        widest = widest.max(pair.sides[1].transfer.window());
    }
    assert!(widest > 4 * WINDOW, "{widest}");
    pair.sides[0].to_send.clear();
    for _ in 0..30_000 {
        pair.sides[0].to_send.push(&[7; 10]);
        pair.round(|_, _| true);
        read(&mut pair.sides[1].received);
    }
    let window = pair.sides[1].transfer.window();
    assert!(window <= WINDOW, "{window}");
}

#[test]
fn after_silence_one_segment_at_a_time_asks_whether_the_path_is_there() {
    let mut pair = Pair::new([1, 2]);
    let sent = bytes(200_000);
    pair.sides[0].to_send.push(&sent);
    // Nothing arrives any more, while the other end speaks and the application has more.
    let (mut bursts, start) = (Vec::new(), pair.now);
    while pair.now < start + Duration::from_secs(5) {
        let mut packets = 0;
        pair.sides[1].to_send.push(&[7]);
        pair.round(|from, packet| {
            packets += usize::from(from == 0 && flags(packet).2 > 0);
            false
        });
        if packets > 0 {
            bursts.push(packets);
        }
    }
    assert!(bursts[0] > 16, "what may be in flight at first: {bursts:?}");
    // The last one again, and then one for each timeout, which doubles from 200 ms.
    assert_eq!(bursts[1..], [1; 5], "{bursts:?}");

    // A sign of life, and all of it goes on.
    let (mut heard, back) = (Vec::new(), pair.now);
    while heard.len() < sent.len() {
        pair.round(|_, _| true);
        heard.extend(read(&mut pair.sides[1].received));
        assert!(pair.now < back + Duration::from_secs(5), "{}", heard.len());
    }
    assert!(heard == sent);
}

#[test]
fn no_size_of_a_segment_below_the_default_is_believed() {
    for (named, expected) in [
        (None, 536),
        (Some(0), 536),
        (Some(1), 536),
        (Some(64), 536),
        (Some(537), 537),
        (Some(1460), 1460),
    ] {
        let option = named.map(|size: u16| [&[2, 4][..], &size.to_be_bytes()].concat());
        let option = option.unwrap_or_default();
        let mut syn = vec![0; 40];
        (syn[0], syn[9], syn[33]) = (0x45, 6, 0x02);
        syn[32] = (((20 + option.len()) / 4) << 4) as u8;
        syn.extend(&option);
        let mut opening = Opening::default();
        opening.incoming(&syn, &Header::parse(&syn).unwrap());
        let (_, offer) = opening.theirs.unwrap();
        assert_eq!(offer.segment, expected, "{named:?}");
    }
}
