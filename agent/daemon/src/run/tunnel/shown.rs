//! The tunnel's status as the core and `orfe status` have it.

use orfe_protocol::observed::{CarrierStatus, PathStatus, TunnelStatus};
use orfe_tunnel_core::path::Report;

use super::keep::Keeper;
use super::{host, obstacle, phase, wall};

/// A round trip is told anew when it is a quarter more or less than the one that was told.
const RTT_NEWS: f64 = 0.25;
/// And loss when it differs by so many percent: one request of the minute's twelve.
const LOSS_NEWS: f64 = 8.0;

impl Keeper<'_> {
    /// What is to be told now, close to what was told last: times of the wall clock are computed from those of the
    /// monotonic one, and never come out quite the same.
    pub(super) fn status(&self, state: &orfe_tunnel::TunnelStatus, path: Option<Report>) -> TunnelStatus {
        let settled = self.ladder.settled();
        let told = self.told.as_ref();
        let carrier = settled.map(|(candidate, since)| {
            let carrier = self.rungs.carrier(candidate.rung);
            let endpoint = self.rungs.describe(candidate);
            let same = told
                .and_then(|told| told.carrier.as_ref())
                .filter(|told| told.carrier == carrier && told.endpoint == endpoint);
            CarrierStatus {
                carrier,
                endpoint,
                // The wall clock of an instant is computed anew each time and never quite the same.
                since: same.map_or_else(|| wall(since), |same| same.since),
            }
        });
        let bridge = self.bridge.as_ref().map(|state| state.borrow().clone());
        let known = obstacle::Known {
            settled: carrier.as_ref().map(|carrier| carrier.carrier),
            failed_rounds: self.ladder.failed_rounds(),
            offline: self.network.is_offline(),
            portal: self.portal.as_deref(),
            foreign: self.rungs.is_foreign(),
            bridge: bridge.as_ref(),
        };
        let phase = phase(state.phase);
        let since = told
            .filter(|told| told.phase == phase)
            .map_or_else(|| wall(state.since), |told| told.since);
        let handshake = state.last_handshake.map(wall);
        let told_handshake = told.and_then(|told| told.last_handshake_at);
        TunnelStatus {
            last_handshake_at: match (told_handshake, handshake) {
                (Some(told), Some(now)) if now.duration_since(told).abs().as_secs() < 1 => Some(told),
                (_, now) => now,
            },
            endpoint: state.endpoint.and_then(|endpoint| self.rungs.shown(endpoint)),
            addresses: self.desired.addresses.clone(),
            carrier,
            path: worth_telling(told.and_then(|told| told.path), path),
            obstacle: obstacle::describe(&known)
                .or_else(|| host::describe_refused(&self.refused))
                .or_else(|| self.unguarded.clone()),
            mode: self.ends.mode(),
            tcp_stack_reason: Some(state.stack_reason.to_string()),
            congestion_control: state.congestion_control.as_ref().map(ToString::to_string),
            ..TunnelStatus::new(phase, since, state.stack)
        }
    }
}

/// What was told, unless what is measured now is news: every word of it goes to the registry.
fn worth_telling(told: Option<PathStatus>, now: Option<Report>) -> Option<PathStatus> {
    let now = now.map(|report| PathStatus {
        rtt_ms: (report.rtt.as_secs_f64() * 1e4).round() / 10.0,
        loss_percent: (report.loss_percent * 10.0).round() / 10.0,
        mtu: report.mtu,
    });
    match (told, now) {
        (Some(told), Some(now))
            if told.mtu == now.mtu
                && (told.loss_percent - now.loss_percent).abs() < LOSS_NEWS
                && (told.rtt_ms - now.rtt_ms).abs() <= told.rtt_ms * RTT_NEWS =>
        {
            Some(told)
        }
        (_, now) => now,
    }
}
