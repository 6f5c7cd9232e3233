//! The gateway's keys.

use std::net::IpAddr;

use jiff::Timestamp;
use orfe_protocol::key::WireGuardPublicKey;
use serde::{Deserialize, Serialize};

use super::Refused;

/// Longest time for which an old key may be good by itself, in seconds: a year.
pub const ROTATION_MAX_S: u64 = 365 * 24 * 3600;

/// A change of the gateway's key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// When the old key ends by itself; none: when it is finished.
    pub after_s: Option<u64>,
}

impl RotateKey {
    /// Whether every value is within its range.
    pub fn check(&self) -> Result<(), Refused> {
        if (self.after_s).is_some_and(|after| !(1..=ROTATION_MAX_S).contains(&after)) {
            let message = "an old key ends by itself after 1 second to 365 days";
            return Err(Refused::new(message, "see `--after`"));
        }
        Ok(())
    }
}

/// The gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GatewayAnswer {
    pub version: u32,
    pub public_key: WireGuardPublicKey,
    /// The key before it, while both are good.
    pub old_key: Option<OldKeyView>,
    /// `host:port`, as devices and people reach it.
    pub endpoint: String,
    /// Where else devices try to reach it, in this order: further UDP ports as `host:port`, and the WebSocket's URL.
    #[serde(default)]
    pub also: Vec<String>,
    /// Its own addresses inside the tunnel.
    pub addresses: Vec<IpAddr>,
    /// Not told by older registries.
    pub tcp: Option<TcpView>,
}

/// The TCP stack of the gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TcpView {
    /// `namespace` (the kernel's own) or `smoltcp`.
    pub stack: String,
    /// What the kernel granted; none where smoltcp has its own.
    pub congestion_control: Option<String>,
    /// Why that stack and no other.
    pub reason: String,
    /// What could be done to have the other one.
    pub hint: Option<String>,
}

/// A key that is on its way out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OldKeyView {
    pub public_key: WireGuardPublicKey,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Devices and peers that shook hands on it last, by name.
    pub still_used_by: Vec<String>,
}
