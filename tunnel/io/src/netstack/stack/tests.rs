//! Two stacks with a wire between them, in simulated time.

mod path;

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use mio::Token;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::super::stream::TunnelStream;
use super::life::{DEAD_AFTER, LEAVE_WITHIN};
use super::*;

const STEP: Duration = Duration::from_millis(50);

/// A device that dials and a gateway that accepts.
struct Wire {
    device: Stack,
    gateway: Stack,
    now: Instant,
    /// Packets pass.
    open: bool,
    /// Of 1000 packets, so many are lost and as many come late.
    loss: u64,
    held: [Option<Vec<u8>>; 2],
    chance: u64,
    _polls: [mio::Poll; 2],
}

impl Wire {
    fn new() -> Self {
        let polls = [mio::Poll::new().unwrap(), mio::Poll::new().unwrap()];
        let [wake, other] = polls
            .each_ref()
            .map(|poll| Arc::new(Wake::new(poll.registry(), Token(0)).unwrap()));
        let now = Instant::now();
        let config = |address: &str, gateway: bool| StackConfig {
            addresses: vec![address.parse().unwrap()],
            mtu: 1280,
            any_address: gateway,
            max_connections: 4,
            memory: 64 << 20,
            keep_alive: gateway.then_some(Duration::from_mins(1)),
        };
        let (device, gateway) = (
            Stack::new(&config("100.64.1.1", false), wake, now).unwrap(),
            Stack::new(&config("100.64.0.1", true), other, now).unwrap(),
        );
        Self {
            device,
            gateway,
            now,
            open: true,
            loss: 0,
            held: [None, None],
            chance: 1,
            _polls: polls,
        }
    }

    /// A connection, as the device and as the gateway hold it.
    fn connect(&mut self) -> (TunnelStream, TunnelStream) {
        let destination: SocketAddr = "100.127.0.1:443".parse().unwrap();
        let (reply, mut connected) = oneshot::channel();
        self.device.connect(destination, reply);
        self.device.work(self.now);
        let syn = self.device.transmit().get(0).unwrap().0.to_vec();
        self.device.clear_transmitted();
        let flow = *self.device.flows.keys().next().unwrap();
        let reversed = Flow {
            local: flow.remote,
            remote: flow.local,
        };
        let accepted = self.gateway.accept(reversed, &syn, self.now).unwrap();
        self.run(Duration::from_secs(1));
        (connected.try_recv().unwrap().unwrap(), accepted)
    }

    /// Lets time pass.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            for stack in [&mut self.device, &mut self.gateway] {
                stack.ingress(self.now);
                stack.work(self.now);
            }
            let (open, loss, chance) = (self.open, self.loss, &mut self.chance);
            let mut fate = || {
                // A linear congruential generator (constants by Knuth): the same losses in every run.
                *chance = chance
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                match (*chance >> 33) % 1000 {
                    _ if !open => Fate::Lost,
                    draw if draw < loss => Fate::Lost,
                    draw if draw < 2 * loss => Fate::Late,
                    _ => Fate::Passed,
                }
            };
            let [up, down] = &mut self.held;
            carry(&mut self.device, &mut self.gateway, up, &mut fate);
            carry(&mut self.gateway, &mut self.device, down, &mut fate);
            self.now += STEP;
        }
    }
}

fn carry(from: &mut Stack, to: &mut Stack, held: &mut Option<Vec<u8>>, chance: &mut impl FnMut() -> Fate) {
    for (packet, ()) in from.transmit().iter() {
        match chance() {
            Fate::Lost => continue,
            Fate::Late if held.is_none() => {
                *held = Some(packet.to_vec());
                continue;
            }
            Fate::Late | Fate::Passed => to.push(packet),
        }
        if let Some(late) = held.take() {
            to.push(&late);
        }
    }
    from.clear_transmitted();
}

/// What becomes of a packet.
enum Fate {
    Passed,
    /// It comes after its successor.
    Late,
    Lost,
}

fn write(stream: &mut TunnelStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    std::pin::Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
}

fn read(stream: &mut TunnelStream) -> Poll<io::Result<Vec<u8>>> {
    let mut bytes = [0; 64];
    let mut buffer = ReadBuf::new(&mut bytes);
    let polled = std::pin::Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
    polled.map_ok(|()| buffer.filled().to_vec())
}

