//! Keeps one tunnel as it is desired.
//!
//! The task resolves the gateway's names, starts the tunnel, publishes its dialer for the proxies, and tells the core how
//! it is. A changed desire replaces the tunnel; a gateway that only began a new life is shaken hands with at once.
//!
//! | module | what |
//! |---|---|
//! | `keep` | one tunnel: the loop around [`orfe_tunnel_core::ladder`], which decides the carrier |
//! | `waits` | what that loop waits for |
//! | `start` | what a tunnel is made of, and attempts to have it |
//! | `rungs` | what the rungs of the ladder are made of: addresses, and the bridge to the registry's WebSocket |
//! | `memory` | which rung worked on which network |
//! | `shown` | the status that comes of it |
//! | `host` | TUN mode: routes, bridges, names |
//! | `bridges` | TUN mode: when bridges that are new are let in |
//! | `obstacle` | what stands in the way, in words: no network, a captive portal, blocked UDP |

mod bridges;
mod host;
mod keep;
mod memory;
mod obstacle;
mod rungs;
mod shown;
mod start;
mod waits;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orfe_core::agent::Input;
use orfe_protocol::desired::Tunnel as Desired;
use orfe_protocol::observed::{TunnelMode, TunnelStatus};
use orfe_tunnel::dial::Dialer;
use orfe_tunnel::{PrivateKey, TcpStack};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(super) use self::host::{HostChoice, clean_host};
use self::keep::Keeper;
use self::memory::Memory;
use self::rungs::Rungs;
use self::start::start;
use crate::link::RegistryAddress;

/// Wait before the gateway's name is resolved again, or the socket opened again.
const RETRY: Duration = Duration::from_secs(2);

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
    let (tunnel, registry) = match start(ends, desired, &mut rungs, unwanted.as_mut()).await {
        ControlFlow::Continue(started) => started,
        ControlFlow::Break(another) => return another,
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use orfe_protocol::desired::Gateway;
    use orfe_protocol::id::InstanceId;
    use orfe_protocol::key::{NoisePrivateKey, WireGuardPublicKey};

    use super::*;

    /// A gateway that nobody is at.
    pub(super) fn desired() -> Desired {
        Desired {
            addresses: vec!["100.64.0.7".parse().unwrap()],
            gateway: Gateway {
                public_key: WireGuardPublicKey::from_bytes([9; 32]),
                endpoints: vec!["127.0.0.1:9".into()],
                websocket: None,
                addresses: vec!["100.64.0.1".parse().unwrap()],
                registry: None,
                instance: InstanceId::from_bytes([1; 16]),
            },
            keepalive_s: 25,
            names: std::collections::BTreeMap::new(),
            networks: vec![],
            dns_suffixes: vec![],
        }
    }

    #[test]
    fn a_tunnel_that_is_unwanted_while_it_starts_is_ended_before_anything_else() {
        // The one thread that blocks is held, and so is the start of the tunnel.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let holding = tokio::task::spawn_blocking(move || held.recv().is_err());

            let folder = tempfile::tempdir().unwrap();
            let (dialer, mut dialers) = watch::channel(None);
            let (inputs, mut told) = mpsc::channel(16);
            let (_desires, desired) = watch::channel(Some(desired()));
            let task = TunnelTask {
                desired,
                networks: folder.path().join("networks.json"),
                ends: Ends {
                    key: PrivateKey::generate(),
                    tcp_stack: TcpStack::Smoltcp,
                    host: None,
                    registry: RegistryAddress {
                        url: "https://orfe.example.com".parse().unwrap(),
                        key: NoisePrivateKey::generate().unwrap().public_key(),
                        spki_pin: None,
                        proxy: None,
                    },
                    dialer,
                    inputs,
                },
            };
            let stop = CancellationToken::new();
            let mut running = pin!(task.run(stop.clone()));
            assert!(running.as_mut().now_or_never().is_none(), "it starts");
            assert!(matches!(told.try_recv(), Ok(Input::Tunnel(Some(_)))));
            stop.cancel();
            assert!(
                running.as_mut().now_or_never().is_none(),
                "the start is waited for"
            );
            assert!(!dialers.has_changed().unwrap());

            drop(release);
            assert!(holding.await.unwrap());
            running.await;
            dialers.changed().await.expect("the tunnel came");
            assert!(dialers.borrow().is_none(), "and went");
        });
    }
}
