//! The tunnel's status as the core and `orfe status` have it.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use orfe_protocol::observed::{CarrierStatus, PathStatus, TunnelPhase, TunnelStatus};
use orfe_tunnel::Phase;
use orfe_tunnel_core::path::Report;

use super::keep::Keeper;
use super::{host, obstacle};

/// A round trip is told anew when it is a quarter more or less than the one that was told.
const RTT_NEWS: f64 = 0.25;
/// And loss when it differs by so many percent: one request of the minute's twelve.
const LOSS_NEWS: f64 = 8.0;
/// And a handshake when it was so much later than the one that was told. A tunnel that is well has one each two minutes.
const HANDSHAKE_NEWS: SignedDuration = SignedDuration::from_mins(1);

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
        TunnelStatus {
            last_handshake_at: handshake_to_tell(
                told.filter(|told| told.phase == phase)
                    .and_then(|told| told.last_handshake_at),
                state.last_handshake.map(wall),
            ),
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

/// When the last handshake was, as it was told in this phase, unless it was a minute later or more (or the clock was set). The
/// ladder asks by handshakes, several in a minute where it has doubts, and every word of them goes to the registry.
fn handshake_to_tell(told: Option<Timestamp>, now: Option<Timestamp>) -> Option<Timestamp> {
    match (told, now) {
        (Some(told), Some(now)) if now.duration_since(told).abs() < HANDSHAKE_NEWS => Some(told),
        (_, now) => now,
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

const fn phase(phase: Phase) -> TunnelPhase {
    match phase {
        Phase::Connecting => TunnelPhase::Connecting,
        Phase::Up => TunnelPhase::Up,
        Phase::Resting => TunnelPhase::Resting,
        Phase::Down => TunnelPhase::Down,
    }
}

/// The wall clock's time at an instant of the monotonic clock.
fn wall(instant: Instant) -> Timestamp {
    let ago = SignedDuration::try_from(instant.elapsed()).unwrap_or(SignedDuration::ZERO);
    Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_news_once_in_a_minute_at_most() {
        let at = |seconds| Some(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds));
        for (told, now, expected) in [
            (None, None, None),
            (None, at(7), at(7)),
            (at(7), at(7), at(7)),
            (at(7), at(8), at(7)),
            (at(7), at(66), at(7)),
            (at(7), at(67), at(67)),
            (at(7), at(127), at(127)),
            // The clock was set.
            (at(1_000), at(7), at(7)),
            // The tunnel was made anew.
            (at(7), None, None),
        ] {
            assert_eq!(handshake_to_tell(told, now), expected, "{told:?}, {now:?}");
        }
    }
}
