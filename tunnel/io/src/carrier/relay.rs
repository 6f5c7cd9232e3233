//! The gateway at a further UDP port, such as 443, which more networks let through than `WireGuard`'s own.
//!
//! ```text
//!   remote ══UDP══► :443 ─┐  one thread  ┌─ a socket for each remote, at 127.64.0.0/10 ══UDP══► gateway's port
//!                         └── flows ─────┘
//! ```
//!
//! Datagrams pass as they are, whole runs in one system call each way. The data path of the gateway knows nothing of it, so it
//! is the same for each TCP stack of the gateway; a datagram is handled twice more by the kernel, which costs about as much
//! as the gateway's own handling of UDP. All ports of one remote address come from one source address, so that the
//! gateway's limit on handshakes holds for them as if they came directly.
//!
//! Nobody is authenticated here: who is not answered by the gateway is let go (see [`flows`]). A device whose flow ended
//! is taken anew with its next datagram, from another source; to the gateway it has roamed.

mod flows;

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use orfe_tunnel_core::{MAX_RUN_BYTES, MAX_RUN_DATAGRAMS, Run};

use self::flows::{Flows, Silence};
use super::source::{reachable, towards_gateway};
use super::{is_answer, is_datagram};
use crate::udp::{ReceiveBuffers, Received, UdpOptions, UdpPort};

/// Remotes at once, each with a socket: as many as may come over WebSocket. See [`flows`] for what happens beyond it.
const FLOWS_MAX: usize = 4096;
const SILENCE: Silence = Silence {
    unanswered: Duration::from_secs(15),
    idle: Duration::from_secs(200),
};
/// How often silence is looked for, while there are flows.
const LOOK: Duration = Duration::from_secs(5);
/// How often it is said that a remote got no socket.
const COMPLAIN: Duration = Duration::from_mins(1);

const WAKE: Token = Token(0);
const FRONT: Token = Token(1);
/// Of the flow in slot 0; the others follow.
const FLOWS: usize = 2;

/// A further UDP port of a gateway. Dropping it ends it.
#[derive(Debug)]
pub struct UdpRelay {
    local_addr: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl UdpRelay {
    /// Binds `listen` and relays what comes there to the gateway, which listens at `gateway` on this machine.
    pub fn start(listen: SocketAddr, gateway: SocketAddr) -> io::Result<Self> {
        Self::with_room(FLOWS_MAX, listen, gateway)
    }

    fn with_room(flows_max: usize, listen: SocketAddr, gateway: SocketAddr) -> io::Result<Self> {
        let bind = UdpOptions {
            // There may be several addresses; a remote knows us by one.
            pin_source: true,
            ..UdpOptions::new(listen)
        };
        let (poll, mut front) = (Poll::new()?, UdpPort::bind(&bind)?);
        front.register(poll.registry(), FRONT)?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let local_addr = front.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let relay = Relay {
            poll,
            gateway: reachable(gateway),
            flows: Flows::new(flows_max),
            ready: HashSet::new(),
            turns: Vec::new(),
            sources: RandomState::new(),
            looked: Instant::now(),
            complained: None,
        };
        let (buffers, stopped) = (front.receive_buffers(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("orfe-udp-relay".to_owned())
            .spawn(move || relay.run(&front, buffers, &stopped))?;
        Ok(Self {
            local_addr,
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            // Then it ends at its next datagram, and is not waited for.
            tracing::debug!(%error, "could not wake the UDP relay");
        } else if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the UDP relay panicked");
        }
    }
}

/// The thread's state.
struct Relay {
    poll: Poll,
    gateway: SocketAddr,
    flows: Flows<UdpPort>,
    /// Sockets that may have more: readiness is reported on edges only. Each has one turn in a round.
    ready: HashSet<Token>,
    /// Those of this round; kept for its memory.
    turns: Vec<Token>,
    /// Turns a remote's address into the number of its source.
    sources: RandomState,
    looked: Instant,
    complained: Option<Instant>,
}

impl Relay {
    fn run(mut self, front: &UdpPort, mut buffers: ReceiveBuffers, stop: &AtomicBool) {
        let mut events = Events::with_capacity(256);
        while !stop.load(Ordering::Acquire) {
            match self.poll.poll(&mut events, self.timeout(Instant::now())) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "the UDP relay cannot wait for its sockets and ends");
                    return;
                }
                _ => {}
            }
            let tokens = events.iter().map(mio::event::Event::token);
            self.ready.extend(tokens.filter(|token| *token != WAKE));
            self.round(front, &mut buffers, Instant::now());
        }
    }

