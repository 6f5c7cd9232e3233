//! Keeps one tunnel as it is desired.
//!
//! The task resolves the gateway's name, starts the tunnel, publishes its dialer for the proxies, and tells the core how
//! it is. A changed desire replaces the tunnel; a gateway that only began a new life is shaken hands with at once. While the
//! tunnel is down the gateway's name is resolved anew, because it may have moved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use orfe_core::agent::Input;
use orfe_protocol::desired::Tunnel as Desired;
use orfe_protocol::observed::{TunnelPhase, TunnelStatus};
use orfe_tunnel::dial::Dialer;
use orfe_tunnel::{
    AllowedIp, Phase, PrivateKey, PublicKey, TcpStack, Tunnel, TunnelConfig, TunnelError, TunnelPeer,
    TunnelStatus as State,
};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::failure::{self, Failure};

/// Wait before the gateway's name is resolved again, or the socket opened again.
const RETRY: Duration = Duration::from_secs(2);

/// How often a gateway that does not answer is looked up again.
const LOOK_UP: Duration = Duration::from_secs(30);

/// The ends of the channels that the task speaks through.
pub(super) struct TunnelTask {
    pub(super) key: PrivateKey,
    pub(super) tcp_stack: TcpStack,
    pub(super) desired: watch::Receiver<Option<Desired>>,
    pub(super) dialer: watch::Sender<Option<Arc<dyn Dialer>>>,
    pub(super) inputs: mpsc::Sender<Input>,
}

