//! Keeps one tunnel as it is desired.
//!
//! The task resolves the gateway's names, starts the tunnel, publishes its dialer for the proxies, and tells the core how
//! it is. A changed desire replaces the tunnel; a gateway that only began a new life is shaken hands with at once.
//!
//! | module | what |
//! |---|---|
//! | `keep` | one tunnel: the loop around [`orfe_tunnel_core::ladder`], which decides the carrier |
//! | `rungs` | what the rungs of the ladder are made of: addresses, and the bridge to the registry's WebSocket |
//! | `memory` | which rung worked on which network |
//! | `shown` | the status that comes of it |
//! | `host` | TUN mode: routes, bridges, names |
//! | `obstacle` | what stands in the way, in words: no network, a captive portal, blocked UDP |

mod bridges;
mod host;
mod keep;
mod memory;
mod obstacle;
mod rungs;
mod shown;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use orfe_core::agent::Input;
use orfe_protocol::desired::Tunnel as Desired;
use orfe_protocol::observed::{TunnelMode, TunnelPhase, TunnelStart, TunnelStatus};
use orfe_tunnel::dial::Dialer;
use orfe_tunnel::{
    AllowedIp, Phase, PrivateKey, PublicKey, TcpStack, Tunnel, TunnelConfig, TunnelError, TunnelPeer,
};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(super) use self::host::{HostChoice, clean_host};
use self::keep::Keeper;
use self::memory::Memory;
use self::rungs::{Rungs, resolve};
use crate::failure::{self, Failure};
use crate::link::RegistryAddress;

/// Wait before the gateway's name is resolved again, or the socket opened again.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait before a tunnel that the system refuses is started again.
const REFUSED_RETRY_MAX: Duration = Duration::from_mins(1);

/// The task, before it runs.
pub(super) struct TunnelTask {
    pub(super) desired: watch::Receiver<Option<Desired>>,
    /// Where it is kept what worked on which network.
    pub(super) networks: PathBuf,
    pub(super) ends: Ends,
}

/// What the task is given, and what it speaks through.
pub(super) struct Ends {
    pub(super) key: PrivateKey,
    pub(super) tcp_stack: TcpStack,
    /// In TUN mode, what is wanted of it.
    pub(super) host: Option<HostChoice>,
    /// Whose WebSocket carries datagrams, and how it is known.
    pub(super) registry: RegistryAddress,
    pub(super) dialer: watch::Sender<Option<Arc<dyn Dialer>>>,
    pub(super) inputs: mpsc::Sender<Input>,
}

impl Ends {
    fn mode(&self) -> TunnelMode {
        match self.host {
            Some(_) => TunnelMode::Tun,
            None => TunnelMode::Userspace,
        }
    }

    /// The TCP stack that is wanted, in the words of the status.
    fn wanted_stack(&self) -> &'static str {
        match self.host {
            Some(_) => "host",
            None => self.tcp_stack.as_str(),
        }
    }

    /// Where the registry is, as far as that must not be reached through the tunnel.
    async fn registry_addresses(&self) -> Vec<IpAddr> {
        let Some(name) = self.registry.url.host_str().filter(|_| self.host.is_some()) else {
            return Vec::new();
        };
        let port = self.registry.url.port_or_known_default().unwrap_or_default();
        let name = name.trim_start_matches('[').trim_end_matches(']');
        match tokio::net::lookup_host((name, port)).await {
            Ok(found) => found.map(|address| address.ip().to_canonical()).collect(),
            Err(error) => {
                tracing::debug!(name, %error, "the registry's name does not resolve");
                Vec::new()
            }
        }
    }
}

