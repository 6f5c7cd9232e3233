//! One device's session as the registry sees it: the decisions, without I/O and without a clock.
//!
//! ```text
//!  AwaitHandshake ──Noise 1──► AwaitFirst ──claim──► Claiming ──claimed──► AwaitHello
//!                                  │                     └──refused──► Closed   │
//!                                  └──hello──► Beginning ◄─────────hello────────┘
//!                                                  ├──begun──► Live ──goodbye──► Closed
//!                                                  └──refused──► Closed
//! ```
//!
//! The shell ([`crate::connection`]) feeds frames in and carries out what comes back, in that order. What needs the
//! store is asked for ([`Output::Claim`], [`Output::Begin`]) and answered with [`Session::claimed`] and
//! [`Session::begun`]; no frame is fed in between.
//!
//! A key that the registry does not know can do one thing, claim; nothing is looked up for it before its
//! first frame inside the Noise session opened, because only that proves that its owner is there.
//!
//! What can fail: a handshake that does not fit the keys (4001), a frame that was tampered with, is too large or no
//! message (4008), a message that does not fit the state (refused, 4008), a refusal by the store (its code).

use std::sync::Arc;
use std::time::Duration;

use orfe_protocol::close;
use orfe_protocol::envelope::{self, Incoming};
use orfe_protocol::key::{NoisePrivateKey, NoisePublicKey};
use orfe_protocol::message::{
    Ack, Claim, Claimed, FromAgent, FromRegistry, GoodbyeReason, Hello, Refused, RefusedReason, Welcome,
};
use orfe_protocol::noise::{self, Channel, NoiseError};
use orfe_protocol::observed::ObservedState;

/// How long a connection may take over each step before it is a session.
pub(crate) const STEP_DEADLINE: Duration = Duration::from_secs(10);

/// What a silent session is granted beyond two heartbeats.
const SILENCE_GRACE: Duration = Duration::from_secs(10);

/// How a connection ends: a WebSocket close code and a reason for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

impl Closing {
    pub(crate) const NORMAL: Self = Self {
        code: 1000,
        reason: "goodbye",
    };
    pub(crate) const HANDSHAKE: Self = Self {
        code: close::NOT_AUTHENTICATED,
        reason: "handshake failed",
    };
    pub(crate) const REVOKED: Self = Self {
        code: close::REVOKED,
        reason: "device revoked",
    };
    pub(crate) const MALFORMED: Self = Self {
        code: close::OVERFLOW,
        reason: "malformed frame",
    };
    pub(crate) const TEXT: Self = Self {
        code: close::OVERFLOW,
        reason: "text frame",
    };
    pub(crate) const TOO_LARGE: Self = Self {
        code: close::OVERFLOW,
        reason: "frame too large",
    };
    pub(crate) const TOO_MANY: Self = Self {
        code: close::OVERFLOW,
        reason: "too many messages",
    };
    pub(crate) const COMMANDS: Self = Self {
        code: close::OVERFLOW,
        reason: "too many commands wait",
    };
    pub(crate) const REPLACED: Self = Self {
        code: close::REPLACED,
        reason: "newer session",
    };
    pub(crate) const STOPPING: Self = Self {
        code: close::GOING_AWAY,
        reason: "registry stops",
    };
    pub(crate) const FULL: Self = Self {
        code: close::OVERLOADED,
        reason: "too many sessions",
    };
    /// A fault that may be gone when the device comes back a moment later.
    pub(crate) const FAULT: Self = Self {
        code: close::GOING_AWAY,
        reason: "passing fault of the registry",
    };
    pub(crate) const SILENT: Self = Self {
        code: close::GOING_AWAY,
        reason: "nothing was heard",
    };

    /// For a session that stands, when what is desired of its device cannot be told.
    pub(crate) fn untold(reason: RefusedReason) -> Self {
        match reason {
            RefusedReason::DeviceRevoked => Self::REVOKED,
            _ => Self::FAULT,
        }
    }

    fn refused(reason: RefusedReason) -> Self {
        match reason {
            RefusedReason::DeviceRevoked => Self::REVOKED,
            RefusedReason::Protocol => Self {
                code: close::OVERFLOW,
                reason: "unexpected message",
            },
            RefusedReason::Unavailable => Self {
                code: close::OVERLOADED,
                reason: "unavailable",
            },
            _ => Self {
                code: close::NOT_AUTHENTICATED,
                reason: "refused",
            },
        }
    }
}

/// What the shell is to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send this frame.
    Send(Vec<u8>),
    /// Ask the store to enrol the key, and answer with [`Session::claimed`].
    Claim { key: NoisePublicKey, claim: Box<Claim> },
    /// Ask the store who the key is and begin its session, and answer with [`Session::begun`].
    Begin { key: NoisePublicKey, hello: Hello },
    /// The device is there.
    Heard,
    /// The device said how it is.
    Observed(Box<ObservedState>),
    /// The device goes on purpose.
    Goodbye(GoodbyeReason),
    /// Close the connection; nothing follows.
    Close(Closing),
}

#[derive(Debug)]
enum State {
    AwaitHandshake,
    AwaitFirst { key: NoisePublicKey },
    Claiming { key: NoisePublicKey },
    AwaitHello { key: NoisePublicKey },
    Beginning,
    Live,
    Closed,
}

/// The session of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    registry_key: Arc<NoisePrivateKey>,
    state: State,
    channel: Option<Channel>,
    sent: u64,
    /// Messages of kinds that this program does not know.
    unknown: u64,
}

