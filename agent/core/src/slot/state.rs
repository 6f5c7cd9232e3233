//! The states of a slot, how long each may last, and as what it is shown.

use std::time::{Duration, Instant};

use orfe_protocol::observed::ProvisionerState;

/// The child's first line after its start comes within 0.1 s on an idle machine; this is for a busy one.
pub const STARTING: Duration = Duration::from_secs(30);

/// No connection and no word about it for this long: wedged. Its connections are cut then, and as much time again is for
/// that to help.
pub const WEDGED: Duration = Duration::from_secs(15);

/// A connection that the proxy no longer sees is forgiven for this long: the child notices and says so.
pub const UNSEEN: Duration = Duration::from_secs(3);

/// A connected child that sends nothing for this long is stuck: it and Coder exchange keepalives every 30 s. With the cut,
/// [`WEDGED`] and [`ENDING`] after it, a frozen child is replaced within 90 s.
pub const STALLED: Duration = Duration::from_secs(50);

/// How long a child that must go (not one that drains) may take after SIGTERM; a rejected one goes at once.
pub const ENDING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum State {
    Idle,
    /// Waits for its prerequisites.
    Blocked,
    Starting {
        deadline: Instant,
    },
    /// Runs. `quiet_since` is when it last connected, lost its connection or complained; `cut` whether its
    /// connections were cut since.
    Up {
        quiet_since: Instant,
        cut: bool,
        was_connected: bool,
    },
    /// `unseen_since`: since when the proxy holds no connection of it.
    /// `moved_at`: when the child last sent something; none where nobody can tell.
    Connected {
        since: Instant,
        unseen_since: Option<Instant>,
        moved_at: Option<Instant>,
    },
    /// It must go, and then be started again after the delay.
    Ending {
        kill_at: Option<Instant>,
        delay: Option<Duration>,
    },
    Draining {
        kill_at: Option<Instant>,
    },
    Backoff {
        until: Instant,
    },
}

impl State {
    /// Until when it may last, and what is due then.
    pub(super) fn deadline(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Idle
            | Self::Blocked
            | Self::Connected {
                unseen_since: None,
                moved_at: None,
                ..
            } => None,
            Self::Starting { deadline } => Some((*deadline, "provisioner says nothing")),
            Self::Up { quiet_since, .. } => Some((*quiet_since + WEDGED, "provisioner may be wedged")),
            Self::Connected {
                unseen_since: Some(unseen),
                ..
            } => Some((*unseen + UNSEEN, "no connection seen")),
            Self::Connected {
                moved_at: Some(moved),
                ..
            } => Some((*moved + STALLED, "provisioner's connection stands still")),
            Self::Ending { kill_at, .. } | Self::Draining { kill_at } => {
                kill_at.map(|at| (at, "drain deadline"))
            }
            Self::Backoff { until } => Some((*until, "start the provisioner again")),
        }
    }

    pub(super) fn shown(&self) -> ProvisionerState {
        match self {
            Self::Idle => ProvisionerState::Idle,
            Self::Blocked => ProvisionerState::Blocked,
            Self::Starting { .. } => ProvisionerState::Starting,
            Self::Up {
                was_connected: false, ..
            } => ProvisionerState::Up,
            Self::Up {
                was_connected: true, ..
            } => ProvisionerState::Reconnecting,
            Self::Connected { .. } => ProvisionerState::Connected,
            Self::Ending { .. } | Self::Draining { .. } => ProvisionerState::Draining,
            Self::Backoff { .. } => ProvisionerState::Backoff,
        }
    }
}
