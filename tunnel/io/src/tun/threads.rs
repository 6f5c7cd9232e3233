//! The two threads of the data path.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_tunnel_core::{Batch, Datagrams, PeerId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::measure::Measuring;
use super::offload::{Group, HEADER_LEN, MAX_JOINED, SPARE, groups, split};
use super::path::{Shared, report};
use crate::udp::{ReceiveBuffers, UdpPort};

/// Longest packet of the device: an IP packet, large or not.
const MAX_PACKET: usize = 65_535;
/// Datagrams are sent when this much has come together, or nothing more is to be read: small packets share a system
/// call, a large packet does not wait for the next.
const FLUSH_BYTES: usize = 16_384;
/// Packets are written to the device when this much has come together, or nothing more was received.
const WRITE_BYTES: usize = 65_536;
/// How often counters are shown while they change.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// Batches that are sent at the end, at most.
const MAX_DRAINED: usize = 64;

/// What a wait ended with.
struct Ready {
    is_stopped: bool,
}

/// Waits until one of `fds` is ready for what is asked, or for `timeout`. The first is the stop.
fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Ready {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ready { is_stopped: false },
        Err(error) => {
            tracing::error!(error = %io::Error::from(error), "the tunnel cannot wait for its descriptors and ends");
            return Ready { is_stopped: true };
        }
    }
    Ready {
        is_stopped: !fds[0].revents().is_empty(),
    }
}

/// Waits until `socket` takes more; false when the path is to end.
pub(super) fn wait_writable(socket: &impl AsFd, stopped: &UnixStream) -> bool {
    let mut fds = [
        PollFd::new(stopped, PollFlags::IN),
        PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT),
    ];
    !wait(&mut fds, None).is_stopped
}

/// From the device to UDP.
pub(super) struct Outbound {
    shared: Arc<Shared>,
    stopped: UnixStream,
    buffer: Vec<u8>,
    out: Datagrams,
    bounced: Vec<Vec<u8>>,
}

