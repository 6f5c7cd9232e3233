//! The link to the registry, as a state machine.
//!
//! ```text
//!  Waiting(until) ──timeout──► Connecting ──connected──► Greeting ──welcome──► Live
//!        ▲                        │ failed                 │ closed, silent       │ closed, silent
//!        └────────────────────────┴────────────────────────┴──────────────────────┘
//! ```
//!
//! The delay before a new attempt is drawn with full jitter from 1 s doubling to 30 s, or to `REFUSED` while nothing listens
//! at the registry's address, whichever ways there are to it: that shows a restart, and ends as suddenly. It falls back to the first
//! only after a session has lived for [`STABLE`], so that a registry that takes sessions and drops them is not
//! hammered. A refusal that no retry can cure (the device is revoked, or not known) waits much longer, and says so in `status`.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use orfe_protocol::close;
use orfe_protocol::id::BootId;
use orfe_protocol::message::{
    FromAgent, FromRegistry, Goodbye, GoodbyeReason, Heartbeat, Hello, RefusedReason, Welcome,
};
use orfe_protocol::{desired::DesiredState, id::Revision};
use rand::Rng;
use rand::rngs::StdRng;

use crate::backoff::Backoff;

/// How long a session must live before the next failure counts as a first one.
pub const STABLE: Duration = Duration::from_secs(60);

/// How long the registry may take from the open socket to its welcome.
pub const GREETING: Duration = Duration::from_secs(15);

/// Silence beyond two heartbeats that is still forgiven: a busy registry, a short loss.
pub const GRACE: Duration = Duration::from_secs(10);

/// Wait after a refusal that a retry alone does not cure, and after an overloaded registry's answer.
const LONG: Duration = Duration::from_secs(300);

/// Longest wait while connections are refused. A fleet of 10 000 devices that lost its registry sends it 5 000 SYNs a second at
/// most, and each is refused by its kernel.
const REFUSED: Duration = Duration::from_secs(4);

/// Bounds for the heartbeat interval that a registry may set; outside them it is taken for a mistake.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

/// Something the shell must do.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionCommand {
    /// Open the socket and shake hands; answer with `handle_connected` or `handle_closed`.
    Connect,
    Send(FromAgent),
    /// Close the socket, if there is one; no answer is expected.
    Close,
    /// A newer desired state came.
    Desired(Box<DesiredState>),
}

/// Why the socket is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// It could not be opened, or broke. The text says why.
    Lost(String),
    /// Nothing listens at the registry's address: it is being restarted, as a rule. The text says it.
    Refused(String),
    /// The registry closed it with this code.
    Code(u16, String),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(reason) | Self::Refused(reason) => f.write_str(reason),
            Self::Code(code, reason) if reason.is_empty() => {
                write!(f, "the registry closed it (code {code})")
            }
            Self::Code(code, reason) => write!(f, "the registry closed it: {reason} (code {code})"),
        }
    }
}

/// How the link is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// There is no registry to link to.
    Off,
    Connecting {
        /// Why the try before this one failed, or the last session ended.
        after: Option<String>,
    },
    Connected,
    /// Not connected; the text says why, and the instant when it is tried again.
    Waiting {
        reason: String,
        until: Instant,
    },
}

#[derive(Debug)]
enum State {
    Off,
    Waiting {
        until: Instant,
    },
    Connecting,
    Greeting {
        deadline: Instant,
    },
    Live {
        since: Instant,
        heartbeat: Duration,
        next_beat: Instant,
        last_heard: Instant,
    },
}

/// The link's state machine; see the module's picture.
#[derive(Debug)]
pub struct Session {
    state: State,
    backoff: Backoff,
    boot: BootId,
    agent_version: String,
    known: Revision,
    /// Why there is no session, from the end of one try until another succeeds. `None` before the first has ended.
    failed: Option<String>,
    refused: Option<(RefusedReason, String)>,
    /// The registry said, inside the Noise session, that this device was revoked.
    revoked: bool,
    commands: VecDeque<SessionCommand>,
}

