//! From UDP to the device, the node's timers, and the device's reader while there is little to read.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_tunnel_core::{Batch, Datagrams, PeerId};
use rustix::event::PollFlags;

use super::bell::Bell;
use super::measure::Measuring;
use super::offload::Group;
use super::outbound::{DeviceGone, Turn};
use super::path::{Shared, report};
use super::threads::{wait, write_all};
use crate::udp::{ReceiveBuffers, UdpPort};

/// Packets are written to the device when this much has come together, or nothing more was received.
const WRITE_BYTES: usize = 65_536;
/// With so much received at once, the device gets a reader of its own.
const BUSY_BYTES: usize = 16_384;
/// How often counters are shown while they change.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// From UDP to the device, and the node's timers.
pub(super) struct Inbound {
    shared: Arc<Shared>,
    stopped: Bell,
    woken: Bell,
    /// The socket in use, until a wake-up says that it may be another.
    udp: Arc<UdpPort>,
    /// Who reads the device.
    turn: Arc<Turn>,
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

/// The path is to end.
struct Ended;

impl From<DeviceGone> for Ended {
    fn from(DeviceGone: DeviceGone) -> Self {
        Self
    }
}

impl Inbound {
    pub(super) fn new(
        shared: Arc<Shared>,
        stopped: Bell,
        woken: Bell,
        turn: Arc<Turn>,
        measuring: Measuring,
    ) -> Self {
        let now = Instant::now();
        let udp = shared.udp();
        Self {
            received: udp.receive_buffers(),
            udp,
            turn,
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

    /// The thread: until the path is stopped or the device is gone.
    pub(super) fn run(mut self) {
        // How many buffers the next call fills. The first one after a wait finds a single datagram as a rule, and what it takes
        // to receive many costs time just then.
        let mut most = 1;
        while self.turn_once(&mut most).is_ok() {
            let now = Instant::now();
            if now >= self.timer {
                self.timers(now);
            }
        }
    }

    fn turn_once(&mut self, most: &mut usize) -> Result<(), Ended> {
        match self.udp.receive_some(&mut self.received, *most) {
            Ok(()) => {
                *most = usize::MAX;
                return self.open();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An ICMP error for something sent earlier: no news about what can be received.
            Err(error) => {
                tracing::trace!(%error, "UDP receive");
                return Ok(());
            }
        }
        *most = 1;
        // Nothing is to be received: no call for that is made again before it is.
        while !self.sleep()? {
            if Instant::now() >= self.timer {
                break;
            }
        }
        Ok(())
    }

    /// Opens what was received, run by run, and writes it to the device. What the kernel has answered at once is sent.
    fn open(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        self.publish_soon();
        let (mut opened, mut all) = (0, 0);
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
            all += run.bytes.len();
            if !self.out.is_empty() {
                self.shared.send(&mut self.out, &self.stopped);
            }
            if opened >= WRITE_BYTES {
                if self.measuring.take_answers(&mut self.packets, now) {
                    self.is_changed = true;
                    self.timer = now;
                }
                write_all(&self.shared, &mut self.packets, &mut self.groups);
                opened = 0;
            }
        }
        // An answer is shown at once, and the counters with it.
        if self.measuring.take_answers(&mut self.packets, now) {
            self.is_changed = true;
            self.timer = now;
        }
        let has_packets = !self.packets.is_empty();
        write_all(&self.shared, &mut self.packets, &mut self.groups);
        if all >= BUSY_BYTES {
            self.turn.hand_over();
        } else if has_packets && self.turn.is_quiet() {
            self.turn.take()?;
        }
        Ok(())
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
        while let Some(event) = node.poll_event() {
            report(&event);
            self.is_changed = true;
        }
        if self.is_changed || now.saturating_duration_since(self.published) >= PUBLISH_INTERVAL {
            // Together, so that whoever looks is woken once for both.
            self.measuring.show();
            self.shared.publish(&node, now);
            self.published = now;
            self.unpublished = false;
            self.is_changed = false;
        }
        // Behind what is shown: what it sends is shown together with the answer, so that whoever looks is woken once.
        self.measuring.work(&mut node, now, &mut self.out);
        self.unpublished |= !self.out.is_empty();
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

    /// Waits for datagrams, a wake-up, or the next timer, and sends what the device gives meanwhile. True when there may be
    /// something to be received.
    fn sleep(&mut self) -> Result<bool, Ended> {
        let timeout = self.timer.saturating_duration_since(Instant::now());
        let stopped = self.stopped.poll_fd();
        let device = self.shared.device.poll_fd().filter(|_| self.turn.is_quiet());
        // The last place is not looked at without the device.
        let watched = if device.is_some() { 4 } else { 3 };
        let mut fds = [
            stopped.clone(),
            self.woken.poll_fd(),
            self.udp.poll_fd(PollFlags::IN),
            device.unwrap_or(stopped),
        ];
        let is_stopped = wait(&mut fds[..watched], Some(timeout)).is_stopped;
        let [is_woken, is_received, is_read] = [1, 2, 3].map(|at| !fds[at].revents().is_empty());
        if is_stopped {
            return Err(Ended);
        }
        if is_woken {
            self.woken.silence();
            self.timer = Instant::now();
            self.take_over();
        }
        if is_read {
            self.turn.take()?;
            // What is sent and never answered is news, too: it shows that a path is dead.
            self.publish_soon();
        }
        Ok(is_received)
    }

    /// Counters have changed.
    fn publish_soon(&mut self) {
        if !self.unpublished {
            self.unpublished = true;
            self.timer = self.timer.min(self.published + PUBLISH_INTERVAL);
        }
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