impl TunnelTask {
    /// Runs until `stop`, or until nobody desires anything any more. Then the tunnel has ended.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut memory = Memory::load(self.networks.clone());
        loop {
            let desired = self.desired.borrow_and_update().clone();
            let Some(desired) = desired else {
                self.ends.dialer.send_replace(None);
                self.tell(None).await;
                match stop.run_until_cancelled(self.desired.changed()).await {
                    Some(Ok(())) => continue,
                    Some(Err(_)) | None => return,
                }
            };
            let mut watched = self.desired.clone();
            let unwanted = async {
                let replaced = stop.run_until_cancelled(replaced(&mut watched, &desired)).await;
                replaced == Some(true)
            };
            let instances = self.desired.clone();
            if !keep(&self.ends, &desired, &mut memory, instances, unwanted).await {
                return;
            }
        }
    }

    async fn tell(&self, status: Option<TunnelStatus>) {
        // The daemon's end closes only when it stops, and then nobody is interested.
        let _ = self.ends.inputs.send(Input::Tunnel(status.map(Box::new))).await;
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

/// Keeps one tunnel until it ends by itself, or `unwanted` does; false when there is to be no other.
async fn keep(
    ends: &Ends,
    desired: &Desired,
    memory: &mut Memory,
    instances: watch::Receiver<Option<Desired>>,
    unwanted: impl Future<Output = bool>,
) -> bool {
    let mut unwanted = pin!(unwanted);
    let mut rungs = Rungs::new(&desired.gateway, ends.registry.clone());
    let (tunnel, registry) = tokio::select! {
        started = start(ends, desired, &mut rungs) => started,
        another = &mut unwanted => return another,
    };
    ends.dialer.send_replace(Some(Arc::new(tunnel.dialer())));
    let started = Instant::now();
    let mut keeper = Keeper::new(ends, desired, memory, tunnel, rungs, registry);
    let ended = tokio::select! {
        () = keeper.run(instances) => None,
        another = &mut unwanted => Some(another),
    };
    ends.dialer.send_replace(None);
    keeper.end().await;
    match ended {
        Some(another) => another,
        // Something ends it again and again.
        None if started.elapsed() < RETRY => tokio::select! {
            () = sleep(RETRY) => true,
            another = unwanted => another,
        },
        None => true,
    }
}

/// Starts the tunnel; tries until it works. Gives also where the registry was then, in TUN mode.
async fn start(ends: &Ends, desired: &Desired, rungs: &mut Rungs) -> (Tunnel, Vec<IpAddr>) {
    let since = Timestamp::now();
    let mut failures = Failures::default();
    loop {
        let waiting = TunnelStatus {
            addresses: desired.addresses.clone(),
            obstacle: failures.last.as_ref().map(|last| last.text().to_owned()),
            start: failures.start(),
            mode: ends.mode(),
            ..TunnelStatus::new(failures.phase(), since, ends.wanted_stack())
        };
        let _ = ends.inputs.send(Input::Tunnel(Some(Box::new(waiting)))).await;
        rungs.resolved(resolve(rungs.names()).await);
        let failed = if rungs.counts().iter().all(|addresses| *addresses == 0) {
            NotStarted::Unresolved(format!(
                "no name of the gateway resolves: {}",
                desired.gateway.endpoints.join(", ")
            ))
        } else {
            let config = config(ends, desired);
            let registry = ends.registry_addresses().await;
            let outer = [rungs.destinations(), registry.clone()].concat();
            let name = ends.registry.url.host_str();
            let host = ends
                .host
                .as_ref()
                .map(|choice| choice.options(desired, &outer, name));
            // Making a namespace or a device blocks for as long as the system takes.
            let starting = tokio::task::spawn_blocking(move || match host {
                Some(host) => Tunnel::start_on_host(config, host),
                None => Tunnel::start(config),
            });
            NotStarted::Refused(match starting.await {
                Ok(Ok(tunnel)) => return (tunnel, registry),
                Ok(Err(error)) => describe(error),
                Err(error) => format!("starting the tunnel was cut short: {error}"),
            })
        };
        // Once, and not with every attempt: nobody may look for days.
        if failures.is_news(&failed) {
            tracing::warn!("{}; this is tried again by itself", failed.text());
        }
        sleep(failures.add(failed)).await;
    }
}

/// Why there is no tunnel yet, in words for people.
#[derive(Debug, PartialEq, Eq)]
enum NotStarted {
    /// The network may be back any moment.
    Unresolved(String),
    /// This machine refuses something that the tunnel is made of. As a rule a person has to change that.
    Refused(String),
}

impl NotStarted {
    fn text(&self) -> &str {
        match self {
            Self::Unresolved(text) | Self::Refused(text) => text,
        }
    }
}

/// Attempts in a row that failed.
#[derive(Debug, Default)]
struct Failures {
    last: Option<NotStarted>,
    /// The last wait.
    pause: Duration,
}

impl Failures {
    /// Whether this reason is another one than the last attempt's.
    fn is_news(&self, failed: &NotStarted) -> bool {
        self.last.as_ref() != Some(failed)
    }

    /// One more; the wait until the next attempt. It grows while the same thing is refused again and again.
    fn add(&mut self, failed: NotStarted) -> Duration {
        self.pause = match &failed {
            NotStarted::Refused(_) if !self.is_news(&failed) => {
                self.pause.saturating_mul(2).min(REFUSED_RETRY_MAX)
            }
            _ => RETRY,
        };
        self.last = Some(failed);
        self.pause
    }

    fn start(&self) -> TunnelStart {
        match self.last {
            Some(NotStarted::Refused(_)) => TunnelStart::Refused,
            Some(NotStarted::Unresolved(_)) | None => TunnelStart::Granted,
        }
    }

    /// What is refused is down; nobody waits for the gateway then.
    fn phase(&self) -> TunnelPhase {
        match self.start() {
            TunnelStart::Refused => TunnelPhase::Down,
            TunnelStart::Granted | TunnelStart::Unknown => TunnelPhase::Connecting,
        }
    }
}

/// What is wrong, why, and what can be done about it.
fn describe(error: TunnelError) -> String {
    let hint = match (&error, error.hint()) {
        (TunnelError::NoNamespace { .. }, hint) => {
            let other = "leave the choice to the agent with `tcp_stack = \"auto\"` under [tunnel]";
            Some(hint.map_or_else(|| other.to_owned(), |hint| format!("{hint}; or {other}")))
        }
        (_, hint) => hint.map(str::to_owned),
    };
    failure::one_line(
        &Failure::new("the tunnel cannot be started")
            .hint(hint)
            .because(error),
    )
}

fn config(ends: &Ends, desired: &Desired) -> TunnelConfig {
    TunnelConfig {
        private_key: ends.key.clone(),
        addresses: desired.addresses.clone(),
        peer: TunnelPeer {
            public_key: PublicKey::from(*desired.gateway.public_key.as_bytes()),
            preshared_key: None,
            // The ladder says where to send before anything is sent that matters.
            endpoint: None,
            allowed_ips: allowed_ips(desired),
            keepalive: (desired.keepalive_s > 0).then(|| Duration::from_secs(desired.keepalive_s.into())),
        },
        // The keeper has the path measured before anything is sent that is larger than what passes everywhere.
        mtu: TunnelConfig::MEASURED_MTU,
        // Both families, where the system has both: the gateway may have addresses of either.
        bind: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        tcp_stack: ends.tcp_stack,
        helper: TunnelConfig::this_program(),
    }
}

/// What may come out of the tunnel, and goes into it: the names' addresses, the gateway's own, and the networks.
fn allowed_ips(desired: &Desired) -> Vec<AllowedIp> {
    let names = desired.names.values().map(|named| named.address);
    let hosts = names.chain(desired.gateway.addresses.iter().copied());
    // A network that cannot be read is told where the routes are made.
    let networks = desired
        .networks
        .iter()
        .filter_map(|entry| entry.network.parse().ok());
    hosts.map(AllowedIp::host).chain(networks).collect()
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

    fn refused(reason: &str) -> NotStarted {
        NotStarted::Refused(reason.to_owned())
    }

    #[test]
    fn what_is_refused_again_and_again_is_told_once_and_tried_ever_less_often() {
        let mut failures = Failures::default();
        assert_eq!(failures.phase(), TunnelPhase::Connecting);
        let attempts: Vec<(bool, u64)> = (0..7)
            .map(|_| refused("no namespace"))
            .map(|failed| (failures.is_news(&failed), failures.add(failed).as_secs()))
            .collect();
        let (first, rest) = attempts.split_first().unwrap();
        assert_eq!(*first, (true, 2));
        assert_eq!(rest, [4, 8, 16, 32, 60, 60].map(|pause| (false, pause)));
        assert_eq!(
            (failures.phase(), failures.start()),
            (TunnelPhase::Down, TunnelStart::Refused)
        );
        assert!(failures.is_news(&refused("no memory")));
        assert_eq!(failures.add(refused("no memory")), RETRY, "another reason");
    }

    #[test]
    fn names_are_resolved_again_soon_because_a_network_comes_and_goes() {
        let mut failures = Failures::default();
        failures.add(refused("no namespace"));
        for _ in 0..8 {
            let unresolved = NotStarted::Unresolved("no name".to_owned());
            assert_eq!(failures.add(unresolved), RETRY);
        }
        assert_eq!(failures.phase(), TunnelPhase::Connecting);
    }

    #[test]
    fn a_refused_namespace_is_told_with_its_reason_and_what_to_do() {
        let told = |hint| {
            describe(TunnelError::NoNamespace {
                reason: "making a namespace was refused".into(),
                hint,
            })
        };
        assert_eq!(
            told(Some("allow it")),
            "the tunnel cannot be started: the tunnel's TCP stack is fixed to `namespace`, and there is no private network \
             namespace: making a namespace was refused (allow it; or leave the choice to the agent with \
             `tcp_stack = \"auto\"` under [tunnel])"
        );
        let unhinted = told(None);
        assert!(unhinted.contains("(leave the choice to the agent"), "{unhinted}");
    }
}