impl TunnelTask {
    /// Runs until nobody desires anything any more. The tunnel ends with it.
    pub(super) async fn run(mut self) {
        loop {
            let desired = self.desired.borrow_and_update().clone();
            let Some(desired) = desired else {
                self.dialer.send_replace(None);
                self.tell(None).await;
                if self.desired.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut watched = self.desired.clone();
            tokio::select! {
                () = self.keep(&desired, self.desired.clone()) => {}
                changed = replaced(&mut watched, &desired) => if !changed { return },
            }
        }
    }

    /// Keeps one tunnel until it is dropped.
    async fn keep(&self, desired: &Desired, mut instances: watch::Receiver<Option<Desired>>) {
        let since = Instant::now();
        self.tell(Some(waiting(desired, since, self.tcp_stack))).await;
        let tunnel = self.start(desired, since).await;
        self.dialer.send_replace(Some(Arc::new(tunnel.dialer())));
        let started = Instant::now();
        let mut states = tunnel.status();
        let mut told = None;
        let mut instance = desired.gateway.instance;
        let mut look_up = tokio::time::interval(LOOK_UP);
        loop {
            let state = states.borrow_and_update().clone();
            let news = (state.phase, state.last_handshake, state.endpoint);
            if told != Some(news) {
                let recovered = state.phase == Phase::Up && matches!(told, Some((Phase::Down, ..)));
                let changed = told.is_none_or(|(phase, _, endpoint)| (phase, endpoint) != (news.0, news.2));
                told = Some(news);
                let update = status(desired, &state);
                if changed {
                    tracing::info!(
                        phase = update.phase.as_str(),
                        endpoint = %state.endpoint,
                        tcp_stack = state.stack,
                        "tunnel"
                    );
                }
                self.tell(Some(update)).await;
                if recovered {
                    // What was open before the path died may be dead without knowing it.
                    let _ = self.inputs.send(Input::PathChanged).await;
                }
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() {
                    tracing::warn!("the tunnel has ended by itself; starting it again");
                    self.dialer.send_replace(None);
                    if started.elapsed() < RETRY {
                        // Something ends it again and again.
                        sleep(RETRY).await;
                    }
                    return;
                },
                changed = instances.changed() => {
                    let current = instances.borrow_and_update().as_ref().map(|desired| desired.gateway.instance);
                    if changed.is_err() {
                        return;
                    }
                    if let Some(current) = current && current != instance {
                        tracing::info!("the gateway began a new life; shaking hands");
                        instance = current;
                        tunnel.rehandshake();
                    }
                }
                _ = look_up.tick() => if state.phase != Phase::Up
                    && let Some(endpoint) = resolve(desired).await
                    && endpoint != state.endpoint
                {
                    tunnel.set_endpoint(endpoint);
                },
            }
        }
    }

    /// Starts the tunnel; tries until it works.
    async fn start(&self, desired: &Desired, since: Instant) -> Tunnel {
        loop {
            if let Some(endpoint) = resolve(desired).await {
                let config = config(&self.key, desired, endpoint, self.tcp_stack);
                // Making a namespace blocks for as long as the system takes.
                match tokio::task::spawn_blocking(move || Tunnel::start(config)).await {
                    Ok(Ok(tunnel)) => return tunnel,
                    Ok(Err(error)) => {
                        let obstacle = describe(error);
                        tracing::warn!("{obstacle}");
                        let waiting = waiting(desired, since, self.tcp_stack);
                        self.tell(Some(TunnelStatus {
                            obstacle: Some(obstacle),
                            ..waiting
                        }))
                        .await;
                    }
                    Err(error) => tracing::error!(%error, "starting the tunnel was cut short"),
                }
            } else {
                tracing::warn!(endpoints = ?desired.gateway.endpoints, "the gateway's name does not resolve");
            }
            sleep(RETRY).await;
        }
    }

    async fn tell(&self, status: Option<TunnelStatus>) {
        // The daemon's end closes only when it stops, and then nobody is interested.
        let _ = self.inputs.send(Input::Tunnel(status)).await;
    }
}

/// Waits until something else is desired than `desired`, a new life of the gateway aside; false when nobody desires any more.
async fn replaced(watched: &mut watch::Receiver<Option<Desired>>, desired: &Desired) -> bool {
    let differs = |other: &Option<Desired>| other.as_ref().is_none_or(|other| !same_tunnel(other, desired));
    watched.wait_for(differs).await.is_ok()
}

fn same_tunnel(one: &Desired, other: &Desired) -> bool {
    let mut one = one.clone();
    one.gateway.instance = other.gateway.instance;
    one == *other
}

/// What is wrong, why, and what can be done about it.
fn describe(error: TunnelError) -> String {
    let hint = error.hint().map(str::to_owned);
    failure::one_line(
        &Failure::new("the tunnel cannot be started")
            .hint(hint)
            .because(error),
    )
}

/// The first address of the first endpoint that resolves.
async fn resolve(desired: &Desired) -> Option<SocketAddr> {
    for endpoint in &desired.gateway.endpoints {
        if let Ok(mut addresses) = tokio::net::lookup_host(endpoint).await
            && let Some(address) = addresses.next()
        {
            return Some(address);
        }
    }
    None
}

fn config(key: &PrivateKey, desired: &Desired, endpoint: SocketAddr, tcp_stack: TcpStack) -> TunnelConfig {
    let any: IpAddr = if endpoint.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    TunnelConfig {
        private_key: key.clone(),
        addresses: desired.addresses.clone(),
        peer: TunnelPeer {
            public_key: PublicKey::from(*desired.gateway.public_key.as_bytes()),
            preshared_key: None,
            endpoint,
            allowed_ips: desired
                .names
                .values()
                .map(|named| AllowedIp::host(named.address))
                .collect(),
            keepalive: (desired.keepalive_s > 0).then(|| Duration::from_secs(desired.keepalive_s.into())),
        },
        mtu: TunnelConfig::DEFAULT_MTU,
        bind: SocketAddr::new(any, 0),
        tcp_stack,
        helper: TunnelConfig::this_program(),
    }
}

const fn phase(phase: Phase) -> TunnelPhase {
    match phase {
        Phase::Connecting => TunnelPhase::Connecting,
        Phase::Up => TunnelPhase::Up,
        Phase::Down => TunnelPhase::Down,
    }
}

/// Before there is a tunnel.
fn waiting(desired: &Desired, since: Instant, tcp_stack: TcpStack) -> TunnelStatus {
    TunnelStatus {
        addresses: desired.addresses.clone(),
        ..TunnelStatus::new(TunnelPhase::Connecting, wall(since), tcp_stack.as_str())
    }
}

fn status(desired: &Desired, state: &State) -> TunnelStatus {
    TunnelStatus {
        last_handshake_at: state.last_handshake.map(wall),
        endpoint: Some(state.endpoint),
        addresses: desired.addresses.clone(),
        tcp_stack_reason: Some(state.stack_reason.to_string()),
        congestion_control: state.congestion_control.as_ref().map(ToString::to_string),
        ..TunnelStatus::new(phase(state.phase), wall(state.since), state.stack)
    }
}

/// The wall clock's time at an instant of the monotonic clock.
fn wall(instant: Instant) -> Timestamp {
    let ago = SignedDuration::try_from(instant.elapsed()).unwrap_or(SignedDuration::ZERO);
    Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
}
