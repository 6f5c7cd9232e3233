//! Observed state: what one device sees of itself, reported whole and at once when it changes.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::Revision;
use crate::tag::Tags;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedState {
    /// The desired state that this is the answer to.
    pub desired: Revision,
    pub agent_version: String,
    /// When the daemon started.
    pub started_at: Timestamp,
    pub health: Health,
    pub checks: Vec<Check>,
    pub facts: Facts,
    /// The tags in force: detected, and over them those of the desired state.
    pub tags: Tags,
    #[serde(default)]
    pub tunnel: Option<TunnelStatus>,
    pub provisioners: Vec<ProvisionerStatus>,
}

/// The verdict over all checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every required check passes.
    Healthy,
    /// A required check has not passed yet, and none has failed for good.
    Starting,
    /// A required check fails.
    Unhealthy,
    /// Nothing is asked of the device, or it was asked to stop.
    Idle,
    #[serde(other)]
    Unknown,
}

/// One coded health check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub code: CheckCode,
    pub outcome: CheckOutcome,
    /// Whether `healthy` depends on it.
    pub required: bool,
    /// What was found, in a sentence for people.
    pub message: String,
    /// What to do, when there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Since when the outcome is what it is.
    pub since: Timestamp,
}

/// Which check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckCode {
    /// A WireGuard handshake within the last 180 s.
    Tunnel,
    /// Every wanted provisioner is connected to Coder.
    Connected,
    /// A usable terraform is on the provisioners' PATH.
    Terraform,
    /// Room on the disk of the state folder.
    Disk,
    /// A Docker engine answers.
    Docker,
    /// The session to the registry stands.
    Registry,
    #[serde(other)]
    Unknown,
}

impl CheckCode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Connected => "connected",
            Self::Terraform => "terraform",
            Self::Disk => "disk",
            Self::Docker => "docker",
            Self::Registry => "registry",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    Ok,
    /// Not known yet, or on its way.
    Pending,
    Warning,
    Failed,
    #[serde(other)]
    Unknown,
}

/// What was detected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub hostname: String,
    /// `linux`, `darwin`, `windows`: Coder's spelling.
    pub os: String,
    #[serde(default)]
    pub os_version: String,
    /// `amd64`, `arm64`, …: Coder's spelling.
    pub arch: String,
    pub cpu_model: String,
    pub cpu_cores: u32,
    pub memory_mib: u64,
    /// `laptop`, `desktop`, `server`, `vm`; empty when it could not be told.
    #[serde(default)]
    pub chassis: String,
    pub docker: Docker,
    pub gpus: Vec<Gpu>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Docker {
    Present {
        version: String,
    },
    Absent {
        reason: String,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    pub vendor: String,
    pub model: String,
    /// The value of the `gpu` tag that it gives, such as `nvidia-rtx4090`.
    pub tag: String,
    /// Where it was seen.
    pub evidence: String,
}

/// How the tunnel is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    pub phase: TunnelPhase,
    pub since: Timestamp,
    #[serde(default)]
    pub last_handshake_at: Option<Timestamp>,
    /// Where the gateway is, as it was last resolved.
    #[serde(default)]
    pub endpoint: Option<SocketAddr>,
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Which TCP stack carries the connections: `namespace`, `smoltcp`, or in TUN mode `host`. Before there is one, what is
    /// configured: `auto`, too.
    pub tcp_stack: String,
    /// Why that TCP stack and no other, in a sentence for people; none before there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_stack_reason: Option<String>,
    /// The congestion control that the kernel granted, where the kernel's TCP is used: `bbr`, `cubic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion_control: Option<String>,
    #[serde(default)]
    pub mode: TunnelMode,
    /// The rung of the carrier ladder in use; none before anything was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<CarrierStatus>,
    /// What the network between here and the gateway does; none while nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathStatus>,
    /// What stands in the way, for people: `a captive portal answers in place of the gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    #[serde(default, skip_serializing_if = "TunnelStart::is_granted")]
    pub start: TunnelStart,
}

impl TunnelStatus {
    /// A status of which nothing is known yet but the phase.
    pub fn new(phase: TunnelPhase, since: Timestamp, tcp_stack: &str) -> Self {
        Self {
            phase,
            since,
            last_handshake_at: None,
            endpoint: None,
            addresses: Vec::new(),
            tcp_stack: tcp_stack.to_owned(),
            tcp_stack_reason: None,
            congestion_control: None,
            mode: TunnelMode::default(),
            carrier: None,
            path: None,
            obstacle: None,
            start: TunnelStart::default(),
        }
    }
}