#[test]
fn an_idle_connection_stays() {
    let mut wire = Wire::new();
    let (mut dialled, mut accepted) = wire.connect();
    wire.run(Duration::from_mins(30));
    assert!(matches!(write(&mut dialled, b"still here"), Poll::Ready(Ok(10))));
    wire.run(Duration::from_secs(1));
    assert!(matches!(read(&mut accepted), Poll::Ready(Ok(bytes)) if bytes == b"still here"));
}

#[test]
fn an_idle_connection_survives_a_closed_lid() {
    let mut wire = Wire::new();
    let (mut dialled, mut accepted) = wire.connect();
    wire.open = false;
    wire.run(Duration::from_mins(3));
    wire.open = true;
    assert!(matches!(write(&mut accepted, b"hello"), Poll::Ready(Ok(5))));
    wire.run(Duration::from_secs(5));
    assert!(matches!(read(&mut dialled), Poll::Ready(Ok(bytes)) if bytes == b"hello"));
}

#[test]
fn a_device_that_is_gone_leaves_nothing_at_the_gateway() {
    let mut wire = Wire::new();
    let (mut dialled, mut accepted) = wire.connect();
    wire.open = false;
    wire.run(Duration::from_mins(7));
    assert_eq!(wire.gateway.connections(), 0);
    assert!(
        matches!(read(&mut accepted), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset)
    );
    assert!(
        read(&mut dialled).is_pending(),
        "the device has nothing to say and so cannot know"
    );
}

#[test]
fn data_that_nobody_acknowledges_ends_the_connection() {
    let mut wire = Wire::new();
    let (mut dialled, _accepted) = wire.connect();
    wire.run(Duration::from_mins(10));
    wire.open = false;
    assert!(matches!(write(&mut dialled, b"anybody?"), Poll::Ready(Ok(8))));
    wire.run(Duration::from_mins(4));
    assert!(read(&mut dialled).is_pending());
    wire.run(Duration::from_mins(2));
    assert!(
        matches!(read(&mut dialled), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset)
    );
    assert_eq!(wire.device.connections(), 0);
}

#[test]
fn a_stream_that_was_shut_and_dropped_delivers_the_rest_or_is_given_up() {
    for (reachable, patience) in [(true, LEAVE_WITHIN), (false, DEAD_AFTER)] {
        let mut wire = Wire::new();
        let (mut dialled, mut accepted) = wire.connect();
        wire.open = reachable;
        assert!(matches!(write(&mut dialled, b"last words"), Poll::Ready(Ok(10))));
        shut(&mut dialled);
        drop(dialled);
        wire.run(patience.saturating_sub(Duration::from_secs(5)));
        assert_eq!(wire.device.connections(), 1, "the other end has not closed yet");
        let heard = read(&mut accepted);
        assert_eq!(
            matches!(heard, Poll::Ready(Ok(ref bytes)) if bytes == b"last words"),
            reachable
        );
        wire.run(Duration::from_secs(10));
        assert_eq!(wire.device.connections(), 0);
    }
}

#[test]
fn packets_of_no_connection_are_answered_with_a_reset_only() {
    let mut wire = Wire::new();
    let (reply, mut connected) = oneshot::channel();
    wire.device.connect("100.127.0.1:443".parse().unwrap(), reply);
    wire.run(Duration::from_secs(1));
    assert!(matches!(connected.try_recv(), Ok(Err(ConnectError::Refused))));
    assert_eq!((wire.device.connections(), wire.gateway.connections()), (0, 0));
}

#[test]
fn datagrams_go_both_ways() {
    let mut wire = Wire::new();
    let service: SocketAddr = "100.127.0.1:53".parse().unwrap();
    let (local, mut inbox) = wire.device.bind_datagrams(service).unwrap();
    let (other, mut asked) = wire.gateway.bind_datagrams(local).unwrap();
    wire.device.send_datagram(local, other, b"question");
    wire.device.send_datagram(local, other, &[0; 1253]);
    wire.run(STEP);
    wire.run(STEP);
    assert_eq!(asked.try_recv(), Ok((b"question".to_vec(), local)));
    assert!(
        asked.try_recv().is_err(),
        "what does not fit into a packet is not sent"
    );
    wire.gateway.send_datagram(other, local, &[7; 1252]);
    wire.run(STEP);
    wire.run(STEP);
    assert_eq!(inbox.try_recv(), Ok((vec![7; 1252], other)));
    assert!(
        wire.device
            .bind_datagrams("[fd00::1]:53".parse().unwrap())
            .is_none()
    );
}

