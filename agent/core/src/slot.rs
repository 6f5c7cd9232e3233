//! One slot: a child that is wanted, started, watched, replaced and drained.
//!
//! ```text
//!  Idle ─wanted─► Blocked ─ready─► Starting ─Started─► Up ─Connected + open connection─► Connected
//!                    ▲                │                │ ▲                                  │
//!                    │                │ exit           │ └──── Reconnecting ◄── Disconnected / no connection
//!                 Backoff ◄───────────┴────────────────┘            │
//!                    ▲                                              │ silent for WEDGED: cut, again: ended
//!                    └──exit── Ending(why) ◄── Rejected (403) ◄─────┘
//!  any, unwanted or changed ──► Draining ─exit─► Idle / Blocked
//! ```
//!
//! What the child says and what the proxy sees are judged together: its line `successfully connected` counts while
//! the proxy holds an open connection of it. A child that neither connects nor complains is
//! wedged: first its connections are cut, which makes a healthy one dial again within 0.1 s, and if that does not
//! help the child is replaced. One that complains (401, 429, refused) is dialling and is left alone: a
//! restart would only lose its backoff.

mod state;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orfe_protocol::observed::{ProvisionerState, ProvisionerStatus};
use rand::rngs::StdRng;

use self::state::State;
pub use self::state::{ENDING, STALLED, STARTING, UNSEEN, WEDGED};
use crate::backoff::Backoff;
use crate::child::{DialFailure, Sign};
use crate::time::Now;

/// After a rejection (403: no licence, or something in between forbids) nothing changes quickly.
const REJECTED: Duration = Duration::from_secs(60);

/// A child that lived connected for this long starts the backoff anew.
const STABLE: Duration = Duration::from_secs(60);

/// Something the shell must do for this slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotCommand {
    /// Start the child; answer with `handle_spawned` or `handle_spawn_failed`.
    Spawn,
    /// SIGTERM to the child alone: finish the running job, then go.
    Drain,
    /// End the whole tree at once.
    Kill,
    /// Cut the child's connections at the proxy.
    Cut,
}

/// How the child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl Exit {
    fn describe(&self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("the provisioner ended with exit code {code}"),
            (None, Some(signal)) => format!("the provisioner was ended by signal {signal}"),
            (None, None) => "the provisioner ended".to_owned(),
        }
    }
}

/// Why a slot is as it is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reason {
    text: String,
    hint: Option<&'static str>,
}

impl Reason {
    const fn new(text: String) -> Self {
        Self { text, hint: None }
    }
}

/// One slot; see the module's picture.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    name: String,
    wanted: bool,
    /// What it waits for; none when it may start.
    blocked_by: Option<String>,
    drain_timeout: Duration,
    state: State,
    since: Timestamp,
    shown: ProvisionerState,
    pid: Option<u32>,
    /// Whether a child of ours runs.
    alive: bool,
    open_connections: usize,
    restarts: u32,
    reason: Option<Reason>,
    last_words: Option<String>,
    backoff: Backoff,
    commands: VecDeque<SlotCommand>,
}

