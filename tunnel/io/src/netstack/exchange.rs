//! What the threads of one gateway hand to each other: datagrams that landed at the wrong one.
//!
//! Each thread has one queue, which the others fill and it empties in each of its rounds.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use orfe_tunnel_core::{Shard, Stray};

use super::wake::Wake;
use super::{Front, Round};

/// What may wait for a thread. It takes all of it in each round, so a full queue means that it is far behind: then
/// datagrams are lost, as they would be at its socket, and their senders send again. In bytes half of what the kernel holds
/// for a socket; in number enough for a burst of handshakes.
const MAX_WAITING: usize = 1024;
const MAX_WAITING_BYTES: usize = 4 << 20;

/// Datagrams for another thread.
#[derive(Debug)]
struct Handed {
    stray: Stray,
    /// The address of ours that they were sent to, and that answers are to come from; `None` where the system chooses.
    local: Option<IpAddr>,
}

/// The queues of all threads.
#[derive(Debug)]
pub(crate) struct Exchange {
    queues: Vec<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// Set when the thread begins; until then what comes waits for its first round.
    wake: OnceLock<Arc<Wake>>,
}

#[derive(Debug, Default)]
struct Waiting {
    handed: Vec<Handed>,
    bytes: usize,
}

impl Exchange {
    pub(crate) fn new(threads: u8) -> Self {
        Self {
            queues: (0..threads).map(|_| Queue::default()).collect(),
        }
    }

    /// Hands datagrams to the thread that they are for. The number of datagrams that were lost instead.
    fn push(&self, handed: Handed) -> u64 {
        let lost = handed.stray.datagrams() as u64;
        let Some(queue) = self.queues.get(usize::from(handed.stray.shard)) else {
            return lost;
        };
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = waiting.bytes + handed.stray.len();
        if waiting.handed.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            return lost;
        }
        waiting.bytes = bytes;
        waiting.handed.push(handed);
        drop(waiting);
        if let Some(wake) = queue.wake.get() {
            wake.wake();
        }
        0
    }
}

/// One thread's side of an [`Exchange`].
#[derive(Debug)]
pub(crate) struct Link {
    exchange: Arc<Exchange>,
    shard: Shard,
    /// What was taken in this round; kept for its memory.
    taken: Vec<Handed>,
}

impl Link {
    pub(crate) fn new(exchange: Arc<Exchange>, shard: Shard) -> Self {
        Self {
            exchange,
            shard,
            taken: Vec::new(),
        }
    }

    /// Has others end the sleep of this thread when they have something for it.
    pub(super) fn join(&self, wake: &Arc<Wake>) {
        if let Some(queue) = self.exchange.queues.get(usize::from(self.shard.number())) {
            // A link joins once.
            let _ = queue.wake.set(Arc::clone(wake));
        }
    }

    /// Everything that others handed over since the last call.
    fn take(&mut self) -> &[Handed] {
        self.taken.clear();
        let number = usize::from(self.shard.number());
        if let Some(queue) = self.exchange.queues.get(number) {
            let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut waiting.handed, &mut self.taken);
            waiting.bytes = 0;
        }
        &self.taken
    }

    /// Hands datagrams over. The number of those that were lost instead.
    fn push(&self, handed: Handed) -> u64 {
        self.exchange.push(handed)
    }
}

impl<F: Front> Round<F> {
    /// Takes what landed at other threads. False when there was nothing.
    pub(super) fn take_handed(&mut self, now: Instant) -> bool {
        let Some(link) = &mut self.link else { return false };
        let handed = link.take();
        for Handed { stray, local } in handed {
            if let Some(local) = local {
                self.udp.pin(stray.source, *local);
            }
            self.ends
                .node
                .handle_stray(stray, now, &mut self.packets, &mut self.ends.out);
        }
        !handed.is_empty()
    }

    /// Hands what landed here to the threads that it is for.
    pub(super) fn hand_over(&mut self) {
        let Some(link) = &self.link else { return };
        let mut lost = 0;
        for stray in self.ends.node.drain_strays() {
            let local = self.udp.pinned(stray.source);
            lost += link.push(Handed { stray, local });
        }
        self.ends.node.note_lost_strays(lost);
    }
}
