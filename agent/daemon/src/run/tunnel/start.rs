//! Starting a tunnel: what it is made of, and what is done while it cannot be had.
//!
//! Names that do not resolve are looked up again soon, because the network may be back any moment. What this machine refuses
//! is tried ever less often and told once, because a person has to change that.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;
use orfe_core::agent::Input;
use orfe_protocol::desired::Tunnel as Desired;
use orfe_protocol::observed::{TunnelPhase, TunnelStart, TunnelStatus};
use orfe_tunnel::{AllowedIp, HostOptions, PublicKey, Tunnel, TunnelConfig, TunnelError, TunnelPeer};
use tokio::time::sleep;

use super::rungs::{Rungs, resolve};
use super::{Ends, RETRY};
use crate::failure::{self, Failure};

/// Longest wait before a tunnel that the system refuses is started again.
const REFUSED_RETRY_MAX: Duration = Duration::from_mins(1);

/// Starts the tunnel; tries until it works. Gives also where the registry was then, in TUN mode. Breaks with what `unwanted`
/// gives, but not while an attempt is under way: a tunnel that comes of it is given though it is unwanted by then.
pub(super) async fn start(
    ends: &Ends,
    desired: &Desired,
    rungs: &mut Rungs,
    mut unwanted: Pin<&mut impl Future<Output = bool>>,
) -> ControlFlow<bool, (Tunnel, Vec<IpAddr>)> {
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
        let prepared = tokio::select! {
            prepared = async {
                let _ = ends.inputs.send(Input::Tunnel(Some(Box::new(waiting)))).await;
                Attempt::prepare(ends, desired, rungs).await
            } => prepared,
            another = &mut unwanted => return ControlFlow::Break(another),
        };
        let failed = match prepared {
            Ok(attempt) => match attempt.start().await {
                Ok(started) => return ControlFlow::Continue(started),
                Err(refused) => refused,
            },
            Err(unresolved) => unresolved,
        };
        // Once, and not with every attempt: nobody may look for days.
        if failures.is_news(&failed) {
            tracing::warn!("{}; this is tried again by itself", failed.text());
        }
        tokio::select! {
            () = sleep(failures.add(failed)) => {}
            another = &mut unwanted => return ControlFlow::Break(another),
        }
    }
}

/// What one attempt is made with.
struct Attempt {
    config: TunnelConfig,
    /// In TUN mode.
    host: Option<HostOptions>,
    /// Where the registry is, in TUN mode.
    registry: Vec<IpAddr>,
}

impl Attempt {
    async fn prepare(ends: &Ends, desired: &Desired, rungs: &mut Rungs) -> Result<Self, NotStarted> {
        rungs.resolved(resolve(rungs.names()).await);
        if rungs.counts().iter().all(|addresses| *addresses == 0) {
            return Err(NotStarted::Unresolved(format!(
                "no name of the gateway resolves: {}",
                desired.gateway.endpoints.join(", ")
            )));
        }
        let registry = ends.registry_addresses().await;
        let outer = [rungs.destinations(), registry.clone()].concat();
        let name = ends.registry.url.host_str();
        let host = ends
            .host
            .as_ref()
            .map(|choice| choice.options(desired, &outer, name));
        Ok(Self {
            config: config(ends, desired),
            host,
            registry,
        })
    }

    /// Has to be waited for: nothing stops what has begun, and while it goes on it holds what the next attempt needs, such as
    /// the lock on the changes to this host. Each program that is run for it has its deadline.
    async fn start(self) -> Result<(Tunnel, Vec<IpAddr>), NotStarted> {
        let Self {
            config,
            host,
            registry,
        } = self;
        // Making a namespace or a device blocks for as long as the system takes.
        let starting = tokio::task::spawn_blocking(move || match host {
            Some(host) => Tunnel::start_on_host(config, host),
            None => Tunnel::start(config),
        });
        match starting.await {
            Ok(Ok(tunnel)) => Ok((tunnel, registry)),
            Ok(Err(error)) => Err(NotStarted::Refused(describe(error))),
            Err(error) => Err(NotStarted::Refused(format!(
                "starting the tunnel was cut short: {error}"
            ))),
        }
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
pub(super) fn allowed_ips(desired: &Desired) -> Vec<AllowedIp> {
    let names = desired.names.values().map(|named| named.address);
    let hosts = names.chain(desired.gateway.addresses.iter().copied());
    // A network that cannot be read is told where the routes are made.
    let networks = desired
        .networks
        .iter()
        .filter_map(|entry| entry.network.parse().ok());
    hosts.map(AllowedIp::host).chain(networks).collect()
}

#[cfg(test)]
mod tests {
    use orfe_tunnel::tun::host::{HostTunnelError, clean_up};

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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_refused_device_is_told_with_its_cause_once() {
        let refused = HostTunnelError::Device {
            name: "orfe0".into(),
            source: std::io::Error::from_raw_os_error(1),
        };
        assert_eq!(
            describe(TunnelError::Host(refused)),
            "the tunnel cannot be started: TUN mode cannot be set up: TUN device `orfe0` cannot be made, which needs /dev/net/tun and \
             CAP_NET_ADMIN: Operation not permitted (os error 1) (run the agent as root or give its service the capability \
             CAP_NET_ADMIN; or choose `orfe run --tunnel userspace`)"
        );
    }

    #[test]
    fn a_refused_route_is_told_with_its_cause_once() {
        let refused = HostTunnelError::Route {
            network: "10.0.0.0/8".parse().unwrap(),
            device: "orfe0".into(),
            source: std::io::Error::other("it is there already"),
        };
        assert_eq!(
            describe(TunnelError::Host(refused)),
            "the tunnel cannot be started: TUN mode cannot be set up: route to 10.0.0.0/8 through `orfe0` cannot be set: it is there \
             already (look whether another tunnel leads to the same network)"
        );
    }

    #[test]
    fn a_journal_that_another_process_has_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        orfe_platform::private::write(&path("tun-changes"), b"").unwrap();
        let lock = orfe_platform::private::open_append(&path("tun-changes.lock")).unwrap();
        lock.lock().unwrap();
        let busy = clean_up(folder.path()).unwrap_err();
        assert_eq!(
            describe(TunnelError::Host(busy)),
            format!(
                "the tunnel cannot be started: TUN mode cannot be set up: no journal of changes to this host can be kept: {} is held by \
                 another process; only one tunnel on this host can use it",
                path("tun-changes.lock").display()
            )
        );
    }
}
