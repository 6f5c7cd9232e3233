//! A UDP relay between a device and the gateway, with loss, reordering, and a switch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// What a relay does to datagrams.
#[derive(Default)]
pub(crate) struct Impairment {
    /// Of 1000, in each direction.
    loss: AtomicU32,
    /// Of 1000: held back until the next one has passed.
    reorder: AtomicU32,
    stopped: AtomicBool,
    /// Longer datagrams are lost; 0 lets all pass.
    longest: AtomicUsize,
    passed: AtomicU64,
    lost: AtomicU64,
}

/// A running relay for one device.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    impairment: Arc<Impairment>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// A relay to `gateway` that passes everything.
    pub(crate) async fn new(gateway: SocketAddr) -> Self {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        outside.connect(gateway).await.unwrap();
        let address = inside.local_addr().unwrap();
        let impairment = Arc::new(Impairment::default());
        let (device_sender, device) = tokio::sync::watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (inside, outside, impairment) =
                (Arc::clone(&inside), Arc::clone(&outside), Arc::clone(&impairment));
            async move {
                let mut way = Way::new(impairment, 1);
                let mut buffer = vec![0; 65536];
                while let Ok((len, from)) = inside.recv_from(&mut buffer).await {
                    device_sender.send_replace(Some(from));
                    for datagram in way.pass(&buffer[..len]) {
                        // The other end may be gone for a while.
                        let _ = outside.send(&datagram).await;
                    }
                }
            }
        });
        tasks.spawn({
            let impairment = Arc::clone(&impairment);
            async move {
                let mut way = Way::new(impairment, 2);
                let mut buffer = vec![0; 65536];
                loop {
                    let Ok(len) = outside.recv(&mut buffer).await else {
                        continue;
                    };
                    let to = *device.borrow();
                    for datagram in way.pass(&buffer[..len]) {
                        if let Some(to) = to {
                            let _ = inside.send_to(&datagram, to).await;
                        }
                    }
                }
            }
        });
        Self {
            address,
            impairment,
            _tasks: tasks,
        }
    }

    /// Loses and reorders that many of 1000 datagrams, each way.
    pub(crate) fn impair(&self, loss: u32, reorder: u32) {
        self.impairment.loss.store(loss, Ordering::Relaxed);
        self.impairment.reorder.store(reorder, Ordering::Relaxed);
    }

    /// Passes nothing while stopped.
    pub(crate) fn stop(&self, stopped: bool) {
        self.impairment.stopped.store(stopped, Ordering::Relaxed);
    }

    /// Loses datagrams of more than `longest` bytes from now on: a black hole, which sends no word back.
    pub(crate) fn lose_longer_than(&self, longest: usize) {
        self.impairment.longest.store(longest, Ordering::Relaxed);
    }

    /// Datagrams passed and lost.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.impairment.passed.load(Ordering::Relaxed),
            self.impairment.lost.load(Ordering::Relaxed),
        )
    }
}

/// One direction.
struct Way {
    impairment: Arc<Impairment>,
    state: u64,
    held: Option<Vec<u8>>,
}

impl Way {
    fn new(impairment: Arc<Impairment>, seed: u64) -> Self {
        Self {
            impairment,
            state: seed,
            held: None,
        }
    }

    /// What is to be sent on now that `datagram` has come.
    fn pass(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let stopped = self.impairment.stopped.load(Ordering::Relaxed);
        let longest = self.impairment.longest.load(Ordering::Relaxed);
        let stopped = stopped || (longest > 0 && datagram.len() > longest);
        if stopped || self.chance() < self.impairment.loss.load(Ordering::Relaxed) {
            self.impairment.lost.fetch_add(1, Ordering::Relaxed);
            return Vec::new();
        }
        self.impairment.passed.fetch_add(1, Ordering::Relaxed);
        if self.held.is_none() && self.chance() < self.impairment.reorder.load(Ordering::Relaxed) {
            self.held = Some(datagram.to_vec());
            return Vec::new();
        }
        std::iter::once(datagram.to_vec())
            .chain(self.held.take())
            .collect()
    }

    /// 0 to 999, the same series in every run (a linear congruential generator, constants by Knuth).
    fn chance(&mut self) -> u32 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 33) % 1000) as u32
    }
}
