//! What the admin socket says, version 1: the same JSON that the CLI prints with `--json`.
//!
//! Fields may be added; what is there keeps its name and meaning. Times are RFC 3339 in UTC.

mod gateway;
mod peer;

use std::net::Ipv4Addr;

use jiff::Timestamp;
use orfe_protocol::id::{DeviceId, JoinCodeId};
use orfe_protocol::key::{NoisePublicKey, WireGuardPublicKey};
use orfe_protocol::message::GoodbyeReason;
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::ObservedState;
use orfe_protocol::tag::Tags;
use serde::{Deserialize, Serialize};

pub use self::gateway::{GatewayAnswer, OldKeyView, ROTATION_MAX_S, RotateKey, TcpView};
pub use self::peer::{
    ALLOWED_MAX, AddPeer, ClientConfig, DroppedPackets, PEER_TTL_MAX_S, PeerAnswer, PeerCounters, PeerList,
    PeerView,
};

/// Version of everything here.
pub const VERSION: u32 = 1;

/// Longest life of a join code, in seconds: 7 days.
pub const JOIN_CODE_TTL_MAX_S: u64 = 7 * 24 * 3600;

/// Most devices that one join code lets in.
pub const JOIN_CODE_USES_MAX: u32 = 1000;

/// Longest note, in characters.
pub const NOTE_MAX: usize = 200;

/// A join code to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinCode {
    pub tags: Tags,
    pub uses: u32,
    pub ttl_s: u64,
    pub note: String,
    /// The code is used through the tunnel; then it has one use.
    #[serde(default)]
    pub via_tunnel: bool,
}

/// A join code that was made, with its secret: the only time that it is shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct CreatedJoinCode {
    pub version: u32,
    pub id: JoinCodeId,
    pub code: String,
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for CreatedJoinCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CreatedJoinCode")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// All join codes, newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinCodeList {
    pub version: u32,
    pub join_codes: Vec<JoinCodeView>,
}

/// A join code without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinCodeView {
    pub id: JoinCodeId,
    /// `open`, `used`, `expired` or `revoked`.
    pub state: String,
    pub uses: u64,
    pub max_uses: u64,
    /// Whether it is used through the tunnel.
    #[serde(default)]
    pub via_tunnel: bool,
    pub tags: Tags,
    pub note: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
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
