//! Time: the engines' timers, our own handshakes, jitter, back-off.
//!
//! The engine keeps an old session alive only by data, and once it has given up it stays so. For a peer that
//! is to be kept (see `rest`), the node sends keepalives, and it starts the next handshake itself: 120 s after the last, and again with growing, jittered
//! pauses after each time the engine gave up. Retries within an attempt come from the engine every 5 s sharp; they
//! wait a random part of 333 ms here, lest a fleet speaks in unison after its gateway restarted.
//!
//! An engine knows what time it is from its last round of timers alone, and has no word for when the next one is due. So rounds
//! come at two occasions, and at no others, for each is a wake-up of a machine at rest:
//!
//! - before an engine is used, when the last round is [`ROUND`] ago: what happens is noted with a time that is right, and a
//!   session that is too old is gone before it could be used;
//! - when a timer of the protocol may be due ([`Peer::next_round`]), and every [`IDLE_ROUND`] in any case.

use std::time::{Duration, Instant};

use rand::Rng;

use super::peer::{MIN_OUT, Peer};
use super::rest::LINGER;
use super::{Event, Node, PeerId, REJECT_AFTER_TIME, push_event};
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
/// Shortest time between two rounds of the engines' timers. Every timer of the protocol is in whole seconds.
const ROUND: Duration = Duration::from_secs(1);
/// Longest time between two rounds. It bounds how long keys outlive a sleep of the machine, which the engine's clock counts
/// and ours does not, and those of a session that nobody ever proved.
const IDLE_ROUND: Duration = Duration::from_secs(30);
/// An initiation without an answer is repeated after this long (`WireGuard` paper, section 6.1).
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The engine counts [`REKEY_TIMEOUT`] from when the initiation was made, some curve operations after the time that we know.
const INITIATION_TAKES: Duration = Duration::from_millis(20);
/// Who was sent data and has nothing to say sends a keepalive after this long (`WireGuard` paper, section 6.5).
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the timers of a peer's engine go by, as far as the node sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    /// An initiation was made that is not answered yet.
    pub(super) asked: Option<Instant>,
    /// Data was last sent.
    pub(super) sent: Option<Instant>,
    /// Anything authentic last arrived, and data did.
    pub(super) heard: Option<Instant>,
    pub(super) heard_data: Option<Instant>,
}

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
        let round = self
            .peers
            .values()
            .filter_map(|peer| peer.next_round(self.round_at));
        // All that is due within a second is one round, whatever the number of peers.
        let round = round.min().map(|at| at.max(self.round_at + ROUND));
        [
            round.map(|at| (at, "protocol timers")),
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
        self.catch_up(now, out);
        for peer in self.peers.values_mut() {
            peer.review(now);
            peer.keep_alive(&self.gate, &self.private_key, now, out);
            send_delayed(peer, now, out);
            if peer.is_kept() && peer.next_attempt.is_some_and(|at| at <= now) {
                peer.initiate(&self.gate, &self.private_key, false, now, out);
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

    /// A round of timers, when the last one is a while ago. To be called before any engine is used. Where it is for every
    /// batch of datagrams, it is one comparison.
    pub(super) fn catch_up(&mut self, now: Instant, out: &mut Datagrams) {
        if now < self.round_at + ROUND {
            return;
        }
        self.round_at = now;
        self.tick_engines(now, out);
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
                        peer.note_initiation(&buffer[..len], now);
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

impl<E: Engine> Peer<E> {
    /// When a timer of its engine may be due for the first time after the round at `last`.
    fn next_round(&self, last: Instant) -> Option<Instant> {
        self.engine.as_ref()?;
        let Moments {
            asked,
            sent,
            heard,
            heard_data,
        } = self.moments;
        // A round that comes too early for the engine is made up for by the next.
        let retry = asked.map(|at| at + REKEY_TIMEOUT + INITIATION_TAKES);
        let late_retry = retry.map(|at| at + ROUND);
        let keepalive = heard_data
            .filter(|at| *at >= self.sent_at)
            .map(|at| at + KEEPALIVE_TIMEOUT);
        let unanswered = sent
            .filter(|at| heard.is_none_or(|heard| heard <= *at))
            .map(|at| at + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
        // What is sent or received on an old session asks for a new one.
        let renewal = sent.max(heard_data).filter(|used_at| {
            self.last_handshake
                .is_some_and(|made_at| *used_at >= made_at + REKEY_AFTER_TIME)
        });
        let renewal = renewal.map(|used_at| used_at + ROUND);
        // No packets, and then no keys. The engine asks for more than this age.
        let rejected = self.last_handshake.map(|at| at + REJECT_AFTER_TIME + ROUND);
        let forgotten = self.last_handshake.map(|at| at + REJECT_AFTER_TIME * 3 + ROUND);
        let rests = (!self.in_use).then(|| self.used_at + LINGER);
        [
            retry, late_retry, keepalive, unanswered, renewal, rejected, forgotten, rests,
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > last)
        .min()
        .map_or(Some(last + IDLE_ROUND), |at| Some(at.min(last + IDLE_ROUND)))
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
