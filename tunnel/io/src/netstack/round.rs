//! The thread: one round after the other until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use orfe_tunnel_core::{Batch, PeerId};
use tokio::sync::mpsc;

use super::due::Due;
use super::{Ends, Front, KernelStack, Link, Wake};
use crate::udp::{ReceiveBuffers, Sent, UdpPort};

pub(super) const WAKE: Token = Token(0);
pub(super) const UDP: Token = Token(1);
pub(super) const KERNEL: Token = Token(2);

/// Longest sleep while the node has no timer at all.
const MAX_SLEEP: Duration = Duration::from_mins(1);
/// How often it is looked at what the kernel's connections hold, and which of them are over.
const KERNEL_INTERVAL: Duration = Duration::from_secs(2);
/// Retry of a UDP socket that took no more, in case its readiness was not reported.
const UDP_RETRY: Duration = Duration::from_millis(20);
/// Datagrams that may wait while the socket takes none; above it they are lost, as on a full link.
const MAX_UNSENT: usize = 1024;
/// Rounds for what the kernel's TCP says when the thread ends: a reset for each connection, and what waited before them.
const MAX_LAST_ROUNDS: usize = 64;
/// Counters are published at most this often while traffic flows.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// While none flows they are looked at when the thread is awake anyway, at most this often: a phase may end by the mere
/// passing of time.
const IDLE_PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// The thread's state.
pub(super) struct Round<F: Front> {
    pub(super) poll: Poll,
    pub(super) udp: UdpPort,
    /// To the other threads at the same port, if there are any.
    pub(super) link: Option<Link>,
    pub(super) local_addr: Arc<Mutex<SocketAddr>>,
    pub(super) wake: Arc<Wake>,
    pub(super) commands: mpsc::Receiver<F::Command>,
    pub(super) ends: Ends,
    pub(super) front: F,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) received: ReceiveBuffers,
    /// Readiness is reported on edges only: it holds until the socket says that it has no more.
    pub(super) readable: bool,
    /// What of the datagrams of earlier rounds is sent.
    pub(super) sent: Sent,
    /// The socket took no more when it was last tried.
    pub(super) blocked: bool,
    pub(super) packets: Batch<PeerId>,
    pub(super) due: Due,
    pub(super) published: Instant,
    pub(super) unpublished: bool,
}

