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
//! Memory is bounded: a round takes what fits into one set of [`ReceiveBuffers`](crate::udp::ReceiveBuffers) and makes at most [`device::MAX_TX`] packets
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
mod due;
mod exchange;
mod flow;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(not(target_os = "linux"))]
#[path = "netstack/no_kernel.rs"]
mod kernel;
mod nodes;
mod pool;
mod round;
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
use std::time::Instant;

use mio::Poll;
use orfe_tunnel_core::{Batch, Datagrams, Event, Node, PeerId};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::datagrams::{Inbox, capacity as datagram_capacity};
pub(crate) use self::exchange::{Exchange, Link};
#[cfg(target_os = "linux")]
pub(crate) use self::kernel::fuzzing as kernel_fuzzing;
#[cfg(target_os = "linux")]
pub(crate) use self::kernel::{Arrivals, Loss};
pub(crate) use self::kernel::{KernelStack, Number};
pub(crate) use self::nodes::Nodes;
use self::round::{KERNEL, Round, UDP, WAKE};
pub(crate) use self::stack::{ConnectError, Flow, Stack, StackConfig};
pub use self::stream::TunnelStream;
pub(crate) use self::transfer::fuzzing as transfer_fuzzing;
pub(crate) use self::wake::Wake;
use crate::kernel_stream::KernelStream;
use crate::udp::{Sent, UdpOptions, UdpPort};

/// Commands that may wait for the thread. It takes all of them in every round, so a full queue means that it is far
/// behind; senders then wait.
const MAX_COMMANDS: usize = 256;

/// What the ends of a tunnel do differently.
pub(crate) trait Front: Send + 'static {
    /// What application tasks ask for.
    type Command: Send + 'static;

    /// Called once in each round, before the commands: take over what was set from outside. True when what is shown
    /// would otherwise contradict it, so that it is published in this round.
    fn reconcile(&mut self, ends: &mut Ends, now: Instant) -> bool;

    /// When [`Front::reconcile`] has something to do by the mere passing of time.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

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
    /// What takes its place in this round, for the connections that are still to come.
    pub(crate) next_kernel: Option<Box<KernelStack>>,
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
            next_kernel: None,
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
            due: due::Due::new(now),
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