impl Session {
    /// A link that begins to connect at once, or is off for a device without a registry.
    #[must_use]
    pub fn new(enrolled: bool, boot: BootId, agent_version: String, known: Revision, now: Instant) -> Self {
        let state = if enrolled {
            State::Waiting { until: now }
        } else {
            State::Off
        };
        Self {
            state,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            boot,
            agent_version,
            known,
            failed: None,
            refused: None,
            revoked: false,
            commands: VecDeque::new(),
        }
    }

    pub fn link(&self) -> LinkState {
        match (&self.state, &self.failed) {
            (State::Off, _) => LinkState::Off,
            (State::Live { .. }, _) => LinkState::Connected,
            (State::Waiting { until }, Some(reason)) => LinkState::Waiting {
                reason: reason.clone(),
                until: *until,
            },
            // A try can take half a minute; what is known from the one before stays in sight.
            (State::Connecting | State::Greeting { .. } | State::Waiting { .. }, after) => {
                LinkState::Connecting { after: after.clone() }
            }
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live { .. })
    }

    /// Whether the registry withdrew this device's right. Only its own word inside the Noise session counts: a close
    /// code can be forged by whoever terminates TLS in between.
    pub const fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// The socket is open and the Noise handshake done.
    pub fn handle_connected(&mut self, now: Instant) {
        if !matches!(self.state, State::Connecting) {
            return;
        }
        self.state = State::Greeting {
            deadline: now + GREETING,
        };
        self.send(FromAgent::Hello(Hello {
            agent_version: self.agent_version.clone(),
            boot: self.boot,
            desired: self.known,
            capabilities: Vec::new(),
        }));
    }

    pub fn handle_message(&mut self, message: FromRegistry, now: Instant, rng: &mut StdRng) {
        if let State::Live { last_heard, .. } = &mut self.state {
            *last_heard = now;
        }
        match message {
            FromRegistry::Welcome(welcome) => self.handle_welcome(&welcome, now, rng),
            FromRegistry::Desired(desired) => self.handle_desired(desired),
            FromRegistry::Ack(ack) => {
                if let State::Live { heartbeat, .. } = &mut self.state {
                    *heartbeat = interval(ack.heartbeat_ms);
                }
            }
            FromRegistry::Refused(refused) => {
                if refused.reason == RefusedReason::DeviceRevoked {
                    self.revoked = true;
                    self.known = Revision::default();
                }
                self.refused = Some((refused.reason, refused.message));
                self.commands.push_back(SessionCommand::Close);
                self.wait(now, rng, None);
            }
            // An answer to a claim has no place in a session; a newer registry may know better.
            FromRegistry::Claimed(_) => {}
        }
    }

    fn handle_welcome(&mut self, welcome: &Welcome, now: Instant, rng: &mut StdRng) {
        if !matches!(self.state, State::Greeting { .. }) {
            return;
        }
        let heartbeat = interval(welcome.heartbeat_ms);
        // The first beat comes anywhere within the interval, so that a fleet that came back together does
        // not beat together.
        let next_beat = now + heartbeat.mul_f64(rng.random_range(0.0..=1.0));
        self.failed = None;
        self.refused = None;
        self.revoked = false;
        self.state = State::Live {
            since: now,
            heartbeat,
            next_beat,
            last_heard: now,
        };
    }

    fn handle_desired(&mut self, desired: Box<DesiredState>) {
        let live = matches!(self.state, State::Live { .. });
        // Equal is taken again: a registry restored from a copy may state the same revision differently.
        if live && desired.revision >= self.known {
            self.known = desired.revision;
            self.commands.push_back(SessionCommand::Desired(desired));
        }
    }

    /// The socket could not be opened, or is closed now.
    pub fn handle_closed(&mut self, closed: &Closed, now: Instant, rng: &mut StdRng) {
        if !matches!(self.state, State::Off | State::Waiting { .. }) {
            self.wait(now, rng, Some(closed));
        }
    }

