//! From the device to UDP.
//!
//! Who reads the device changes with the traffic. While little passes, it is the thread that receives: what the kernel answers
//! at once (an echo request, the begin of a connection) leaves without a second thread being woken, and waking one costs more
//! than everything else about a small packet. With much, it is a thread of its own, beside the other:
//!
//! ```text
//!            a round of 16 KiB or 16 packets, a batch of 16 KiB received
//!   quiet ─────────────────────────────────────────────────────────────► busy
//!         ◄─────────────────────────────────────────────────────────────
//!                          nothing to be read for 10 ms
//! ```
//!
//! A device that cannot be waited for together with sockets (Windows) is busy all the time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use orfe_tunnel_core::Datagrams;

use super::bell::Bell;
use super::device::Waited;
use super::offload::{HEADER_LEN, SPARE, split};
use super::path::{Shared, lock};
use super::threads::{wait, write_single};

/// Longest packet of the device: an IP packet, large or not.
const MAX_PACKET: usize = 65_535;
/// Datagrams are sent when this much has come together, or nothing more is to be read: small packets share a system
/// call, a large packet does not wait for the next.
const FLUSH_BYTES: usize = 16_384;
/// So many packets in one round are much, as [`FLUSH_BYTES`] are.
const BUSY_PACKETS: usize = 16;
/// How long there is nothing to be read before the receiving thread reads the device again.
const QUIET_AFTER: Duration = Duration::from_millis(10);
/// Rounds that are sent at the end, at most.
const MAX_DRAINED: usize = 64;

/// Whose turn it is to read the device, and what reading takes.
pub(super) struct Turn {
    /// Held from the first read to the last send of a round, so no packet overtakes another when the turn changes.
    outbound: Mutex<Outbound>,
    is_busy: AtomicBool,
    /// Calls the thread of its own.
    call: Bell,
}

/// What a round brought.
struct Round {
    /// More than the receiving thread should do beside its own work.
    is_much: bool,
    /// Why it ended, when not because enough had come together.
    end: io::Result<()>,
}

/// The device cannot be read any more.
#[derive(Debug)]
pub(super) struct DeviceGone;

impl Turn {
    /// Quiet, and the stream on which the thread of its own is called.
    pub(super) fn new(shared: Arc<Shared>, stopped: Bell) -> io::Result<(Self, Bell)> {
        let (call, called) = Bell::pair()?;
        let turn = Self {
            is_busy: AtomicBool::new(shared.device.poll_fd().is_none()),
            outbound: Mutex::new(Outbound::new(shared, stopped)),
            call,
        };
        Ok((turn, called))
    }

    /// Whether the receiving thread is to read the device.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_busy.load(Ordering::Acquire)
    }

    /// One round by the receiving thread. When there is much, the device is the other thread's from then on.
    pub(super) fn take(&self) -> Result<(), DeviceGone> {
        let round = lock(&self.outbound).round();
        if round.is_much {
            self.hand_over();
        }
        still_there(&round.end)
    }

    /// Has the other thread read the device from now on.
    pub(super) fn hand_over(&self) {
        if !self.is_busy.swap(true, Ordering::AcqRel) {
            self.call.ring();
        }
    }

    /// The thread of its own: until the path is stopped or the device is gone. `give_back` tells the receiving thread that it
    /// is its turn.
    pub(super) fn run(&self, shared: &Shared, called: &Bell, stopped: &Bell, give_back: impl Fn()) {
        loop {
            if self.is_quiet() {
                if !await_call(called, stopped) {
                    break;
                }
                continue;
            }
            let round = lock(&self.outbound).round();
            if still_there(&round.end).is_err() {
                return;
            }
            if round.end.is_ok() {
                continue;
            }
            match shared.device.wait(stopped, QUIET_AFTER) {
                Waited::Packet => {}
                Waited::Quiet => {
                    // Whatever arrives from here on is seen by the other thread as soon as it waits anew.
                    self.is_busy.store(false, Ordering::Release);
                    give_back();
                }
                Waited::Stopped => break,
            }
        }
        lock(&self.outbound).drain();
    }
}

/// Waits until it is called; false when the path is to end.
fn await_call(called: &Bell, stopped: &Bell) -> bool {
    let ready = wait(&mut [stopped.poll_fd(), called.poll_fd()], None);
    called.silence();
    !ready.is_stopped
}

fn still_there(end: &io::Result<()>) -> Result<(), DeviceGone> {
    match end {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            tracing::error!(%error, "the tunnel's device cannot be read any more; was it deleted?");
            Err(DeviceGone)
        }
        _ => Ok(()),
    }
}

/// What reading and sending take.
struct Outbound {
    shared: Arc<Shared>,
    stopped: Bell,
    buffer: Vec<u8>,
    out: Datagrams,
    bounced: Vec<Vec<u8>>,
}

impl Outbound {
    fn new(shared: Arc<Shared>, stopped: Bell) -> Self {
        Self {
            shared,
            stopped,
            buffer: vec![0; HEADER_LEN + MAX_PACKET + SPARE],
            out: Datagrams::new(),
            bounced: Vec::new(),
        }
    }

    /// Sends what the device holds at the end: resets of connections, so that the other end hears of it.
    fn drain(&mut self) {
        // Somebody may go on sending into the device; what is there now is all that is waited for.
        for _ in 0..MAX_DRAINED {
            if self.round().end.is_err() {
                return;
            }
        }
    }

    /// Reads until a batch is full or the device is empty, and sends it.
    fn round(&mut self) -> Round {
        let mut end = Ok(());
        let (mut sealed, mut packets) = (0, 0);
        while sealed < FLUSH_BYTES {
            let room = self.buffer.len() - SPARE;
            match self.shared.device.read(&mut self.buffer[..room]) {
                Ok(len) => {
                    self.seal(len);
                    sealed += len;
                    packets += 1;
                }
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
        }
        if !self.out.is_empty() {
            self.shared.send(&mut self.out, &self.stopped);
        }
        for answer in self.bounced.drain(..) {
            write_single(&self.shared, &answer);
        }
        Round {
            is_much: sealed >= FLUSH_BYTES || packets >= BUSY_PACKETS,
            end,
        }
    }

    fn seal(&mut self, len: usize) {
        let has_header = self.shared.device.has_header();
        let mut node = self.shared.node();
        let mut outbound = node.outbound(Instant::now(), &mut self.out);
        let result = split(&mut self.buffer, len, has_header, |padded, len| {
            outbound.push(padded, len);
        });
        self.bounced.extend(std::iter::from_fn(|| node.poll_bounced()));
        drop(node);
        if result.is_err() {
            tracing::debug!(len, "the device gave a packet that contradicts its header");
        }
    }
}
