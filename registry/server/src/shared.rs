//! What the registry's tasks have in common.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use orfe_protocol::key::NoisePrivateKey;
use orfe_store::Store;
use orfe_tunnel_core::SourceLimiter;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::desired::{Digester, Plan};
use crate::fleet::Fleet;
use crate::gateway::{GatewayRole, Guests};
use crate::joining::Joining;
use crate::people::People;
use crate::recorder::Recorder;

/// Heartbeats that the whole fleet may send in a second; a larger fleet sends them less often.
const HEARTBEATS_PER_SECOND: f64 = 2000.0;

/// Longest interval that is ever asked for.
const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

/// Handles that every session and route needs; one for each registry.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) fleet: Fleet,
    pub(crate) noise_key: Arc<NoisePrivateKey>,
    pub(crate) digester: Digester,
    pub(crate) plan: watch::Receiver<Arc<Plan>>,
    pub(crate) gateway: Option<Arc<GatewayRole>>,
    pub(crate) people: People,
    pub(crate) joining: Joining,
    pub(crate) recorder: Recorder,
    pub(crate) claims: Mutex<SourceLimiter>,
    /// One permit for each session that may stand.
    pub(crate) sessions: Arc<Semaphore>,
    pub(crate) sessions_max: usize,
    pub(crate) heartbeat_base: Duration,
    pub(crate) send_timeout: Duration,
    /// Tasks that belong to the registry; it waits for them at its end.
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Shared {
    /// The interval of heartbeats for a fleet of this size.
    pub(crate) fn heartbeat(&self) -> Duration {
        let standing = self
            .sessions_max
            .saturating_sub(self.sessions.available_permits());
        heartbeat(self.heartbeat_base, standing)
    }

    /// Whether devices may send the tunnel's datagrams over WebSocket.
    pub(crate) fn carries_datagrams(&self) -> bool {
        let plan = self.plan.borrow();
        plan.tunnel
            .as_ref()
            .is_some_and(|tunnel| tunnel.gateway.websocket.is_some())
    }

    /// Lets the gateway know who may use the tunnel, and for what.
    pub(crate) fn admit_to_gateway(&self) {
        if let Some(gateway) = &self.gateway {
            let now = Timestamp::now();
            gateway.admit(&Guests {
                devices: self.fleet.admitted(),
                people: self.people.current(now),
                joiners: self.joining.current(now),
            });
        }
    }
}

fn heartbeat(base: Duration, sessions: usize) -> Duration {
    let spread = Duration::from_secs_f64(sessions as f64 / HEARTBEATS_PER_SECOND);
    base.max(spread).min(HEARTBEAT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_sends_heartbeats_less_often() {
        let base = Duration::from_secs(15);
        assert_eq!(heartbeat(base, 0), base);
        assert_eq!(heartbeat(base, 30_000), base);
        assert_eq!(heartbeat(base, 60_000), Duration::from_secs(30));
        assert_eq!(heartbeat(base, 10_000_000), HEARTBEAT_MAX);
    }
}
