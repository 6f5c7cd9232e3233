//! A UDP relay that stands for a poor path: delay, loss, duplication, reordering, a bottleneck, silence, and ends that
//! change their address. For systems whose kernel has no `netem`.
//!
//! ```text
//!   client ──► front ──► [up: loss, bottleneck, delay] ──► back ──► target
//!          ◄──       ◄──           [down]              ◄──
//! ```
//!
//! It carries one path: whoever spoke last at the front is the client. One thread owns both sockets; it receives and sends
//! many datagrams a call, and a direction that does nothing is passed on as it came (several Gbit/s). Times are
//! those of the thread's own waking, some 0.1 ms late. See [`pipe`] for what is decided, and by which seed.

pub mod pipe;
mod port;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use self::pipe::Pipe;
pub use self::pipe::{Bottleneck, Counts, Impairment, Share, ShareError};
use self::port::{Arena, Port, Received, Run};

/// Rounds of receiving before what is due is sent: each is at most 8 × 64 KiB.
const ROUNDS: usize = 4;

/// What the two directions do, and by which chance.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Path {
    /// From the client to the target.
    pub up: Impairment,
    /// From the target to the client.
    pub down: Impairment,
    /// Whence chance is drawn; the same seed draws the same.
    pub seed: u64,
}

impl Path {
    /// The same both ways.
    pub fn symmetric(impairment: Impairment, seed: u64) -> Self {
        Self {
            up: impairment,
            down: impairment,
            seed,
        }
    }
}

/// What both directions did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BothCounts {
    /// From the client to the target.
    pub up: Counts,
    /// From the target to the client.
    pub down: Counts,
}

/// One end of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who speaks first, at the front.
    Client,
    /// The one behind the relay.
    Target,
}

#[derive(Debug, Default)]
struct Wishes {
    path: Option<Path>,
    blocked: Option<bool>,
    /// Client, target.
    moved: [bool; 2],
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    wishes: Mutex<Wishes>,
    counts: Mutex<BothCounts>,
    front: Mutex<SocketAddr>,
}

/// A running relay; dropping it ends it and waits for its thread.
#[derive(Debug)]
pub struct ImpairedRelay {
    shared: Arc<Shared>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl ImpairedRelay {
    /// Binds `listen` and relays to `target`, from another port of the same address or, when `target` is of loopback
    /// and `listen` is not, from loopback.
    pub fn start(listen: SocketAddr, target: SocketAddr, path: Path) -> io::Result<Self> {
        let front = Port::bind(listen)?;
        let own = if target.ip().is_loopback() {
            target.ip()
        } else {
            listen.ip()
        };
        let back = Port::bind(SocketAddr::new(own, 0))?;
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            wishes: Mutex::default(),
            counts: Mutex::default(),
            front: Mutex::new(front.socket.local_addr()?),
        });
        let relay = Relay {
            front,
            back,
            target,
            client: None,
            up: Pipe::new(path.up, path.seed),
            down: Pipe::new(path.down, !path.seed),
            woken,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("impaired-relay".to_owned())
            .spawn(move || relay.run())?;
        Ok(Self {
            shared,
            waker,
            thread: Some(thread),
        })
    }

