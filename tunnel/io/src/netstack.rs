//! The user-space TCP stack and its thread.
//!
//! One operating system thread owns everything that packets touch: the UDP socket, the `WireGuard` node, and the smoltcp
//! interface. It sleeps in one `poll` until the UDP socket is readable, an application task or a command wakes it, or a
//! timer is due, and then makes one round:
//!
//! ```text
//!   commands ─► front
//!   UDP ─batch─► node ─inner packets─► front (filter) ─► smoltcp
//!   rings ◄─pump─► smoltcp sockets ─packets─► node ─batch─► UDP
//!   timers · reaping · publishing of counters
//! ```
//!
//! The device's and the gateway's ends differ in their [`Front`] only: one dials, the other accepts.
//!
//! A round costs what is ready, not what is open: a connection is visited when a packet came for it, its application did
//! something, or its timer is due (see `schedule`).
//!
//! Memory is bounded: a round takes what fits into one set of [`ReceiveBuffers`] and makes at most [`device::MAX_TX`] packets
//! beyond the answers to it; what all connections hold lies in one pool with a bound (see `pool` and `budget`).
//! When UDP does not take more, nothing is drawn from smoltcp until it does.
//!
//! A gateway may have the kernel's own TCP beside smoltcp (see `kernel`); then smoltcp only refuses what is not let in.
//!
//! When the thread ends, for whatever reason, every connection it held ends with a reset.

mod budget;
mod connection;
mod datagrams;
mod device;
mod exchange;
mod flow;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(not(target_os = "linux"))]
#[path = "netstack/no_kernel.rs"]
mod kernel;
mod nodes;
mod pool;
mod schedule;
mod stack;
mod stream;
mod transfer;
mod wake;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use orfe_tunnel_core::{Batch, Datagrams, Event, Node, PeerId};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::datagrams::{Inbox, capacity as datagram_capacity};
pub(crate) use self::exchange::{Exchange, Link};
#[cfg(target_os = "linux")]
pub(crate) use self::kernel::Arrivals;
pub(crate) use self::kernel::{KernelStack, Number};
pub(crate) use self::nodes::Nodes;
pub(crate) use self::stack::{ConnectError, Flow, Stack, StackConfig};
pub use self::stream::TunnelStream;
pub(crate) use self::wake::Wake;
use crate::kernel_stream::KernelStream;
use crate::udp::{ReceiveBuffers, Sent, UdpOptions, UdpPort};

/// Commands that may wait for the thread. It takes all of them in every round, so a full queue means that it is far
/// behind; senders then wait.
const MAX_COMMANDS: usize = 256;
/// Longest sleep while the node has no timer at all.
const MAX_SLEEP: Duration = Duration::from_mins(1);
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

/// What the ends of a tunnel do differently.
pub(crate) trait Front: Send + 'static {
    /// What application tasks ask for.
    type Command: Send + 'static;

    /// Called once in each round, before the commands: take over what was set from outside. True when what is shown
    /// would otherwise contradict it, so that it is published in this round.
    fn reconcile(&mut self, ends: &mut Ends, now: Instant) -> bool;

    /// Carries out a command.
    fn handle_command(&mut self, command: Self::Command, ends: &mut Ends, now: Instant);

    /// Takes inner packets that arrived; passes on to the stack what belongs there.
    fn handle_packets(&mut self, packets: &Batch<PeerId>, ends: &mut Ends, now: Instant);

    /// Notes something that happened to a peer.
    fn handle_event(&mut self, event: Event);

    /// A connection is gone from the stack.
    fn handle_closed(&mut self, flow: Flow);

    /// A connection of the kernel's is over.
    fn handle_over(&mut self, _flow: Flow, _number: Number) {}

    /// Shows the counters to the outside.
    fn publish(&mut self, ends: &Ends, now: Instant);
}

/// A connection that was let in, for the task that serves it. Dropping it resets the connection.
#[derive(Debug)]
pub(crate) enum Accepted {
    Smoltcp(TunnelStream),
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "made by the kernel's stack alone")
    )]
    Kernel(KernelStream),
}

/// What fronts work on.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) node: Nodes,
    pub(crate) stack: Stack,
    /// The kernel's TCP, where there is one.
    pub(crate) kernel: Option<KernelStack>,
    /// Datagrams to be sent in this round.
    pub(crate) out: Datagrams,
    /// UDP is to be bound to a fresh port in this round.
    pub(crate) rebind: bool,
}

/// The application's side of the thread.
#[derive(Debug)]
pub(crate) struct Netstack<C> {
    handle: Handle<C>,
    /// Changes when UDP is bound anew.
    local_addr: Arc<Mutex<SocketAddr>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    done: Option<oneshot::Receiver<()>>,
}

/// Sends commands to the thread.
pub(crate) struct Handle<C> {
    commands: mpsc::Sender<C>,
    wake: Arc<Wake>,
}

impl<C> Clone for Handle<C> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            wake: Arc::clone(&self.wake),
        }
    }
}

impl<C> fmt::Debug for Handle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// The thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

impl<C> Handle<C> {
    /// Hands a command over; waits while the queue is full.
    pub(crate) async fn send(&self, command: C) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)?;
        self.wake.wake();
        Ok(())
    }

    /// Makes the thread take over what was set from outside.
    pub(crate) fn wake(&self) {
        self.wake.wake();
    }
}

