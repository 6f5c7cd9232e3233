//! The messages of a session, in the order in which they are first said.
//!
//! Every message that either side may send stands in [`FromAgent`] or [`FromRegistry`]; the comments say when it
//! is sent and what the other side does with it. `ARCHITECTURE.md` draws the exchange.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::desired::{DesiredState, Tunnel};
use crate::envelope::Message;
use crate::id::{BootId, DeviceId, JoinCodeId, Revision};
use crate::key::WireGuardPublicKey;
use crate::name::DeviceName;
use crate::observed::ObservedState;
use crate::secret::Secret;

/// What a device says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "b", rename_all = "snake_case")]
pub enum FromAgent {
    /// Enrol me. The only message that an unknown key may send.
    Claim(Claim),
    /// First message of a session.
    Hello(Hello),
    /// The whole observed state; sent after the welcome and at once on a change.
    Observed(Box<ObservedState>),
    /// Nothing changed; I am there.
    Heartbeat(Heartbeat),
    /// I am going, on purpose.
    Goodbye(Goodbye),
}

impl Message for FromAgent {
    const KINDS: &'static [&'static str] = &["claim", "hello", "observed", "heartbeat", "goodbye"];
}

/// What the registry says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "b", rename_all = "snake_case")]
pub enum FromRegistry {
    /// The claim was good.
    Claimed(Claimed),
    /// The claim or the session was refused; the socket closes after it.
    Refused(Refused),
    /// The session stands.
    Welcome(Welcome),
    /// What is to be so.
    Desired(Box<DesiredState>),
    /// A heartbeat was heard.
    Ack(Ack),
}

impl Message for FromRegistry {
    const KINDS: &'static [&'static str] = &["claimed", "refused", "welcome", "desired", "ack"];
}

/// Enrolment: the key of the Noise session becomes the device's identity if the code is good.
///
/// The same key may claim with the same code again and gets the same answer, so that a lost answer burns
/// nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub join_code: JoinCodeId,
    pub secret: Secret,
    /// What the device would like to be called; the registry may add a number to make it unique.
    pub name: DeviceName,
    /// The public key of the device's end of the tunnel.
    pub wireguard_public_key: WireGuardPublicKey,
    pub agent_version: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claimed {
    pub device: DeviceId,
    pub name: DeviceName,
    /// The device's own end of the tunnel, when there is a tunnel: who joined through it could not come back for its desired
    /// state otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Box<Tunnel>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    pub reason: RefusedReason,
    /// One sentence for people.
    pub message: String,
}

/// Why the registry refused. What is wrong with a join code is told apart only to whoever has its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// No such code, or the secret does not fit.
    JoinCodeInvalid,
    JoinCodeExpired,
    JoinCodeUsed,
    JoinCodeRevoked,
    /// Another device has this WireGuard key.
    WireGuardKeyTaken,
    /// A key of the device is a point of low order, with which anybody could come in.
    WeakKey,
    /// The Noise key belongs to no device; enrol first.
    UnknownDevice,
    DeviceRevoked,
    /// The device would be granted more tags than one may have.
    TooManyTags,
    /// The message did not fit this moment of the session.
    Protocol,
    /// The registry cannot do it now; try again.
    Unavailable,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub agent_version: String,
    pub boot: BootId,
    /// The desired state that the agent has on disk; default when it has none.
    #[serde(default)]
    pub desired: Revision,
    /// What the agent can do beyond the basics of this version; features are switched by this list and not by
    /// comparing versions.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    pub device: DeviceId,
    pub name: DeviceName,
    /// Grows with every session of the device; an older session's end cannot undo a newer one's begin.
    pub session_epoch: u64,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_ms: u64,
    pub server_time: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Heartbeat {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The interval from now on, in milliseconds.
    pub heartbeat_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    pub reason: GoodbyeReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoodbyeReason {
    /// The daemon was told to stop.
    Shutdown,
    /// The machine goes to sleep.
    Sleep,
    #[serde(other)]
    Unknown,
}
