//! Two stacks over a path with a delay, a bottleneck and losses, in simulated time: speed, and that every byte arrives.

mod stress;

use std::net::IpAddr;
use std::pin::Pin;

use super::*;

const STEP: Duration = Duration::from_millis(1);
const MTU: usize = 1280;

/// What happens to packets, each way alike.
#[derive(Debug, Clone, Copy)]
struct Conditions {
    delay: Duration,
    /// Bytes per second.
    rate: u64,
    /// How long packets may wait for the bottleneck; then they are dropped.
    queue: Duration,
    /// Of 1000 packets, so many are lost, and as many come twice.
    loss: u64,
    /// Of 1000 packets, so many are overtaken by those that follow within a few milliseconds.
    late: u64,
    /// Selective acknowledgements are offered.
    selective: bool,
    v6: bool,
}

const FAR: Conditions = Conditions {
    delay: Duration::from_millis(25),
    rate: 12_500_000,
    queue: Duration::from_millis(100),
    loss: 0,
    late: 0,
    selective: true,
    v6: false,
};

/// One direction of the path.
struct Direction {
    conditions: Conditions,
    waiting: VecDeque<(Instant, Vec<u8>)>,
    free_at: Instant,
    chance: u64,
    passed: u64,
    lost: u64,
}

impl Direction {
    fn new(conditions: Conditions, seed: u64, now: Instant) -> Self {
        Self {
            conditions,
            waiting: VecDeque::new(),
            free_at: now,
            chance: seed,
            passed: 0,
            lost: 0,
        }
    }

    fn draw(&mut self) -> u64 {
        // A linear congruential generator (constants by Knuth): the same losses in every run.
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % 1000
    }

    fn wait(&mut self, at: Instant, packet: Vec<u8>) {
        let place = self.waiting.partition_point(|(other, _)| *other <= at);
        self.waiting.insert(place, (at, packet));
    }

    fn carry(&mut self, from: &mut Stack, to: &mut Stack, now: Instant) {
        for (packet, ()) in from.transmit().iter() {
            self.free_at = self.free_at.max(now);
            let draw = self.draw();
            if draw < self.conditions.loss || self.free_at - now > self.conditions.queue {
                self.lost += 1;
                continue;
            }
            self.passed += 1;
            self.free_at += Duration::from_nanos(packet.len() as u64 * 1_000_000_000 / self.conditions.rate);
            let mut packet = packet.to_vec();
            if !self.conditions.selective {
                refuse_selective(&mut packet);
            }
            let mut at = self.free_at + self.conditions.delay;
            if draw < 2 * self.conditions.loss {
                self.wait(at, packet.clone());
            }
            if self.draw() < self.conditions.late {
                at += Duration::from_millis(1 + self.draw() % 8);
            }
            self.wait(at, packet);
        }
        from.clear_transmitted();
        while let Some((_, packet)) = self.waiting.pop_front_if(|(at, _)| *at <= now) {
            to.push(&packet);
        }
    }
}

/// Takes the permission for selective acknowledgements out of a SYN.
fn refuse_selective(packet: &mut [u8]) {
    let offset = Header::parse(packet).unwrap().offset;
    let (is_syn, end) = (
        packet[offset + 13] & 2 != 0,
        offset + usize::from(packet[offset + 12] >> 4) * 4,
    );
    let options = &mut packet[offset + 20..end];
    if let Some(at) = options.windows(2).position(|option| is_syn && option == [4, 2]) {
        options[at..at + 2].fill(1);
    }
}

/// A device, a gateway, and the path between.
struct Far {
    device: Stack,
    gateway: Stack,
    up: Direction,
    down: Direction,
    now: Instant,
    _polls: [mio::Poll; 2],
}

impl Far {
    fn new(conditions: Conditions, seed: u64) -> Self {
        Self::with_memory(conditions, seed, 64 << 20)
    }

    fn with_memory(conditions: Conditions, seed: u64, memory: usize) -> Self {
        let polls = [mio::Poll::new().unwrap(), mio::Poll::new().unwrap()];
        let [wake, other] = polls
            .each_ref()
            .map(|poll| Arc::new(Wake::new(poll.registry(), Token(0)).unwrap()));
        let now = Instant::now();
        let config = |v4: &str, v6: &str, gateway: bool| StackConfig {
            addresses: vec![if conditions.v6 { v6 } else { v4 }.parse().unwrap()],
            mtu: MTU,
            any_address: gateway,
            max_connections: 4,
            memory,
            keep_alive: None,
        };
        Self {
            device: Stack::new(&config("100.64.1.1", "fd00::1:1", false), wake, now).unwrap(),
            gateway: Stack::new(&config("100.64.0.1", "fd00::1", true), other, now).unwrap(),
            up: Direction::new(conditions, seed, now),
            down: Direction::new(conditions, seed + 1, now),
            now,
            _polls: polls,
        }
    }

    fn step(&mut self) {
        for stack in [&mut self.device, &mut self.gateway] {
            stack.ingress(self.now);
            stack.work(self.now);
        }
        self.up.carry(&mut self.device, &mut self.gateway, self.now);
        self.down.carry(&mut self.gateway, &mut self.device, self.now);
        self.now += STEP;
    }