    /// Where clients speak to.
    pub fn address(&self) -> SocketAddr {
        *self.shared.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Treats what comes from now on in this way. The seed keeps its place.
    pub fn set_path(&self, path: Path) {
        self.wish(|wishes| wishes.path = Some(path));
    }

    /// Throws everything away, or passes again.
    pub fn block(&self, blocked: bool) {
        self.wish(|wishes| wishes.blocked = Some(blocked));
    }

    /// Gives this end a new address as seen by the other: a NAT that forgot, a laptop in another network.
    pub fn move_end(&self, end: End) {
        self.wish(|wishes| wishes.moved[end as usize] = true);
    }

    /// What became of the datagrams, some milliseconds ago.
    pub fn counts(&self) -> BothCounts {
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, wish: impl FnOnce(&mut Wishes)) {
        wish(&mut self.shared.wishes.lock().unwrap_or_else(PoisonError::into_inner));
        // Full means that it is about to wake.
        let _ = (&self.waker).write(&[0]);
    }
}

impl Drop for ImpairedRelay {
    fn drop(&mut self) {
        self.wish(|wishes| wishes.stop = true);
        if let Some(thread) = self.thread.take() {
            // It panicked, then; its test sees that nothing passes.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Relay {
    front: Port,
    back: Port,
    target: SocketAddr,
    client: Option<SocketAddr>,
    up: Pipe<Bytes>,
    down: Pipe<Bytes>,
    woken: UnixStream,
    shared: Arc<Shared>,
}

impl Relay {
    fn run(mut self) {
        let mut arena = Arena::new();
        let mut run = Run::default();
        loop {
            if self.sleep().is_err() || self.take_wishes() {
                return;
            }
            for _ in 0..ROUNDS {
                let up = self.receive_up(&mut arena);
                let down = self.receive_down(&mut arena);
                if !matches!((up, down), (Ok(up), Ok(down)) if up || down) {
                    break;
                }
            }
            let now = Instant::now();
            release(&mut self.up, now, &self.back, Some(self.target), &mut run);
            release(&mut self.down, now, &self.front, self.client, &mut run);
            *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = BothCounts {
                up: self.up.counts(),
                down: self.down.counts(),
            };
        }
    }

    /// Until a datagram comes, one is due, or something is wished.
    fn sleep(&self) -> io::Result<()> {
        let due = [self.up.next_due(), self.down.next_due()]
            .into_iter()
            .flatten()
            .min();
        let timeout = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
        let mut sources = [
            PollFd::new(&self.front.socket, PollFlags::IN),
            PollFd::new(&self.back.socket, PollFlags::IN),
            PollFd::new(&self.woken, PollFlags::IN),
        ];
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// True when the relay is to end.
    fn take_wishes(&mut self) -> bool {
        let mut drained = [0; 64];
        while (&self.woken).read(&mut drained).is_ok_and(|read| read > 0) {}
        let wishes = std::mem::take(&mut *self.shared.wishes.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(path) = wishes.path {
            self.up.set(path.up);
            self.down.set(path.down);
        }
        if let Some(blocked) = wishes.blocked {
            self.up.block(blocked);
            self.down.block(blocked);
        }
        let [client, target] = wishes.moved;
        if client {
            // The target sees the client at the address of the back.
            rebind(&mut self.back);
        }
        if target {
            rebind(&mut self.front);
            if let Ok(address) = self.front.socket.local_addr() {
                *self.shared.front.lock().unwrap_or_else(PoisonError::into_inner) = address;
            }
        }
        wishes.stop
    }

    fn receive_up(&mut self, arena: &mut Arena) -> io::Result<bool> {
        let Self {
            front,
            back,
            target,
            client,
            up,
            ..
        } = self;
        let now = Instant::now();
        front.receive(arena, |received| {
            *client = Some(received.from);
            pass(up, now, received, back, Some(*target));
        })
    }

    fn receive_down(&mut self, arena: &mut Arena) -> io::Result<bool> {
        let Self {
            front,
            back,
            client,
            down,
            ..
        } = self;
        let now = Instant::now();
        back.receive(arena, |received| pass(down, now, received, front, *client))
    }
}

/// Puts what was received into its pipe, or sends it on at once when the pipe does nothing.
fn pass(pipe: &mut Pipe<Bytes>, now: Instant, received: Received<'_>, port: &Port, to: Option<SocketAddr>) {
    let (true, Some(to)) = (pipe.is_open(), to) else {
        let all = Bytes::copy_from_slice(received.bytes);
        for start in (0..all.len()).step_by(received.stride) {
            let datagram = all.slice(start..all.len().min(start + received.stride));
            pipe.push(now, datagram.len(), datagram);
        }
        return;
    };
    let taken = port.send(to, received.bytes, received.stride);
    pipe.note_passed(taken);
    pipe.note_dropped(received.datagrams() - taken);
}

/// Sends what is due.
fn release(pipe: &mut Pipe<Bytes>, now: Instant, port: &Port, to: Option<SocketAddr>, run: &mut Run) {
    let (mut came_out, mut taken) = (0, 0);
    let mut send = |bytes: &[u8], stride: usize| {
        if let Some(to) = to {
            taken += port.send(to, bytes, stride);
        }
    };
    while let Some(datagram) = pipe.pop(now) {
        came_out += 1;
        if !run.takes(datagram.len()) {
            run.flush(&mut send);
        }
        run.push(&datagram);
    }
    run.flush(&mut send);
    pipe.note_passed(taken);
    pipe.note_dropped(came_out - taken);
}

/// Another port of the same address; the old one stays when there is none.
fn rebind(port: &mut Port) {
    let other = port
        .socket
        .local_addr()
        .and_then(|address| Port::bind(SocketAddr::new(address.ip(), 0)));
    if let Ok(other) = other {
        *port = other;
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        // Nothing is under way for longer than an impairment's delay.
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests;