#[test]
fn a_dial_that_is_abandoned_is_forgotten() {
    let mut wire = Wire::new();
    wire.open = false;
    let (reply, connected) = oneshot::channel();
    wire.device.connect("100.127.0.1:443".parse().unwrap(), reply);
    wire.run(Duration::from_secs(5));
    assert_eq!(wire.device.connections(), 1);
    drop(connected);
    wire.run(Duration::from_secs(1));
    assert_eq!(wire.device.connections(), 0);
}

#[test]
fn garbage_is_survived() {
    let mut wire = Wire::new();
    let (mut dialled, mut accepted) = wire.connect();
    for len in 0..128 {
        for first in [0x45, 0x46, 0x4f, 0x60, 0x00] {
            let mut packet = vec![0xff; len];
            packet.iter_mut().take(1).for_each(|byte| *byte = first);
            wire.gateway.push(&packet);
            wire.device.push(&packet);
        }
    }
    wire.run(Duration::from_secs(1));
    assert!(matches!(write(&mut dialled, b"fine"), Poll::Ready(Ok(4))));
    wire.run(Duration::from_secs(1));
    assert!(matches!(read(&mut accepted), Poll::Ready(Ok(bytes)) if bytes == b"fine"));
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let poll = mio::Poll::new().unwrap();
    let wake = Arc::new(Wake::new(poll.registry(), Token(0)).unwrap());
    let refused = |addresses: &[&str], mtu| {
        let config = StackConfig {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            mtu,
            any_address: false,
            max_connections: 1,
            memory: 0,
            keep_alive: None,
        };
        Stack::new(&config, Arc::clone(&wake), Instant::now())
            .map(drop)
            .map_err(|error| error.kind())
    };
    let invalid = Err(io::ErrorKind::InvalidInput);
    assert_eq!(refused(&["100.64.0.1", "fd00::1"], 1280), Ok(()));
    assert_eq!(refused(&[], 1280), invalid);
    assert_eq!(refused(&["0.0.0.0"], 1280), invalid);
    assert_eq!(refused(&["224.0.0.1"], 1280), invalid);
    assert_eq!(refused(&["ff02::1"], 1280), invalid);
    assert_eq!(refused(&["255.255.255.255"], 1280), invalid);
    assert_eq!(refused(&["10.0.0.1"], 1279), invalid);
    assert_eq!(refused(&["10.0.0.1"; 9], 1280), invalid);
}

#[test]
fn everything_arrives_in_spite_of_loss_and_reordering() {
    const LEN: usize = 100_000;
    // Among the seeds are some with which both ends start over at once, and some with which it takes minutes.
    for seed in 0..300 {
        let mut wire = Wire::new();
        let (mut dialled, accepted) = wire.connect();
        (wire.loss, wire.chance) = (50, seed);
        let mut echo = Some(Echo {
            stream: accepted,
            bytes: Vec::new(),
            ended: false,
        });
        let (mut sent, mut received, mut ended) = (0, 0, false);
        let deadline = wire.now + Duration::from_mins(10);
        while !ended {
            assert!(
                wire.now < deadline,
                "seed {seed}: {sent} sent, {received} came back"
            );
            while sent < LEN
                && let Poll::Ready(Ok(len)) = write(&mut dialled, &[7; 1000])
            {
                sent += len;
            }
            if sent >= LEN {
                shut(&mut dialled);
            }
            echo = echo.and_then(Echo::step);
            while !ended && let Poll::Ready(result) = read(&mut dialled) {
                let len = result.unwrap().len();
                ended = len == 0;
                received += len;
            }
            wire.run(STEP);
        }
        assert_eq!(received, sent, "seed {seed}");
    }
}

/// Sends back what it gets, and lets go of the stream as soon as all is written.
struct Echo {
    stream: TunnelStream,
    bytes: Vec<u8>,
    ended: bool,
}

impl Echo {
    /// `None` when it is done.
    fn step(mut self) -> Option<Self> {
        while !self.ended
            && let Poll::Ready(result) = read(&mut self.stream)
        {
            let bytes = result.unwrap();
            self.ended = bytes.is_empty();
            self.bytes.extend(bytes);
        }
        while !self.bytes.is_empty()
            && let Poll::Ready(Ok(len)) = write(&mut self.stream, &self.bytes)
        {
            self.bytes.drain(..len);
        }
        if self.ended && self.bytes.is_empty() {
            shut(&mut self.stream);
            return None;
        }
        Some(self)
    }
}

fn shut(stream: &mut TunnelStream) {
    let shut = std::pin::Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(shut, Poll::Ready(Ok(()))));
}
