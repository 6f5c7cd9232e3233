//! A UDP relay that delays, loses and slows down datagrams, the same way in both directions.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a path does to datagrams.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    /// Delay one way.
    pub(crate) delay: Duration,
    /// Losses of a thousand.
    pub(crate) loss_per_mille: f64,
    /// Bottleneck in Mbit/s, with a queue of 100 ms; 0 for none.
    pub(crate) mbit: u64,
}

/// Where to send instead of `target`. A path without faults needs no relay.
pub(crate) fn start(target: SocketAddr, path: Path) -> SocketAddr {
    if path.delay.is_zero() && path.loss_per_mille == 0.0 && path.mbit == 0 {
        return target;
    }
    let (near, far) = (socket(), socket());
    far.connect(target).unwrap();
    let address = near.local_addr().unwrap();
    let device = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&device);
    let (near_out, far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    carry(path, 1, near, move |datagram, from| {
        *seen.lock().unwrap() = Some(from);
        let _ = far_out.send(datagram);
    });
    carry(path, 2, far, move |datagram, _| {
        if let Some(to) = *device.lock().unwrap() {
            let _ = near_out.send_to(datagram, to);
        }
    });
    address
}

fn socket() -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    // As large as the system grants: what is lost here was not asked for.
    let _ = socket.set_recv_buffer_size(32 << 20);
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.into()
}

fn carry(path: Path, seed: u64, from: UdpSocket, send: impl Fn(&[u8], SocketAddr) + Send + 'static) {
    let queue: Arc<Mutex<VecDeque<(Instant, SocketAddr, Vec<u8>)>>> = Arc::default();
    let sending = Arc::clone(&queue);
    std::thread::spawn(move || {
        loop {
            let mut due = Vec::new();
            let now = Instant::now();
            let mut waiting = sending.lock().unwrap();
            while waiting.front().is_some_and(|(at, ..)| *at <= now) {
                due.extend(waiting.pop_front());
            }
            drop(waiting);
            for (_, source, datagram) in due {
                send(&datagram, source);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    });
    std::thread::spawn(move || {
        let (mut buffer, mut chance) = (vec![0; 65536], seed);
        let mut free_at = Instant::now();
        while let Ok((len, source)) = from.recv_from(&mut buffer) {
            // A linear congruential generator (constants by Knuth).
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if ((chance >> 33) % 1_000_000) as f64 / 1000.0 < path.loss_per_mille {
                continue;
            }
            let mut at = Instant::now();
            if path.mbit > 0 {
                free_at = free_at.max(at);
                if free_at - at > Duration::from_millis(100) {
                    continue;
                }
                free_at += Duration::from_nanos(len as u64 * 8 * 1000 / path.mbit);
                at = free_at;
            }
            queue
                .lock()
                .unwrap()
                .push_back((at + path.delay, source, buffer[..len].to_vec()));
        }
    });
}
