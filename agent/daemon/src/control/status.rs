//! What `orfe status` shows, as data; `--json` prints it as it stands here.

use std::net::IpAddr;
use std::path::PathBuf;

use orfe_protocol::id::{DeviceId, Revision};
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::{Check, Facts, Health, ProvisionerStatus, TunnelStatus};
use orfe_protocol::tag::Tags;
use serde::{Deserialize, Serialize};
use url::Url;

/// Version of the JSON that `orfe status --json` prints.
pub(crate) const VERSION: u8 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub version: u8,
    pub device: Device,
    pub health: Health,
    pub registry: Registry,
    pub checks: Vec<Check>,
    pub tunnel: Option<TunnelStatus>,
    /// Why there is none whatever the registry wants; absent where it may have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_off: Option<String>,
    pub provisioners: Vec<ProvisionerStatus>,
    /// The way of workspace containers to Coder; absent where it is off or there is no tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Containers>,
    pub tags: Tags,
    pub facts: Facts,
    /// The desired state that all this answers to.
    pub desired: Revision,
    pub started_at: jiff::Timestamp,
    /// The daemon's own process.
    pub pid: u32,
    /// Its state folder.
    pub state: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub id: DeviceId,
    pub name: DeviceName,
    pub agent_version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Containers {
    pub state: ContainersState,
    /// The Docker network that a template's containers join.
    pub network: String,
    /// The names that they reach by it.
    pub names: Vec<String>,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The listener for the engine's default bridge; absent where it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_gateway: Option<HostGateway>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostGateway {
    /// Where it listens; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The bridge that it is reached by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Why it does not listen, or what is not known while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContainersState {
    Starting,
    Ready,
    /// No engine answers; tried again.
    NoDocker,
    Failed,
}

impl ContainersState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::NoDocker => "no Docker engine",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Registry {
    pub url: Url,
    /// `connected`, `connecting`, `waiting`.
    pub state: String,
    /// Why it is not connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