impl Outbound {
    pub(super) fn new(shared: Arc<Shared>, stopped: UnixStream) -> Self {
        Self {
            shared,
            stopped,
            buffer: vec![0; HEADER_LEN + MAX_PACKET + SPARE],
            out: Datagrams::new(),
            bounced: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.round() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [
                        PollFd::new(&self.stopped, PollFlags::IN),
                        PollFd::new(&self.shared.device, PollFlags::IN),
                    ];
                    if wait(&mut fds, None).is_stopped {
                        self.drain();
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the tunnel's device cannot be read any more; was it deleted?");
                    return;
                }
            }
        }
    }

    /// Sends what the device holds at the end: resets of connections, so that the other end hears of it.
    fn drain(&mut self) {
        // Somebody may go on sending into the device; what is there now is all that is waited for.
        for _ in 0..MAX_DRAINED {
            if self.round().is_err() {
                return;
            }
        }
    }

    /// Reads until a batch is full or the device is empty, and sends it. An error is that of the last read.
    fn round(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut sealed = 0;
        while sealed < FLUSH_BYTES {
            let room = self.buffer.len() - SPARE;
            match self.shared.device.read(&mut self.buffer[..room]) {
                Ok(len) => {
                    self.seal(len);
                    sealed += len;
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.shared.send(&mut self.out, &self.stopped);
        for answer in self.bounced.drain(..) {
            write_single(&self.shared, &answer);
        }
        outcome
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

/// From UDP to the device, and the node's timers.
pub(super) struct Inbound {
    shared: Arc<Shared>,
    stopped: UnixStream,
    woken: UnixStream,
    /// The socket in use, until a wake-up says that it may be another.
    udp: Arc<UdpPort>,
    measuring: Measuring,
    received: ReceiveBuffers,
    packets: Batch<PeerId>,
    groups: Vec<Group>,
    out: Datagrams,
    timer: Instant,
    published: Instant,
    /// Counters have changed since they were shown.
    unpublished: bool,
    /// Something has happened that is to be shown without delay.
    is_changed: bool,
}

impl Inbound {
    pub(super) fn new(
        shared: Arc<Shared>,
        stopped: UnixStream,
        woken: UnixStream,
        measuring: Measuring,
    ) -> Self {
        let now = Instant::now();
        let udp = shared.udp();
        Self {
            received: udp.receive_buffers(),
            udp,
            measuring,
            shared,
            stopped,
            woken,
            packets: Batch::new(),
            groups: Vec::new(),
            out: Datagrams::new(),
            timer: now,
            published: now,
            unpublished: true,
            is_changed: false,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.udp.receive(&mut self.received) {
                Ok(()) => self.open(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.sleep() {
                        return;
                    }
                }
                // An ICMP error for something sent earlier: no news about what can be received.
                Err(error) => tracing::trace!(%error, "UDP receive"),
            }
            let now = Instant::now();
            if now >= self.timer {
                self.timers(now);
            }
        }
    }

    /// Opens what was received, run by run, and writes it to the device.
    fn open(&mut self) {
        let now = Instant::now();
        if !self.unpublished {
            self.unpublished = true;
            self.timer = self.timer.min(self.published + PUBLISH_INTERVAL);
        }
        let mut opened = 0;
        for run in self.received.iter() {
            let mut node = self.shared.node();
            node.handle_run(
                run.bytes,
                run.stride,
                run.source,
                now,
                &mut self.packets,
                &mut self.out,
            );
            while let Some(event) = node.poll_event() {
                report(&event);
                // A change of state is shown at once.
                self.is_changed = true;
                self.timer = now;
            }
            drop(node);
            opened += run.bytes.len();
            if !self.out.is_empty() {
                self.shared.send(&mut self.out, &self.stopped);
            }
            if opened >= WRITE_BYTES {
                if self.measuring.take_answers(&mut self.packets, now) {
                    self.timer = now;
                }
                write_all(&self.shared, &mut self.packets, &mut self.groups);
                opened = 0;
            }
        }
        if self.measuring.take_answers(&mut self.packets, now) {
            self.timer = now;
        }
        write_all(&self.shared, &mut self.packets, &mut self.groups);
    }

    /// Does what is due, shows the counters, and looks up when something is due next.
    fn timers(&mut self, now: Instant) {
        let mut node = self.shared.node();
        let gateway = self.shared.gateway();
        node.set_in_use(gateway, self.shared.has_connections(), now);
        node.handle_timeout(now, &mut self.out);
        if node.is_resting(gateway) {
            self.measuring.put_off(now);
        }
        self.measuring.work(&mut node, now, &mut self.out);
        while let Some(event) = node.poll_event() {
            report(&event);
            self.is_changed = true;
        }
        if self.is_changed || now.saturating_duration_since(self.published) >= PUBLISH_INTERVAL {
            self.shared.publish(&node, now);
            self.published = now;
            self.unpublished = false;
            self.is_changed = false;
        }
        let publish = self.unpublished.then(|| self.published + PUBLISH_INTERVAL);
        let due = node.poll_timeout().map(|(at, _reason)| at);
        self.timer = [publish, due, self.measuring.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now + Duration::from_secs(1));
        drop(node);
        self.shared.send(&mut self.out, &self.stopped);
    }

    /// Waits for datagrams, a wake-up, or the next timer; true when the path is to end.
    fn sleep(&mut self) -> bool {
        let timeout = self.timer.saturating_duration_since(Instant::now());
        let mut fds = [
            PollFd::new(&self.stopped, PollFlags::IN),
            PollFd::new(&self.woken, PollFlags::IN),
            PollFd::new(&*self.udp, PollFlags::IN),
        ];
        let ready = wait(&mut fds, Some(timeout));
        if !fds[1].revents().is_empty() {
            // How often it was woken does not matter.
            let _ = rustix::io::read(&self.woken, &mut [0; 64]);
            self.timer = Instant::now();
            self.take_over();
        }
        ready.is_stopped
    }

    /// Takes over what was set from outside: another socket, another prober.
    fn take_over(&mut self) {
        let udp = self.shared.udp();
        if !Arc::ptr_eq(&udp, &self.udp) {
            self.received = udp.receive_buffers();
            self.udp = udp;
        }
        self.shared.pass_prober(&mut self.measuring);
    }
}

/// Writes all packets, joined where that is possible, and clears them.
fn write_all(shared: &Shared, packets: &mut Batch<PeerId>, joined: &mut Vec<Group>) {
    if packets.is_empty() {
        return;
    }
    if shared.device.has_header() {
        groups(packets, joined);
        for group in joined.iter() {
            let mut pieces = [IoSlice::new(&[]); MAX_JOINED + 1];
            pieces[0] = IoSlice::new(&group.header);
            for number in 0..group.packets {
                let packet = packets
                    .get(group.first + number)
                    .map_or(&[][..], |(packet, _)| packet);
                let from = if number == 0 { 0 } else { group.headers };
                pieces[number + 1] = IoSlice::new(&packet[from..]);
            }
            write(shared, &pieces[..=group.packets]);
        }
    } else {
        for (packet, _) in packets.iter() {
            write(shared, &[IoSlice::new(packet)]);
        }
    }
    packets.clear();
}

/// Writes one packet that was made here.
fn write_single(shared: &Shared, packet: &[u8]) {
    let header = [0; HEADER_LEN];
    if shared.device.has_header() {
        write(shared, &[IoSlice::new(&header), IoSlice::new(packet)]);
    } else {
        write(shared, &[IoSlice::new(packet)]);
    }
}

/// A packet that the system does not take is lost, as it would be on a link.
fn write(shared: &Shared, pieces: &[IoSlice<'_>]) {
    if let Err(error) = shared.device.write(pieces) {
        tracing::debug!(%error, "the device did not take a packet");
    }
}