impl<F: Front> Round<F> {
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(16);
        while !self.stop.load(Ordering::Acquire) {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "the tunnel cannot wait for its socket and ends");
                    break;
                }
                _ => {}
            }
            if events.iter().any(|event| event.token() == UDP) {
                self.readable = true;
                self.blocked = false;
            }
            if let Some(kernel) = &mut self.ends.kernel {
                kernel.readable |= events.iter().any(|event| event.token() == KERNEL);
            }
            self.wake.rearm();
            self.round(Instant::now());
        }
        self.ends.stack.abort_where(|_| true);
        if let Some(kernel) = &mut self.ends.kernel {
            kernel.reset_all();
        }
        // What the kernel says at the end, at most.
        for _ in 0..MAX_LAST_ROUNDS {
            self.egress(Instant::now());
            if self.blocked || self.ends.kernel.as_ref().is_none_or(|kernel| !kernel.readable) {
                break;
            }
        }
        // One round sends a bounded number of packets. A socket that takes no more ends it: then the resets are lost.
        while self.ends.stack.connections() > 0 && !self.blocked {
            let before = self.ends.stack.connections();
            self.egress(Instant::now());
            if self.ends.stack.connections() == before {
                break;
            }
        }
    }

    fn round(&mut self, now: Instant) {
        let is_due = self.front.reconcile(&mut self.ends, now);
        if std::mem::take(&mut self.ends.rebind) {
            self.rebind();
        }
        let mut is_changed = is_due;
        while let Ok(command) = self.commands.try_recv() {
            self.front.handle_command(command, &mut self.ends, now);
            is_changed = true;
        }
        if let Some(kernel) = self.ends.next_kernel.take() {
            self.change_kernel(*kernel);
        }
        self.ingress(now);
        if let Some(kernel) = &mut self.ends.kernel {
            kernel.flush();
        }
        if self.due.take(now) {
            self.ends.node.handle_timeout(now, &mut self.ends.out);
        }
        self.egress(now);
        while let Some(event) = self.ends.node.poll_event() {
            self.front.handle_event(event);
            self.unpublished = true;
            is_changed = true;
        }
        while let Some(flow) = self.ends.stack.poll_closed() {
            self.front.handle_closed(flow);
            self.unpublished = true;
        }
        while let Some((flow, number)) = self.ends.kernel.as_mut().and_then(|kernel| kernel.poll_over(now)) {
            self.front.handle_over(flow, number);
            self.unpublished = true;
        }
        self.publish(is_due, now);
        if is_changed {
            self.due.note_change();
        }
        let node = &self.ends.node;
        self.due
            .ask(node.peers(), now, || node.poll_timeout().map(|(at, _reason)| at));
    }

    fn rebind(&mut self) {
        match self.fresh_port() {
            Ok(address) => {
                *self.local_addr.lock().unwrap_or_else(PoisonError::into_inner) = address;
                tracing::debug!(%address, "UDP has a fresh port");
            }
            Err(error) => tracing::warn!(%error, "UDP keeps its port: no other can be had"),
        }
    }

    /// Takes a fresh port of the same address; on an error the old one stays.
    fn fresh_port(&mut self) -> io::Result<SocketAddr> {
        let mut fresh = self.udp.fresh_port()?;
        fresh.register(self.poll.registry(), UDP)?;
        // The end of the old one takes it out of the poll; what it still held is lost, as on any network. What was not
        // sent yet is sent by the new one.
        self.udp = fresh;
        self.received = self.udp.receive_buffers();
        self.readable = true;
        self.blocked = false;
        self.udp.local_addr()
    }

    /// Lets the kernel's TCP in another namespace have the connections from now on. What is left of the old one is over.
    fn change_kernel(&mut self, mut kernel: KernelStack) {
        if let Err(error) = kernel.register(self.poll.registry(), KERNEL) {
            kernel.lose(&error);
        }
        self.ends.kernel = Some(kernel);
    }

    /// UDP to the stack.
    fn ingress(&mut self, now: Instant) {
        self.packets.clear();
        let mut has_taken = self.take_handed(now);
        if self.readable {
            match self.udp.receive(&mut self.received) {
                Ok(()) => {
                    self.take_received(now);
                    has_taken = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                // An ICMP error for something sent earlier: no news about what can be received.
                Err(error) => tracing::trace!(%error, "UDP receive"),
            }
        }
        if has_taken {
            self.hand_over();
            self.unpublished = true;
            self.front.handle_packets(&self.packets, &mut self.ends, now);
        }
        // Commands may have left packets for the stack, too.
        self.ends.stack.ingress(now);
    }

    fn take_received(&mut self, now: Instant) {
        for run in self.received.iter() {
            self.ends.node.handle_run(
                run.bytes,
                run.stride,
                run.source,
                now,
                &mut self.packets,
                &mut self.ends.out,
            );
        }
    }

    /// The stack to UDP.
    fn egress(&mut self, now: Instant) {
        if !self.blocked {
            self.ends.stack.work(now);
        }
        let (node, stack, out) = (&mut self.ends.node, &mut self.ends.stack, &mut self.ends.out);
        node.handle_packets(stack.transmit(), now, out);
        stack.clear_transmitted();
        if let Some(kernel) = self.ends.kernel.as_mut().filter(|_| !self.blocked) {
            kernel.transmit(node, now, out);
        }
        self.unpublished |= !out.is_empty();
        self.blocked = self.udp.send(out, &mut self.sent).is_err();
        if !self.blocked || out.len() > MAX_UNSENT {
            out.clear();
            self.sent = Sent::default();
        }
    }

    fn publish(&mut self, is_due: bool, now: Instant) {
        let age = now.saturating_duration_since(self.published);
        if is_due || age >= IDLE_PUBLISH_INTERVAL || (self.unpublished && age >= PUBLISH_INTERVAL) {
            if let Some(kernel) = &mut self.ends.kernel {
                kernel.bound_memory(now);
            }
            self.front.publish(&self.ends, now);
            self.published = now;
            if std::mem::take(&mut self.unpublished) {
                // What was sent and received has timers of its own, in whole seconds.
                self.due.note_change();
            }
        }
    }

    fn timeout(&mut self, now: Instant) -> Duration {
        let kernel_is_readable = (self.ends.kernel.as_ref()).is_some_and(|kernel| kernel.readable);
        if self.readable || (kernel_is_readable && !self.blocked) {
            return Duration::ZERO;
        }
        let due = [self.due.poll_timeout(), self.front.poll_timeout()]
            .into_iter()
            .flatten()
            .min();
        let timer = due.map(|at| at.saturating_duration_since(now));
        let kernel = self.ends.kernel.is_some().then_some(KERNEL_INTERVAL);
        // While UDP takes nothing, the stack's wish to send would only make the thread spin.
        let stack = if self.blocked {
            Some(UDP_RETRY)
        } else {
            self.ends.stack.poll_delay(now)
        };
        let publish = self
            .unpublished
            .then(|| (self.published + PUBLISH_INTERVAL).saturating_duration_since(now));
        [timer, kernel, stack, publish]
            .into_iter()
            .flatten()
            .fold(MAX_SLEEP, Duration::min)
    }
}