    fn round(&mut self, front: &UdpPort, buffers: &mut ReceiveBuffers, now: Instant) {
        let mut turns = std::mem::take(&mut self.turns);
        turns.extend(self.ready.iter());
        for token in turns.drain(..) {
            let has_more = match token {
                FRONT => self.inward(front, buffers, now),
                Token(number) => self.outward(number - FLOWS, front, buffers, now),
            };
            if !has_more {
                self.ready.remove(&token);
            }
        }
        self.turns = turns;
        if now.saturating_duration_since(self.looked) >= LOOK {
            self.flows.expire(SILENCE, now);
            self.looked = now;
        }
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        (self.flows.len() > 0).then(|| (self.looked + LOOK).saturating_duration_since(now))
    }

    /// From remotes to the gateway. False when the socket has no more.
    fn inward(&mut self, front: &UdpPort, buffers: &mut ReceiveBuffers, now: Instant) -> bool {
        if let Err(error) = front.receive(buffers) {
            return error.kind() != io::ErrorKind::WouldBlock;
        }
        for received in buffers.iter() {
            let slot = self.flows.of(&received.source);
            let slot = slot.or_else(|| self.begin(received, now));
            if let Some(flow) = slot.and_then(|slot| self.flows.get(slot)) {
                pass_on(received, &flow.socket, self.gateway);
            }
        }
        true
    }

    /// From the gateway to a remote. False when the socket has no more, or is gone.
    fn outward(&mut self, slot: usize, front: &UdpPort, buffers: &mut ReceiveBuffers, now: Instant) -> bool {
        let Some(flow) = self.flows.get(slot) else {
            return false;
        };
        if let Err(error) = flow.socket.receive(buffers) {
            return error.kind() != io::ErrorKind::WouldBlock;
        }
        let mut is_answered = false;
        for received in buffers.iter() {
            pass_on(received, front, flow.remote);
            is_answered |= received.bytes.chunks(received.stride).any(is_answer);
        }
        if is_answered {
            self.flows.answered(slot, now);
        }
        true
    }

    /// Takes in a new remote, if what it sent may be `WireGuard`'s.
    fn begin(&mut self, received: Received<'_>, now: Instant) -> Option<usize> {
        let first = received.bytes.chunks(received.stride).next()?;
        if !is_datagram(first) || !self.flows.make_room() {
            return None;
        }
        let slot = self.flows.next_slot();
        match self.open(received.source.ip(), Token(FLOWS + slot)) {
            Ok(socket) => {
                self.flows.begin(received.source, socket, now);
                Some(slot)
            }
            Err(error) => {
                let is_news = self
                    .complained
                    .is_none_or(|at| now.saturating_duration_since(at) >= COMPLAIN);
                if is_news {
                    tracing::warn!(%error, gateway = %self.gateway, "no UDP socket towards the gateway");
                    self.complained = Some(now);
                }
                None
            }
        }
    }

    fn open(&self, remote: IpAddr, token: Token) -> io::Result<UdpPort> {
        // A site has a whole network of IPv6 addresses, and may not make of it as many sources.
        let site = match remote {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6) >> 64 << 64,
        };
        let number = self.sources.hash_one(site) as u32;
        let socket = towards_gateway(self.gateway, number)?;
        let options = UdpOptions::new(socket.local_addr()?);
        let mut port = UdpPort::from_socket(socket, &options)?;
        port.register(self.poll.registry(), token)?;
        Ok(port)
    }
}

/// Sends on what was received. What the socket does not take is lost, as on any network.
fn pass_on(received: Received<'_>, port: &UdpPort, destination: SocketAddr) {
    let segment = received.stride;
    let whole = (MAX_RUN_BYTES / segment).clamp(1, MAX_RUN_DATAGRAMS) * segment;
    for bytes in received.bytes.chunks(whole) {
        let run = Run {
            destination,
            bytes,
            segment,
        };
        let _ = port.send_run(run, &mut 0);
    }
}

#[cfg(test)]
mod tests;