    fn wait(&mut self, now: Instant, rng: &mut StdRng, closed: Option<&Closed>) {
        if matches!(self.state, State::Live { since, .. } if now.duration_since(since) >= STABLE) {
            self.backoff.reset();
        }
        let (ceiling, reason) = match (&self.refused, closed) {
            (Some((reason, message)), _) if !is_passing(*reason) => (Some(LONG), message.clone()),
            (_, Some(Closed::Code(close::OVERLOADED, _))) => (
                Some(LONG),
                "the registry holds as many sessions as it can".to_owned(),
            ),
            (_, Some(Closed::Code(close::REPLACED, _))) => (
                Some(Duration::from_secs(30)),
                "another session of this device took its place".to_owned(),
            ),
            (_, Some(Closed::Code(code, text))) => {
                (None, format!("the registry closed the session ({code} {text})"))
            }
            (_, Some(Closed::Lost(reason) | Closed::Refused(reason))) => (None, reason.clone()),
            (Some((_, message)), None) => (None, message.clone()),
            (None, None) => (None, "the registry was silent for too long".to_owned()),
        };
        let delay = match (ceiling, closed) {
            (Some(ceiling), _) => ceiling.mul_f64(rng.random_range(0.5..=1.0)),
            (None, Some(Closed::Refused(_))) => self.backoff.next_within(REFUSED, rng),
            (None, _) => self.backoff.next(rng),
        };
        self.failed = Some(reason);
        self.state = State::Waiting { until: now + delay };
    }

    /// Tells the registry, if it listens.
    pub fn report(&mut self, message: FromAgent) {
        if self.is_live() {
            self.send(message);
        }
    }

    /// The daemon is going: say so and close.
    pub fn goodbye(&mut self, reason: GoodbyeReason) {
        self.report(FromAgent::Goodbye(Goodbye { reason }));
        self.commands.push_back(SessionCommand::Close);
        self.state = State::Off;
    }

    /// The network or the clock says that waiting is pointless: try at once.
    pub fn hurry(&mut self, now: Instant) {
        if let State::Waiting { until } = &mut self.state {
            *until = now;
        }
    }

    pub fn handle_timeout(&mut self, now: Instant, rng: &mut StdRng) {
        match &mut self.state {
            State::Waiting { until } if now >= *until => {
                self.refused = None;
                self.state = State::Connecting;
                self.commands.push_back(SessionCommand::Connect);
            }
            State::Greeting { deadline } if now >= *deadline => self.give_up(now, rng),
            State::Live {
                heartbeat,
                last_heard,
                ..
            } if now >= *last_heard + *heartbeat * 2 + GRACE => {
                self.give_up(now, rng);
            }
            State::Live {
                heartbeat, next_beat, ..
            } if now >= *next_beat => {
                *next_beat = now + heartbeat.mul_f64(rng.random_range(0.9..=1.1));
                self.send(FromAgent::Heartbeat(Heartbeat {}));
            }
            State::Off
            | State::Waiting { .. }
            | State::Connecting
            | State::Greeting { .. }
            | State::Live { .. } => {}
        }
    }

    fn give_up(&mut self, now: Instant, rng: &mut StdRng) {
        self.commands.push_back(SessionCommand::Close);
        self.wait(now, rng, None);
    }

    /// When to call [`Session::handle_timeout`], and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match &self.state {
            // The shell bounds the opening of the socket and answers in any case.
            State::Off | State::Connecting => None,
            State::Waiting { until, .. } => Some((*until, "connect to the registry")),
            State::Greeting { deadline } => Some((*deadline, "no welcome from the registry")),
            State::Live {
                heartbeat,
                next_beat,
                last_heard,
                ..
            } => {
                let silence = *last_heard + *heartbeat * 2 + GRACE;
                Some(if *next_beat <= silence {
                    (*next_beat, "heartbeat")
                } else {
                    (silence, "registry is silent")
                })
            }
        }
    }

    pub fn poll_command(&mut self) -> Option<SessionCommand> {
        self.commands.pop_front()
    }

    fn send(&mut self, message: FromAgent) {
        self.commands.push_back(SessionCommand::Send(message));
    }
}

fn interval(ms: u64) -> Duration {
    Duration::from_millis(ms).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)
}

/// Whether trying again soon may help.
const fn is_passing(reason: RefusedReason) -> bool {
    matches!(
        reason,
        RefusedReason::Unavailable | RefusedReason::Protocol | RefusedReason::Unknown
    )
}

#[cfg(test)]
mod tests;