impl<C: Send + 'static> Netstack<C> {
    /// Binds UDP and starts the thread. `front` gets the handle that the netstack itself is reached by.
    pub(crate) fn start<F>(
        name: &str,
        bind: &UdpOptions,
        node: Node,
        stack: &StackConfig,
        front: impl FnOnce(Handle<C>) -> F,
    ) -> io::Result<Self>
    where
        F: Front<Command = C>,
    {
        Self::start_on(name, UdpPort::bind(bind)?, None, None, node, stack, front)
    }

    /// Starts the thread on a socket that is bound; with a link, as one of several at the same port.
    pub(crate) fn start_on<F>(
        name: &str,
        mut udp: UdpPort,
        link: Option<Link>,
        kernel: Option<KernelStack>,
        node: Node,
        stack: &StackConfig,
        front: impl FnOnce(Handle<C>) -> F,
    ) -> io::Result<Self>
    where
        F: Front<Command = C>,
    {
        let poll = Poll::new()?;
        udp.register(poll.registry(), UDP)?;
        if let Some(kernel) = &kernel {
            kernel.register(poll.registry(), KERNEL)?;
        }
        let local_addr = Arc::new(Mutex::new(udp.local_addr()?));
        let wake = Arc::new(Wake::new(poll.registry(), WAKE)?);
        if let Some(link) = &link {
            link.join(&wake);
        }
        let (sender, commands) = mpsc::channel(MAX_COMMANDS);
        let handle = Handle {
            commands: sender,
            wake: Arc::clone(&wake),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (done_sender, done) = oneshot::channel();
        let now = Instant::now();
        let ends = Ends {
            node: node.into(),
            stack: Stack::new(stack, Arc::clone(&wake), now)?,
            kernel,
            out: Datagrams::new(),
            rebind: false,
        };
        let received = udp.receive_buffers();
        let round = Round {
            poll,
            udp,
            link,
            local_addr: Arc::clone(&local_addr),
            wake,
            commands,
            ends,
            front: front(handle.clone()),
            stop: Arc::clone(&stop),
            received,
            readable: false,
            sent: Sent::default(),
            blocked: false,
            packets: Batch::new(),
            node_due: Some(now),
            published: now,
            unpublished: true,
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            round.run();
            // The receiver may be gone; then nobody waits.
            let _ = done_sender.send(());
        })?;
        Ok(Self {
            handle,
            local_addr,
            stop,
            thread: Some(thread),
            done: Some(done),
        })
    }

    /// Where UDP is bound.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        *self.local_addr.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn handle(&self) -> &Handle<C> {
        &self.handle
    }

    /// Resets all connections and waits for the thread to end.
    pub(crate) async fn shutdown(mut self) {
        self.request_stop();
        if let Some(done) = self.done.take() {
            // An error means that the thread panicked; it is over as well.
            let _ = done.await;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the tunnel's thread panicked");
        }
    }

    fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.handle.wake();
    }
}

impl<C> Drop for Netstack<C> {
    fn drop(&mut self) {
        // Without `shutdown` nobody waits, but the thread ends all the same.
        self.stop.store(true, Ordering::Release);
        self.handle.wake.wake();
    }
}

const WAKE: Token = Token(0);
const UDP: Token = Token(1);
const KERNEL: Token = Token(2);

/// The thread's state.
struct Round<F: Front> {
    poll: Poll,
    udp: UdpPort,
    /// To the other threads at the same port, if there are any.
    link: Option<Link>,
    local_addr: Arc<Mutex<SocketAddr>>,
    wake: Arc<Wake>,
    commands: mpsc::Receiver<F::Command>,
    ends: Ends,
    front: F,
    stop: Arc<AtomicBool>,
    received: ReceiveBuffers,
    /// Readiness is reported on edges only: it holds until the socket says that it has no more.
    readable: bool,
    /// What of the datagrams of earlier rounds is sent.
    sent: Sent,
    /// The socket took no more when it was last tried.
    blocked: bool,
    packets: Batch<PeerId>,
    /// When the node's timers are due.
    node_due: Option<Instant>,
    published: Instant,
    unpublished: bool,
}

impl<F: Front> Round<F> {
    fn run(mut self) {
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
        self.ingress(now);
        if let Some(kernel) = &mut self.ends.kernel {
            kernel.flush();
        }
        if is_changed || self.node_due.is_none_or(|due| due <= now) {
            self.ends.node.handle_timeout(now, &mut self.ends.out);
            is_changed = true;
        }
        self.egress(now);
        while let Some(event) = self.ends.node.poll_event() {
            self.front.handle_event(event);
            self.unpublished = true;
            is_changed = true;
        }
        if is_changed {
            // The node asks all of its peers, so it is asked only when the answer may be another.
            self.node_due = self.ends.node.poll_timeout().map(|(at, _reason)| at);
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
            self.front.publish(&self.ends, now);
            self.published = now;
            self.unpublished = false;
        }
    }

    fn timeout(&mut self, now: Instant) -> Duration {
        let kernel_is_readable = (self.ends.kernel.as_ref()).is_some_and(|kernel| kernel.readable);
        if self.readable || (kernel_is_readable && !self.blocked) {
            return Duration::ZERO;
        }
        let timer = self.node_due.map(|at| at.saturating_duration_since(now));
        // While UDP takes nothing, the stack's wish to send would only make the thread spin.
        let stack = if self.blocked {
            Some(UDP_RETRY)
        } else {
            self.ends.stack.poll_delay(now)
        };
        let publish = self
            .unpublished
            .then(|| (self.published + PUBLISH_INTERVAL).saturating_duration_since(now));
        [timer, stack, publish]
            .into_iter()
            .flatten()
            .fold(MAX_SLEEP, Duration::min)
    }
}
