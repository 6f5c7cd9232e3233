//! One device as lists and pages show it.

use std::sync::Arc;

use jiff::Timestamp;
use orfe_protocol::id::DeviceId;
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::{ObservedState, ProvisionerState, ProvisionerStatus};
use orfe_protocol::tag::Tags;

/// Whether a device's session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// A session stands, or ended so recently that the hold-down still runs.
    Online,
    /// No session for longer than the hold-down, or the device said goodbye.
    Offline,
    /// The registry started a moment ago and the device has not come back yet.
    Unknown,
    /// The device may not come back.
    Revoked,
    /// Enrolled, and never had a session.
    NeverSeen,
}

/// One device as a list shows it.
#[derive(Debug, Clone)]
pub struct DeviceRow {
    pub id: DeviceId,
    pub name: DeviceName,
    pub link: Link,
    /// What the device said of itself last; kept while it is offline.
    pub observed: Option<Arc<ObservedState>>,
    /// Tags that the join code gave.
    pub granted_tags: Tags,
    pub last_seen_at: Option<Timestamp>,
    /// When the standing session began; none while no session stands.
    pub session_since: Option<Timestamp>,
    pub created_at: Timestamp,
    /// Last WireGuard handshake: the gateway's own view when it has one, else what the device says.
    pub tunnel_handshake_at: Option<Timestamp>,
}

impl DeviceRow {
    /// The one word for the device: `healthy`, `starting`, `unhealthy`, `idle`, `offline`, `unknown`, `revoked` or
    /// `never seen`.
    pub fn state(&self) -> &'static str {
        match self.link {
            Link::Revoked => "revoked",
            Link::NeverSeen => "never seen",
            Link::Unknown => "unknown",
            Link::Offline => "offline",
            Link::Online => self
                .observed
                .as_ref()
                .map_or("starting", |observed| observed.health.as_str()),
        }
    }
}

/// `1/1 connected`, `0/2 connected, backoff`; of a device that is away, what it was. None without provisioners.
pub(crate) fn provisioners(slots: &[ProvisionerStatus], current: bool) -> Option<String> {
    let away = |slot: &&ProvisionerStatus| slot.state != ProvisionerState::Connected;
    let connected = slots.len() - slots.iter().filter(away).count();
    let was = if current { "" } else { "was " };
    let text = format!("{was}{connected}/{} connected", slots.len());
    match slots.iter().find(away) {
        _ if slots.is_empty() => None,
        Some(slot) => Some(format!("{text}, {}", slot.state.as_str())),
        None => Some(text),
    }
}
