//! What is known of a tunnel while it runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use orfe_tunnel_core::{NodeDrops, PeerStats, REJECT_AFTER_TIME, SILENT_AFTER_TIME};

/// Whether packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There was no handshake yet.
    Connecting,
    /// A handshake was completed within the last 180 s, and none has gone unanswered since.
    Up,
    /// The last handshake is older than that because nothing is open in the tunnel; what is opened shakes hands first.
    Resting,
    /// The last handshake is older than that and nothing rests, or the gateway has not answered for 15 s to a later one.
    Down,
}

/// What is known of a tunnel. Counters lag by 0.1 s at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Whether packets pass.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// When the latest handshake was completed.
    pub last_handshake: Option<Instant>,
    /// Where the gateway is, once that is known.
    pub endpoint: Option<SocketAddr>,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// The TCP stack in use: `namespace` or `smoltcp`, or in TUN mode `host`.
    pub stack: &'static str,
    /// Why that one and no other, in a sentence for people.
    pub stack_reason: Arc<str>,
    /// The congestion control that the kernel granted; none where smoltcp has its own.
    pub congestion_control: Option<Arc<str>>,
    /// Packets and datagrams dropped, for whatever reason.
    pub dropped: u64,
    /// Connections, those being opened or closed included.
    pub connections: usize,
    /// Bytes that wait in buffers of connections; 0 where these are the kernel's.
    pub buffered_bytes: usize,
}

/// The TCP stack that a tunnel begins with, as its status shows it.
#[derive(Debug)]
pub(crate) struct StackChoice {
    pub(crate) name: &'static str,
    pub(crate) reason: Arc<str>,
    pub(crate) congestion_control: Option<Arc<str>>,
}

impl TunnelStatus {
    /// A tunnel that begins now.
    pub(crate) fn new(endpoint: Option<SocketAddr>, stack: StackChoice, now: Instant) -> Self {
        Self {
            phase: Phase::Connecting,
            since: now,
            last_handshake: None,
            endpoint,
            rx_bytes: 0,
            tx_bytes: 0,
            stack: stack.name,
            stack_reason: stack.reason,
            congestion_control: stack.congestion_control,
            dropped: 0,
            connections: 0,
            buffered_bytes: 0,
        }
    }

    /// Takes over what the node knows of its gateway; `drops` are of packets that belong to no peer.
    pub(crate) fn update(&mut self, stats: &PeerStats, drops: NodeDrops, now: Instant) {
        let phase = phase(stats, now);
        if self.phase != phase {
            tracing::info!(from = ?self.phase, to = ?phase, "tunnel");
            self.phase = phase;
            self.since = now;
        }
        self.last_handshake = stats.last_handshake;
        self.endpoint = stats.endpoint.or(self.endpoint);
        self.rx_bytes = stats.rx_bytes;
        self.tx_bytes = stats.tx_bytes;
        self.dropped = stats.dropped.total() + drops.total();
    }
}

fn phase(stats: &PeerStats, now: Instant) -> Phase {
    let is_silent = stats
        .unanswered_since
        .is_some_and(|since| now.saturating_duration_since(since) >= SILENT_AFTER_TIME);
    match stats.last_handshake {
        Some(at) if !is_silent && now.saturating_duration_since(at) < REJECT_AFTER_TIME => Phase::Up,
        Some(_) if !is_silent && stats.rested => Phase::Resting,
        Some(_) => Phase::Down,
        None => Phase::Connecting,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use orfe_tunnel_core::{PeerDrops, PrivateKey};

    use super::*;

    #[test]
    fn the_phase_tells_a_gateway_that_does_not_answer_from_one_that_was_not_asked() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let stats = |last_handshake: Option<u64>, unanswered_since: Option<u64>, rested| PeerStats {
            public_key: PrivateKey::generate().public_key(),
            endpoint: None,
            last_handshake: last_handshake.map(at),
            unanswered_since: unanswered_since.map(at),
            rested,
            rx_bytes: 0,
            tx_bytes: 0,
            dropped: PeerDrops::default(),
        };
        for (last_handshake, unanswered_since, rested, now, expected) in [
            (None, Some(0), false, 14, Phase::Connecting),
            (None, Some(0), false, 60, Phase::Connecting),
            (Some(0), None, false, 179, Phase::Up),
            (Some(0), None, false, 180, Phase::Down),
            (Some(0), Some(40), false, 54, Phase::Up),
            (Some(0), Some(40), false, 55, Phase::Down),
            (Some(56), None, false, 57, Phase::Up),
            (Some(0), None, true, 179, Phase::Up),
            (Some(0), None, true, 9_000, Phase::Resting),
            (Some(0), Some(9_000), true, 9_014, Phase::Resting),
            (Some(0), Some(9_000), true, 9_015, Phase::Down),
        ] {
            assert_eq!(
                phase(&stats(last_handshake, unanswered_since, rested), at(now)),
                expected,
                "handshake {last_handshake:?}, unanswered since {unanswered_since:?}, rested {rested}, now {now}"
            );
        }
    }
}
