//! The destinations of one association, each with its place in the table of connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::proxy::connections::{CloseReason, Tracked};
use crate::proxy::target::Target;

/// Destinations of one association at a time. The one that was used longest ago makes room for a new one; its answers
/// find nobody any more, as behind any router.
const FLOWS_MAX: usize = 64;
/// After this long without a datagram a destination is forgotten, and a name is resolved anew (RFC 4787 REQ-5 asks for
/// two minutes at least).
const IDLE: Duration = Duration::from_mins(2);

/// The socket that a destination is spoken to from: one for each way and family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Outside {
    pub(super) tunnel: bool,
    pub(super) ipv4: bool,
}

/// One destination.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) target: Target,
    pub(super) outside: Outside,
    /// The address that the target was resolved to.
    pub(super) address: SocketAddr,
    pub(super) tracked: Tracked,
    pub(super) used: Instant,
}

/// All of them. Searches are linear, over 64 entries at most.
#[derive(Debug, Default)]
pub(super) struct Flows(Vec<Flow>);

impl Flows {
    /// The flow to a target, as used now.
    pub(super) fn to(&mut self, target: &Target, now: Instant) -> Option<&Flow> {
        self.forget_idle(now);
        let flow = self.0.iter_mut().find(|flow| flow.target == *target)?;
        flow.used = now;
        Some(flow)
    }

    /// The flow that an answer belongs to, as used now; none for a sender that was never sent to.
    pub(super) fn from(&mut self, outside: Outside, source: SocketAddr, now: Instant) -> Option<&Flow> {
        let flow = self
            .0
            .iter_mut()
            .find(|flow| flow.outside == outside && flow.address == source)?;
        flow.used = now;
        Some(flow)
    }

    /// Adds a flow, and forgets another where there is no room.
    pub(super) fn add(&mut self, flow: Flow) {
        self.forget_idle(flow.used);
        if self.0.len() >= FLOWS_MAX {
            let oldest = (0..self.0.len()).min_by_key(|&index| self.0[index].used);
            if let Some(oldest) = oldest {
                self.0.swap_remove(oldest).tracked.close(CloseReason::Finished);
            }
        }
        self.0.push(flow);
    }

    /// Closes all of them.
    pub(super) fn close(self, reason: CloseReason) {
        for flow in self.0 {
            flow.tracked.close(reason);
        }
    }

    fn forget_idle(&mut self, now: Instant) {
        for flow in self
            .0
            .extract_if(.., |flow| now.saturating_duration_since(flow.used) >= IDLE)
        {
            flow.tracked.close(CloseReason::Finished);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::proxy::connections::{Connections, Opening};
    use crate::proxy::routes::{Route, Transport};

    const DIRECT: Outside = Outside {
        tunnel: false,
        ipv4: true,
    };

    fn flow(connections: &std::sync::Arc<Connections>, number: u16, used: Instant) -> Flow {
        let address = SocketAddr::from(([192, 0, 2, 1], number));
        let target = Target::parse(&address.to_string(), None).expect("target");
        let opening = Opening {
            client: SocketAddr::from(([127, 0, 0, 1], 1)),
            target: target.clone(),
            route: Route::Direct,
            transport: Transport::Udp,
        };
        Flow {
            target,
            outside: DIRECT,
            address,
            tracked: connections.open_with(opening, CancellationToken::new()),
            used,
        }
    }

    #[test]
    fn the_longest_unused_makes_room_and_the_idle_are_forgotten() {
        let connections = Connections::new();
        let (mut flows, start) = (Flows::default(), Instant::now());
        for number in 1..=64 {
            flows.add(flow(
                &connections,
                number,
                start + Duration::from_millis(number.into()),
            ));
        }
        let first = SocketAddr::from(([192, 0, 2, 1], 1));
        let later = start + Duration::from_secs(1);
        assert!(flows.from(DIRECT, first, later).is_some(), "used again");
        flows.add(flow(&connections, 65, later));
        assert_eq!(connections.list().len(), 64);
        assert!(flows.from(DIRECT, first, later).is_some());
        let second = SocketAddr::from(([192, 0, 2, 1], 2));
        assert!(flows.from(DIRECT, second, later).is_none(), "it made room");
        let tunnel = Outside {
            tunnel: true,
            ..DIRECT
        };
        assert!(flows.from(tunnel, first, later).is_none(), "another socket");

        let target = Target::parse("192.0.2.1:65", None).expect("target");
        assert!(flows.to(&target, later + IDLE).is_none());
        assert!(connections.list().is_empty());
    }
}