impl Slot {
    #[must_use]
    pub fn new(number: u8, name: String, drain_timeout: Duration, now: Now) -> Self {
        Self {
            number,
            name,
            wanted: false,
            blocked_by: None,
            drain_timeout,
            state: State::Idle,
            since: now.wall,
            shown: ProvisionerState::Idle,
            pid: None,
            alive: false,
            open_connections: 0,
            restarts: 0,
            reason: None,
            last_words: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(300)),
            commands: VecDeque::new(),
        }
    }

    pub const fn number(&self) -> u8 {
        self.number
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn status(&self) -> ProvisionerStatus {
        let reason = self.reason_now();
        ProvisionerStatus {
            slot: self.number,
            name: self.name.clone(),
            state: self.shown,
            since: self.since,
            pid: self.pid,
            restarts: self.restarts,
            hint: reason.as_ref().and_then(|reason| reason.hint).map(str::to_owned),
            reason: reason.map(|reason| reason.text),
        }
    }

    fn reason_now(&self) -> Option<Reason> {
        match self.state {
            State::Blocked => self.blocked_by.clone().map(Reason::new),
            State::Connected { .. } | State::Idle => None,
            State::Starting { .. }
            | State::Up { .. }
            | State::Ending { .. }
            | State::Draining { .. }
            | State::Backoff { .. } => self.reason.clone(),
        }
    }

    /// Whether no child runs and none is wanted.
    pub const fn is_at_rest(&self) -> bool {
        !self.alive && matches!(self.state, State::Idle)
    }

    /// A child is wanted, and may start when `blocked_by` is none.
    pub fn want(&mut self, blocked_by: Option<String>, now: Now) {
        self.wanted = true;
        self.blocked_by = blocked_by;
        if matches!(self.state, State::Idle) {
            self.enter(State::Blocked, now);
        }
        self.start_if_ready(now);
    }

    /// No child is wanted: what runs finishes its job and goes.
    pub fn unwant(&mut self, now: Now) {
        self.wanted = false;
        match self.state {
            // One that must go anyway keeps its shorter deadline.
            State::Idle | State::Draining { .. } | State::Ending { .. } => {}
            State::Blocked | State::Backoff { .. } if !self.alive => self.enter(State::Idle, now),
            _ => self.drain(now),
        }
    }

    /// What the child is given has changed: drain the running one and start another.
    pub fn replace(&mut self, now: Now) {
        match self.state {
            State::Starting { .. } | State::Up { .. } | State::Connected { .. } => self.drain(now),
            State::Backoff { .. } => {
                self.backoff.reset();
                self.enter(State::Blocked, now);
                self.start_if_ready(now);
            }
            State::Idle | State::Blocked | State::Ending { .. } | State::Draining { .. } => {}
        }
    }

    /// Time is up: end the tree at once, whatever it does.
    pub fn kill(&mut self) {
        self.wanted = false;
        if self.alive {
            self.commands.push_back(SlotCommand::Kill);
        }
    }

    fn drain(&mut self, now: Now) {
        self.commands.push_back(SlotCommand::Drain);
        self.enter(
            State::Draining {
                kill_at: Some(now.instant + self.drain_timeout),
            },
            now,
        );
    }

    fn start_if_ready(&mut self, now: Now) {
        if matches!(self.state, State::Blocked) && self.wanted && self.blocked_by.is_none() {
            self.last_words = None;
            // Why the last one ended is no news of this one.
            self.reason = None;
            self.open_connections = 0;
            self.alive = true;
            self.commands.push_back(SlotCommand::Spawn);
            self.enter(
                State::Starting {
                    deadline: now.instant + STARTING,
                },
                now,
            );
        }
    }

    pub const fn handle_spawned(&mut self, pid: u32) {
        self.pid = Some(pid);
    }

    /// The child could not be started; the text says why.
    pub fn handle_spawn_failed(&mut self, reason: String, rng: &mut StdRng, now: Now) {
        self.alive = false;
        self.pid = None;
        self.reason = Some(Reason::new(reason));
        if self.wanted {
            let until = now.instant + self.backoff.next(rng);
            self.enter(State::Backoff { until }, now);
        } else {
            self.enter(State::Idle, now);
        }
    }

    /// A line of the child's.
    pub fn handle_sign(&mut self, sign: Sign, now: Now) {
        match sign {
            Sign::Started if matches!(self.state, State::Starting { .. }) => {
                self.enter(
                    State::Up {
                        quiet_since: now.instant,
                        cut: false,
                        was_connected: false,
                    },
                    now,
                );
            }
            Sign::Connected if matches!(self.state, State::Starting { .. } | State::Up { .. }) => {
                self.reason = None;
                let unseen_since = (self.open_connections == 0).then_some(now.instant);
                self.enter(
                    State::Connected {
                        since: now.instant,
                        unseen_since,
                        moved_at: None,
                    },
                    now,
                );
            }
            Sign::Disconnected => self.disconnected("the connection to Coder ended", now),
            Sign::DialFailed(failure) => self.complained(&failure, now),
            Sign::Rejected { text } => self.rejected(&text, now),
            Sign::Fatal { text } => self.last_words = Some(text),
            Sign::InstallingTerraform => {
                self.reason = Some(Reason::new(
                    "the provisioner downloads terraform, which is missing on its PATH".to_owned(),
                ));
            }
            Sign::Started | Sign::Connected | Sign::BuildOutput | Sign::Other => {}
        }
    }

    fn disconnected(&mut self, reason: &str, now: Now) {
        if let State::Connected { since, .. } = self.state {
            if now.instant.duration_since(since) >= STABLE {
                self.backoff.reset();
            }
            self.reason = Some(Reason::new(reason.to_owned()));
            self.enter(
                State::Up {
                    quiet_since: now.instant,
                    cut: false,
                    was_connected: true,
                },
                now,
            );
        }
    }

    fn complained(&mut self, failure: &DialFailure, now: Now) {
        self.disconnected("the connection to Coder ended", now);
        if let State::Up { quiet_since, cut, .. } = &mut self.state {
            *quiet_since = now.instant;
            *cut = false;
            self.reason = Some(Reason {
                text: format!("{}: {}", failure.kind.describe(), failure.text),
                hint: failure.kind.hint(),
            });
        }
    }

    fn rejected(&mut self, text: &str, now: Now) {
        if !matches!(self.state, State::Draining { .. } | State::Ending { .. }) {
            self.reason = Some(Reason {
                text: format!("Coder forbids this provisioner (403): {text}"),
                hint: Some(
                    "Coder needs a licence for external provisioners, and nothing in between may answer 403",
                ),
            });
            let (kill_at, delay) = (Some(now.instant + ENDING), Some(REJECTED));
            self.commands.push_back(SlotCommand::Drain);
            self.enter(State::Ending { kill_at, delay }, now);
            self.shown = ProvisionerState::Rejected;
        }
    }

    /// How many connections of the child the proxy holds open to Coder. Only to be told where the child dials through
    /// the proxy; a Coder on this machine's loopback is dialled past it, and then the lines are the only evidence.
    pub fn handle_connections(&mut self, open: usize, now: Now) {
        self.open_connections = open;
        if let State::Connected { unseen_since, .. } = &mut self.state {
            *unseen_since = if open == 0 {
                unseen_since.or(Some(now.instant))
            } else {
                None
            };
        }
    }

    /// The child sent something to Coder at that time. Told within 40 s of it ([`STALLED`] bounds that), and never where it
    /// cannot be seen.
    pub const fn handle_moved(&mut self, at: Instant) {
        if let State::Connected { moved_at, .. } = &mut self.state {
            *moved_at = Some(at);
        }
    }

    /// The child is gone.
    pub fn handle_exited(&mut self, exit: &Exit, rng: &mut StdRng, now: Now) {
        self.alive = false;
        self.pid = None;
        self.open_connections = 0;
        let planned = match self.state {
            State::Draining { .. } => true,
            State::Connected { since, .. } if now.instant.duration_since(since) >= STABLE => {
                self.backoff.reset();
                false
            }
            _ => false,
        };
        if !self.wanted {
            self.enter(State::Idle, now);
        } else if planned {
            self.enter(State::Blocked, now);
            self.start_if_ready(now);
        } else {
            self.restart_later(exit, rng, now);
        }
    }

    fn restart_later(&mut self, exit: &Exit, rng: &mut StdRng, now: Now) {
        self.restarts = self.restarts.saturating_add(1);
        let rejected = self.shown == ProvisionerState::Rejected;
        let delay = match self.state {
            State::Ending {
                delay: Some(delay), ..
            } => delay.max(self.backoff.next(rng)),
            _ => self.backoff.next(rng),
        };
        if !matches!(self.state, State::Ending { .. }) {
            let words = self
                .last_words
                .take()
                .map(|text| format!(": {text}"))
                .unwrap_or_default();
            self.reason = Some(Reason::new(format!("{}{words}", exit.describe())));
        }
        self.enter(
            State::Backoff {
                until: now.instant + delay,
            },
            now,
        );
        if rejected {
            self.shown = ProvisionerState::Rejected;
        }
    }

    pub fn handle_timeout(&mut self, now: Now) {
        match &mut self.state {
            State::Starting { deadline } if now.instant >= *deadline => {
                self.reason = Some(Reason::new(format!(
                    "the provisioner said nothing for {} s",
                    STARTING.as_secs()
                )));
                self.end(now);
            }
            State::Up { quiet_since, cut, .. } if now.instant >= *quiet_since + WEDGED => {
                if *cut {
                    self.reason = Some(Reason::new(
                        "the provisioner neither connected nor said why".to_owned(),
                    ));
                    self.end(now);
                } else {
                    *quiet_since = now.instant;
                    *cut = true;
                    self.commands.push_back(SlotCommand::Cut);
                }
            }
            State::Connected {
                unseen_since: Some(unseen),
                ..
            } if now.instant >= *unseen + UNSEEN => {
                self.disconnected("the proxy sees no connection of the provisioner", now);
            }
            State::Connected {
                moved_at: Some(moved),
                ..
            } if now.instant >= *moved + STALLED => self.stalled(now),
            State::Ending { kill_at, .. } | State::Draining { kill_at }
                if kill_at.is_some_and(|at| now.instant >= at) =>
            {
                *kill_at = None;
                self.commands.push_back(SlotCommand::Kill);
            }
            State::Backoff { until } if now.instant >= *until => {
                self.enter(State::Blocked, now);
                self.start_if_ready(now);
            }
            _ => {}
        }
    }

    /// Connected by its own account, and sends nothing, not even keepalives: cut at once, and replaced unless it dials.
    fn stalled(&mut self, now: Now) {
        self.disconnected("the provisioner's connection stands still", now);
        if let State::Up { cut, .. } = &mut self.state {
            *cut = true;
            self.commands.push_back(SlotCommand::Cut);
        }
    }

    fn end(&mut self, now: Now) {
        self.commands.push_back(SlotCommand::Drain);
        self.enter(
            State::Ending {
                kill_at: Some(now.instant + ENDING),
                delay: None,
            },
            now,
        );
    }

    /// When to call [`Slot::handle_timeout`], and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.state.deadline()
    }

    pub fn poll_command(&mut self) -> Option<SlotCommand> {
        self.commands.pop_front()
    }

    fn enter(&mut self, state: State, now: Now) {
        self.state = state;
        let shown = self.state.shown();
        if shown != self.shown {
            self.shown = shown;
            self.since = now.wall;
        }
    }
}

#[cfg(test)]
mod tests;