/// Whether the machine lets the tunnel be started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelStart {
    /// It does, as far as it was tried. An agent that says nothing does not tell.
    #[default]
    Granted,
    /// It does not, and nobody asks the gateway anything; the obstacle says why.
    Refused,
    #[serde(other)]
    Unknown,
}

impl TunnelStart {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    const fn is_granted(&self) -> bool {
        matches!(self, Self::Granted)
    }
}

/// How the tunnel meets the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelMode {
    /// Nothing on the host changes; connections go through the local proxy.
    #[default]
    Userspace,
    /// A TUN device with routes on the host.
    Tun,
    #[serde(other)]
    Unknown,
}

impl TunnelMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Tun => "tun",
            Self::Unknown => "unknown",
        }
    }
}

/// What carries the WireGuard datagrams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarrierStatus {
    pub carrier: Carrier,
    /// Where the datagrams go: `host:port` of the gateway, or the URL of the registry.
    pub endpoint: String,
    /// Since when.
    pub since: Timestamp,
}

/// A rung of the carrier ladder, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// UDP to the gateway's own port.
    Udp,
    /// UDP to port 443, which networks let pass for QUIC.
    #[serde(rename = "udp_443")]
    Udp443,
    /// WebSocket over TLS through the registry.
    Websocket,
    #[serde(other)]
    Unknown,
}

impl Carrier {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Udp443 => "udp_443",
            Self::Websocket => "websocket",
            Self::Unknown => "unknown",
        }
    }
}

/// Measured by echo requests inside the tunnel, the latest minute of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Smoothed round trip to the gateway, in milliseconds.
    pub rtt_ms: f64,
    /// Echo requests that nothing answered, 0 to 100.
    pub loss_percent: f64,
    /// Largest inner packet that is known to pass, in bytes.
    pub mtu: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelPhase {
    Connecting,
    Up,
    /// Nothing is open in it, so no session is kept; the last handshake was good. An older registry shows it as unknown.
    Resting,
    Down,
    #[serde(other)]
    Unknown,
}

impl TunnelPhase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Resting => "resting",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// How the provisioner in one slot is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProvisionerStatus {
    pub slot: u8,
    /// Its name towards Coder.
    pub name: String,
    pub state: ProvisionerState,
    pub since: Timestamp,
    #[serde(default)]
    pub pid: Option<u32>,
    /// Unplanned ends of the child since the daemon started.
    pub restarts: u32,
    /// What it waits for, or why it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// State of a slot; `ARCHITECTURE.md` draws how they follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProvisionerState {
    Idle,
    /// Waits for something it needs before the child can start.
    Blocked,
    Starting,
    /// Runs, and was not connected yet.
    Up,
    Connected,
    Reconnecting,
    /// Coder answered 403: the child lives and will never dial again.
    Rejected,
    Backoff,
    Draining,
    #[serde(other)]
    Unknown,
}

impl ProvisionerState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Blocked => "blocked",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
            Self::Rejected => "rejected",
            Self::Backoff => "backoff",
            Self::Draining => "draining",
            Self::Unknown => "unknown",
        }
    }
}

impl Health {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Starting => "starting",
            Self::Unhealthy => "unhealthy",
            Self::Idle => "idle",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_start_is_said_and_who_says_nothing_was_not_refused() {
        let mut status = TunnelStatus::new(TunnelPhase::Down, Timestamp::UNIX_EPOCH, "auto");
        let older = serde_json::to_string(&status).unwrap();
        assert!(!older.contains("start"), "{older}");
        assert_eq!(serde_json::from_str::<TunnelStatus>(&older).unwrap(), status);
        status.start = TunnelStart::Refused;
        let json = serde_json::to_string(&status).unwrap();
        assert!(json.contains(r#""start":"refused""#), "{json}");
        assert_eq!(serde_json::from_str::<TunnelStatus>(&json).unwrap(), status);
        let newer = json.replace("refused", "postponed");
        assert_eq!(
            serde_json::from_str::<TunnelStatus>(&newer).unwrap().start,
            TunnelStart::Unknown
        );
    }
}
