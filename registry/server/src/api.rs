//! What the admin socket says, version 1: the same JSON that the CLI prints with `--json`.
//!
//! Fields may be added; what is there keeps its name and meaning. Times are RFC 3339 in UTC.

mod gateway;
mod join_code;
mod peer;

use std::net::Ipv4Addr;

use jiff::Timestamp;
use orfe_protocol::id::DeviceId;
use orfe_protocol::key::{NoisePublicKey, WireGuardPublicKey};
use orfe_protocol::message::GoodbyeReason;
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::ObservedState;
use orfe_protocol::tag::Tags;
use serde::{Deserialize, Serialize};

pub use orfe_store::TAGS_MAX;

pub use self::gateway::{GatewayAnswer, OldKeyView, ROTATION_MAX_S, RotateKey, TcpView};
pub use self::join_code::{
    CreateJoinCode, CreatedJoinCode, JOIN_CODE_TTL_MAX_S, JOIN_CODE_USES_MAX, JoinCodeList, JoinCodeView,
};
pub use self::peer::{
    ALLOWED_MAX, AddPeer, ClientConfig, DroppedPackets, PEER_TTL_MAX_S, PeerAnswer, PeerCounters, PeerList,
    PeerView,
};

/// Version of everything here.
pub const VERSION: u32 = 1;

/// Longest note, in characters.
pub const NOTE_MAX: usize = 200;

/// A request that no registry would carry out, whatever it knows. The CLI finds it before it asks, the registry before it
/// acts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    message: String,
    hint: &'static str,
}

impl Refused {
    fn new(message: impl Into<String>, hint: &'static str) -> Self {
        Self {
            message: message.into(),
            hint,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

fn check_note(note: &str) -> Result<(), Refused> {
    if note.chars().count() > NOTE_MAX || note.chars().any(char::is_control) {
        return Err(Refused::new(
            format!("a note is one line of {NOTE_MAX} characters at most"),
            "see `--note`",
        ));
    }
    Ok(())
}

/// Whether so many tags can be granted.
pub(crate) fn check_tags(tags: &Tags) -> Result<(), Refused> {
    let count = tags.iter().count();
    if count > TAGS_MAX {
        return Err(Refused::new(
            format!("a join code gives, and a device has, {TAGS_MAX} granted tags at most, not {count}"),
            "leave out what no template asks for, or take tags away with `orfe-registry device tag --remove`",
        ));
    }
    Ok(())
}

/// All devices, in the order of their names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceList {
    pub version: u32,
    pub devices: Vec<DeviceView>,
}

/// One device, alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceAnswer {
    pub version: u32,
    pub device: DeviceView,
}

/// A device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceView {
    pub id: DeviceId,
    pub name: DeviceName,
    /// `healthy`, `starting`, `unhealthy`, `idle`, `offline`, `unknown`, `revoked` or `never seen`.
    pub state: String,
    /// Tags that its join code gave.
    pub granted_tags: Tags,
    pub inner_address: Ipv4Addr,
    pub noise_public_key: NoisePublicKey,
    pub wireguard_public_key: WireGuardPublicKey,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub last_seen_at: Option<Timestamp>,
    pub session_since: Option<Timestamp>,
    pub tunnel_handshake_at: Option<Timestamp>,
    /// What the gateway counts for it; none while it does not know it.
    #[serde(default)]
    pub counters: Option<PeerCounters>,
    /// Why it went, when it is offline and said so.
    pub goodbye: Option<GoodbyeReason>,
    /// What it said of itself last.
    pub observed: Option<ObservedState>,
}

impl DeviceView {
    /// The tags in force: what was detected, and over it what was granted.
    pub fn tags(&self) -> Tags {
        match &self.observed {
            Some(observed) => observed.tags.overlaid(&self.granted_tags),
            None => self.granted_tags.clone(),
        }
    }
}

/// Granted tags that are to change: those in `set` get a value, those in `remove` go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeTags {
    pub set: Tags,
    pub remove: Vec<String>,
}

/// That something is gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Removed {
    pub version: u32,
    pub removed: String,
}

/// That something was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    pub version: u32,
    pub revoked: String,
}

/// A way into the dashboard, good once.
#[derive(Clone, Serialize, Deserialize)]
pub struct DashboardLink {
    pub version: u32,
    pub url: String,
}

impl std::fmt::Debug for DashboardLink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DashboardLink([redacted])")
    }
}

/// Why not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorAnswer {
    pub error: ErrorBody,
}

/// What went wrong and what to do about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What `serve` says when it is ready, as `--json` prints it and the ready file holds it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ready {
    pub version: u32,
    /// Address of the HTTPS listener.
    pub https: std::net::SocketAddr,
    /// What join codes name.
    pub public_url: String,
    /// UDP address of the gateway; none without a tunnel.
    pub wireguard: Option<std::net::SocketAddr>,
    /// One-time link into the dashboard.
    pub dashboard: String,
    /// The data folder.
    pub data: std::path::PathBuf,
    pub pid: u32,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ready")
            .field("https", &self.https)
            .finish_non_exhaustive()
    }
}
