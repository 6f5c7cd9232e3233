//! What goes into the agent and what comes out of it.

use std::time::{Duration, Instant};

use orfe_protocol::desired::{Coder, DesiredState, Tunnel};
use orfe_protocol::id::BootId;
use orfe_protocol::message::{FromAgent, FromRegistry};
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::{Facts, TunnelStatus};
use orfe_protocol::tag::Tags;
use rand::rngs::StdRng;

use crate::child::Sign;
use crate::health::Terraform;
use crate::session::Closed;
use crate::slot::Exit;

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    LinkConnected,
    LinkMessage(Box<FromRegistry>),
    LinkClosed(Closed),
    /// How the tunnel is; none when there is none.
    Tunnel(Option<Box<TunnelStatus>>),
    Facts(Box<Facts>),
    Terraform(Terraform),
    DiskFree(Option<u64>),
    ChildSpawned {
        slot: u8,
        pid: u32,
    },
    ChildSpawnFailed {
        slot: u8,
        reason: String,
    },
    ChildSign {
        slot: u8,
        sign: Sign,
    },
    ChildExited {
        slot: u8,
        exit: Exit,
    },
    /// A child of an earlier life of the daemon runs in a slot and is being ended.
    OrphanLeft {
        slot: u8,
    },
    OrphanGone {
        slot: u8,
    },
    /// It does not end, whatever was tried: nothing can start in its slot, and nobody waits for it.
    OrphanStays {
        slot: u8,
    },
    /// Open connections to Coder that the proxy holds for a slot's child.
    Connections {
        slot: u8,
        open: usize,
    },
    /// A slot's child sent something to Coder.
    Moved {
        slot: u8,
        at: Instant,
    },
    /// The network changed or the machine slept: every connection may be dead without knowing it.
    PathChanged,
    /// Told to stop: drain, say goodbye, and be done.
    Stop,
    /// Told to stop for the second time: do not wait for running jobs.
    StopNow,
}

/// What a child is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildPlan {
    pub slot: u8,
    /// Its name towards Coder.
    pub name: String,
    pub coder: Coder,
    /// Tags to pass; empty with a provisioner key, which has its own.
    pub tags: Tags,
}

/// Something the shell must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Connect,
    Send(FromAgent),
    CloseLink,
    /// Keep this desired state on disk.
    StoreDesired(Box<DesiredState>),
    /// Make the tunnel so; none takes it down.
    ApplyTunnel(Option<Box<Tunnel>>),
    Spawn(Box<ChildPlan>),
    Drain {
        slot: u8,
    },
    Kill {
        slot: u8,
    },
    /// Cut a slot's connections at the proxy.
    Cut {
        slot: u8,
    },
    /// End what an earlier life left at once, running jobs or not.
    KillOrphans,
    /// The registry withdrew this device's right: forget the desired state, credential included.
    ForgetDesired,
    /// Everything is at rest after [`Input::Stop`].
    Stopped,
}

/// What the agent is made with.
#[derive(Debug)]
pub struct Start {
    /// Whether there is a registry to link to.
    pub enrolled: bool,
    pub name: DeviceName,
    pub boot: BootId,
    pub agent_version: String,
    /// The desired state from disk.
    pub desired: Option<DesiredState>,
    pub drain_timeout: Duration,
    /// Whether the machine's owner ruled a tunnel out: then what the registry wants of one is kept and not made true.
    pub tunnel_off: bool,
    pub rng: StdRng,
}
