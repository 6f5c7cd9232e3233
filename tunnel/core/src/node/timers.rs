//! Time: the engines' timers, our own handshakes, jitter, back-off.
//!
//! The engine keeps an old session alive only by data, and once it has given up it stays so. For a peer that
//! is to be kept (see `rest`), the node sends keepalives, and it starts the next handshake itself: 120 s after the last, and again with growing, jittered
//! pauses after each time the engine gave up. Retries within an attempt come from the engine every 5 s sharp; they
//! wait a random part of 333 ms here, lest a fleet speaks in unison after its gateway restarted.

use std::time::{Duration, Instant};

use rand::Rng;

use super::peer::{MIN_OUT, Peer};
use super::{Event, Node, PeerId, push_event};
use crate::datagrams::Datagrams;
use crate::engine::{Engine, Tick};
use crate::message::Message;

/// Age of a session at which a new one is made (`WireGuard` paper, section 6.1).
pub(super) const REKEY_AFTER_TIME: Duration = Duration::from_mins(2);
/// Bound of the random delay of a retry (`WireGuard` paper, section 6.1).
const RETRY_JITTER: Duration = Duration::from_millis(333);
/// Spread of the moment at which sessions are renewed, so that those made together do not stay together.
const REKEY_JITTER: Duration = Duration::from_secs(5);
/// Pause after the first attempt that was given up; doubles up to [`MAX_BACKOFF`], then a random part of it is taken.
const MIN_BACKOFF: Duration = Duration::from_secs(2);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Interval of the engines' timers while something is going on. Every timer of the protocol is in whole seconds.
const BUSY_TICK: Duration = Duration::from_secs(1);
/// And while nothing is.
const IDLE_TICK: Duration = Duration::from_secs(2);
/// How long after the last packet or handshake a node counts as busy. Longer, and the keepalives of an idle machine would
/// keep it busy: the idle tick is good enough for all of them.
const BUSY_FOR: Duration = Duration::from_secs(2);

impl<E: Engine> Node<E> {
    /// When [`Node::handle_timeout`] is to be called at the latest, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let delayed = self
            .peers
            .values()
            .filter_map(|peer| peer.delayed.as_ref())
            .map(|(at, _)| *at)
            .min();
        let attempt = self
            .peers
            .values()
            .filter(|peer| peer.is_kept())
            .filter_map(|peer| peer.next_attempt)
            .min();
        let keepalive = self.peers.values().filter_map(Peer::keepalive_at).min();
        let tick = (!self.peers.is_empty()).then_some(self.next_tick);
        [
            tick.map(|at| (at, "protocol timers")),
            delayed.map(|at| (at, "handshake retry")),
            attempt.map(|at| (at, "handshake")),
            keepalive.map(|at| (at, "keepalive")),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// Does what is due: keepalives, handshakes, expiry.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Datagrams) {
        if now >= self.next_tick {
            self.tick_engines(now, out);
            let busy = now.saturating_duration_since(self.last_activity) < BUSY_FOR;
            self.next_tick = now + if busy { BUSY_TICK } else { IDLE_TICK };
        }
        for peer in self.peers.values_mut() {
            peer.review(now);
            peer.keep_alive(&self.gate, &self.private_key, now, out);
            send_delayed(peer, now, out);
            if peer.is_kept() && peer.next_attempt.is_some_and(|at| at <= now) {
                peer.initiate(&self.gate, &self.private_key, false, now, out);
                self.last_activity = now;
            }
        }
    }

    /// A handshake was completed: the next one is due when its session is old.
    pub(super) fn schedule_rekey(&mut self, id: PeerId, now: Instant) {
        let jitter = self.rng.random_range(Duration::ZERO..REKEY_JITTER);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.delayed = None;
            peer.next_attempt = peer.is_kept().then(|| now + REKEY_AFTER_TIME + jitter);
        }
    }

    fn tick_engines(&mut self, now: Instant, out: &mut Datagrams) {
        for peer in self.peers.values_mut() {
            let Some(engine) = peer.engine_if_any() else {
                continue;
            };
            let buffer = out.reserve(MIN_OUT);
            match engine.tick(buffer) {
                Tick::Send(len) => {
                    let is_retry = Message::parse(&buffer[..len]) == Some(Message::Initiation);
                    if is_retry && peer.endpoint.is_some() {
                        peer.try_elsewhere();
                        let jitter = self.rng.random_range(Duration::ZERO..RETRY_JITTER);
                        peer.delayed = Some((now + jitter, buffer[..len].to_vec()));
                        peer.note_initiation(now);
                        self.last_activity = now;
                    } else if let Some(endpoint) = peer.endpoint {
                        peer.sent_at = now;
                        out.commit(len, endpoint);
                    }
                }
                Tick::Expired if peer.is_kept() && peer.next_attempt.is_none() => {
                    let doubled = MIN_BACKOFF
                        .saturating_mul(1 << peer.failed_attempts.min(8))
                        .min(MAX_BACKOFF);
                    peer.next_attempt = Some(now + self.rng.random_range(MIN_BACKOFF / 2..doubled));
                    peer.failed_attempts = peer.failed_attempts.saturating_add(1);
                    push_event(
                        &mut self.events,
                        Event::SessionExpired {
                            peer: peer.config.public_key,
                        },
                    );
                }
                Tick::Idle | Tick::Expired => {}
            }
        }
    }
}

fn send_delayed<E: Engine>(peer: &mut Peer<E>, now: Instant, out: &mut Datagrams) {
    let Some((at, datagram)) = peer.delayed.take() else {
        return;
    };
    match peer.endpoint {
        Some(endpoint) if at <= now => out.push(&datagram, endpoint),
        Some(_) => peer.delayed = Some((at, datagram)),
        None => {}
    }
}