impl Session {
    pub(crate) fn new(registry_key: Arc<NoisePrivateKey>) -> Self {
        Self {
            registry_key,
            state: State::AwaitHandshake,
            channel: None,
            sent: 0,
            unknown: 0,
        }
    }

    /// How long the other side may be silent in this state.
    pub(crate) fn patience(&self, heartbeat: Duration) -> Duration {
        match self.state {
            State::Live => 2 * heartbeat + SILENCE_GRACE,
            _ => STEP_DEADLINE,
        }
    }

    /// Messages that were ignored because this program does not know their kind.
    pub(crate) fn unknown_messages(&self) -> u64 {
        self.unknown
    }

    /// One binary frame from the device. `heartbeat` is the interval that an acknowledgement names.
    pub(crate) fn handle_frame(&mut self, frame: &[u8], heartbeat: Duration) -> Vec<Output> {
        match self.state {
            State::AwaitHandshake => self.handle_handshake(frame),
            State::Closed => Vec::new(),
            _ => {
                let Some(channel) = &mut self.channel else {
                    return self.close(Closing::HANDSHAKE);
                };
                match channel.open(frame) {
                    Ok(None) => Vec::new(),
                    Ok(Some(message)) => self.handle_message(&message, heartbeat),
                    Err(NoiseError::FrameTooLong { .. } | NoiseError::MessageTooLong) => {
                        self.close(Closing::TOO_LARGE)
                    }
                    Err(_) => self.close(Closing::MALFORMED),
                }
            }
        }
    }

    /// A text frame; the contract has none.
    pub(crate) fn handle_text(&mut self) -> Vec<Output> {
        self.close(Closing::TEXT)
    }

    /// The store's answer to [`Output::Claim`].
    pub(crate) fn claimed(&mut self, answer: Result<Claimed, Refused>) -> Vec<Output> {
        let State::Claiming { key } = self.state else {
            return Vec::new();
        };
        match answer {
            Ok(claimed) => {
                self.state = State::AwaitHello { key };
                self.say(&FromRegistry::Claimed(claimed))
            }
            Err(refused) => self.refuse(refused),
        }
    }

    /// The answer to [`Output::Begin`].
    pub(crate) fn begun(&mut self, answer: Result<Welcome, Refused>) -> Vec<Output> {
        if !matches!(self.state, State::Beginning) {
            return Vec::new();
        }
        match answer {
            Ok(welcome) => {
                self.state = State::Live;
                self.say(&FromRegistry::Welcome(welcome))
            }
            Err(refused) => self.refuse(refused),
        }
    }

    /// The frames of a message.
    pub(crate) fn say(&mut self, message: &FromRegistry) -> Vec<Output> {
        let Some(channel) = &mut self.channel else {
            return self.close(Closing::HANDSHAKE);
        };
        self.sent += 1;
        let frames = envelope::encode(self.sent, message)
            .ok()
            .and_then(|json| channel.seal(&json).ok());
        match frames {
            Some(frames) => frames.into_iter().map(Output::Send).collect(),
            // What we have to say does not fit the contract; the device could not go on without it.
            None => self.close(Closing::TOO_LARGE),
        }
    }

    fn handle_handshake(&mut self, frame: &[u8]) -> Vec<Output> {
        let Ok(accepted) = noise::accept(&self.registry_key, frame) else {
            return self.close(Closing::HANDSHAKE);
        };
        self.channel = Some(accepted.channel);
        self.state = State::AwaitFirst { key: accepted.device };
        vec![Output::Send(accepted.answer)]
    }

    fn handle_message(&mut self, json: &[u8], heartbeat: Duration) -> Vec<Output> {
        let message = match envelope::decode::<FromAgent>(json) {
            Ok(Incoming::Known { message, .. }) => message,
            Ok(Incoming::Unknown { .. }) => {
                self.unknown += 1;
                return Vec::new();
            }
            Err(_) => return self.close(Closing::MALFORMED),
        };
        match (&self.state, message) {
            (State::AwaitFirst { key }, FromAgent::Claim(claim)) => {
                let key = *key;
                self.state = State::Claiming { key };
                vec![Output::Claim {
                    key,
                    claim: Box::new(claim),
                }]
            }
            (State::AwaitFirst { key } | State::AwaitHello { key }, FromAgent::Hello(hello)) => {
                let key = *key;
                self.state = State::Beginning;
                vec![Output::Begin { key, hello }]
            }
            (State::Live, FromAgent::Heartbeat(_)) => {
                let heartbeat_ms = u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX);
                let mut outputs = vec![Output::Heard];
                outputs.extend(self.say(&FromRegistry::Ack(Ack { heartbeat_ms })));
                outputs
            }
            (State::Live, FromAgent::Observed(observed)) => vec![Output::Heard, Output::Observed(observed)],
            (State::Live, FromAgent::Goodbye(goodbye)) => {
                let mut outputs = vec![Output::Goodbye(goodbye.reason)];
                outputs.extend(self.close(Closing::NORMAL));
                outputs
            }
            _ => self.refuse(Refused {
                reason: RefusedReason::Protocol,
                message: "the message does not fit this moment of the session".to_owned(),
            }),
        }
    }

    fn refuse(&mut self, refused: Refused) -> Vec<Output> {
        let closing = Closing::refused(refused.reason);
        let mut outputs = self.say(&FromRegistry::Refused(refused));
        outputs.extend(self.close(closing));
        outputs
    }

    fn close(&mut self, closing: Closing) -> Vec<Output> {
        self.state = State::Closed;
        vec![Output::Close(closing)]
    }
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