    /// A connection, as the device and as the gateway hold it. Its SYN is let in by hand, as the gateway's front does.
    fn connect(&mut self) -> (TunnelStream, TunnelStream) {
        let service: IpAddr = if self.up.conditions.v6 {
            "fd00::2:1"
        } else {
            "100.127.0.1"
        }
        .parse()
        .unwrap();
        let (reply, mut connected) = oneshot::channel();
        self.device.connect(SocketAddr::new(service, 443), reply);
        self.device.work(self.now);
        let mut syn = self.device.transmit().get(0).unwrap().0.to_vec();
        self.device.clear_transmitted();
        if !self.up.conditions.selective {
            refuse_selective(&mut syn);
        }
        let flow = Header::parse(&syn).unwrap().incoming();
        let accepted = self.gateway.accept(flow, &syn, self.now).unwrap();
        for _ in 0..20_000 {
            self.step();
            if let Ok(outcome) = connected.try_recv() {
                return (outcome.unwrap(), accepted);
            }
        }
        panic!("no connection");
    }
}

/// What one end sends and has received. The bytes tell their place, so that a misplaced one shows.
struct End {
    stream: TunnelStream,
    pattern: Pattern,
    to_send: usize,
    sent: usize,
    received: usize,
    is_shut: bool,
    has_ended: bool,
}

impl End {
    fn new(stream: TunnelStream, to_send: usize) -> Self {
        Self {
            stream,
            pattern: Pattern::new(),
            to_send,
            sent: 0,
            received: 0,
            is_shut: false,
            has_ended: false,
        }
    }

    fn step(&mut self) {
        self.write();
        self.read(usize::MAX);
    }

    fn write(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        while self.sent < self.to_send {
            let bytes = self.pattern.at(self.sent, CHUNK.min(self.to_send - self.sent));
            let Poll::Ready(result) = Pin::new(&mut self.stream).poll_write(cx, bytes) else {
                break;
            };
            self.sent += result.unwrap();
        }
        if self.sent == self.to_send && !self.is_shut {
            shut(&mut self.stream);
            self.is_shut = true;
        }
    }

    /// Reads what is there, up to `most` bytes.
    fn read(&mut self, mut most: usize) {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut bytes = [0; CHUNK];
        while !self.has_ended && most > 0 {
            let mut buffer = ReadBuf::new(&mut bytes[..CHUNK.min(most)]);
            let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, &mut buffer) else {
                break;
            };
            result.unwrap();
            let filled = buffer.filled();
            assert!(
                filled == self.pattern.at(self.received, filled.len()),
                "bytes behind {} are wrong",
                self.received
            );
            self.has_ended = filled.is_empty();
            most -= filled.len();
            self.received += filled.len();
        }
    }
}

const CHUNK: usize = 4096;
/// No multiple of any segment's length.
const PERIOD: usize = 65_521;

/// Bytes that tell their place.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Self {
        let byte = |at: usize| (at % 251) as u8 ^ (at >> 8) as u8;
        Self((0..PERIOD + CHUNK).map(|at| byte(at % PERIOD)).collect())
    }

    fn at(&self, position: usize, len: usize) -> &[u8] {
        &self.0[position % PERIOD..][..len]
    }
}

/// Share of the bottleneck that an upload gets between the second and the fourth second, and share of its packets lost.
fn upload(conditions: Conditions) -> (f64, f64) {
    let mut far = Far::new(conditions, 7);
    let (stream, accepted) = far.connect();
    let (mut device, mut gateway) = (End::new(stream, usize::MAX), End::new(accepted, 0));
    let mut at_two = 0;
    for millisecond in 0..4000 {
        far.step();
        device.step();
        gateway.step();
        if millisecond == 2000 {
            at_two = gateway.received;
        }
    }
    let share = (gateway.received - at_two) as f64 / (conditions.rate as f64 * 2.0);
    let lost = far.up.lost as f64 / (far.up.lost + far.up.passed) as f64;
    (share, lost)
}

#[test]
fn random_loss_does_not_slow_an_upload_down() {
    for (loss, expected) in [(0, 0.8), (1, 0.8), (10, 0.75), (30, 0.5)] {
        let (share, lost) = upload(Conditions { loss, ..FAR });
        eprintln!(
            "{loss} of 1000 lost: {:.0} % of the bottleneck, {:.1} % lost in all",
            share * 100.0,
            lost * 100.0
        );
        assert!(share > expected, "{loss} of 1000 lost: {share}");
    }
}

#[test]
fn a_short_queue_is_not_flooded() {
    let queue = Duration::from_millis(10);
    let (share, lost) = upload(Conditions { queue, ..FAR });
    eprintln!(
        "short queue: {:.0} % of the bottleneck, {:.1} % lost",
        share * 100.0,
        lost * 100.0
    );
    assert!(share > 0.5 && lost < 0.25, "{share}, {lost} lost");
}

#[test]
fn every_byte_arrives_once_and_in_its_place() {
    const LEN: usize = 60_000;
    for seed in 0..20 {
        let conditions = Conditions {
            delay: Duration::from_millis(seed % 3 * 10),
            loss: [10, 50, 200][seed as usize % 3],
            // Some paths are too slow for what is sent at first.
            rate: [12_500_000, 250_000][seed as usize % 2],
            selective: seed % 4 != 3,
            v6: seed % 5 == 4,
            ..FAR
        };
        let mut far = Far::new(conditions, seed);
        let (stream, accepted) = far.connect();
        let (mut device, mut gateway) = (End::new(stream, LEN), End::new(accepted, LEN));
        let deadline = far.now + Duration::from_mins(5);
        while !(device.has_ended && gateway.has_ended) {
            assert!(
                far.now < deadline,
                "seed {seed}: {} up, {} down",
                gateway.received,
                device.received
            );
            far.step();
            device.step();
            gateway.step();
        }
        assert_eq!((gateway.received, device.received), (LEN, LEN), "seed {seed}");
        drop((device, gateway));
        let deadline = far.now + Duration::from_mins(10);
        while far.device.connections() + far.gateway.connections() > 0 {
            assert!(far.now < deadline, "seed {seed}: the connection stays");
            far.step();
        }
    }
}
