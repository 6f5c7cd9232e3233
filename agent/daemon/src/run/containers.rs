//! Keeps ways from workspace containers to Coder, while there is a tunnel and a Docker engine.
//!
//! ```text
//!  workspace container ─443─► forwarder's container ─socket, port─► door ─policy─► tunnel ─► Coder
//!        network `orfe`, in which the forwarder bears Coder's names
//!
//!  workspace container ─443─► forwarder in this process ─policy─► tunnel ─► Coder
//!        default bridge, whose template leads Coder's names to `host-gateway`
//! ```
//!
//! The task makes true what is desired, looks again at intervals, and says in the status how it is. The second way is off by
//! default, and without it nothing listens on the host where the engine can mount a socket (`door`). When the daemon stops, the
//! forwarder's container goes; the network stays, because workspaces may be in it. After a
//! kill -9 the container stays too and is taken over by the next life, whose door is where it was.

mod door;
mod engine;
mod forwarder;
mod host_gateway;
mod image;
mod network;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use data_encoding::HEXLOWER;
use orfe_protocol::desired::Tunnel;
use orfe_tunnel::proxy::Outlet;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::door::DoorKeeper;
use self::engine::Engine;
use self::forwarder::Spec;
use self::host_gateway::HostGatewayKeeper;
use crate::config;
use crate::control::status::{Containers, ContainersState, HostGateway};
use crate::state::Identity;

/// How often it is looked whether container and network are still there.
const LOOK: Duration = Duration::from_secs(30);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(10);
/// Wait while no engine answers: many machines never have one.
const NO_DOCKER: Duration = Duration::from_secs(60);
/// How long taking the container away may hold up the daemon's end; the daemon waits 5 s for all its tasks.
const REMOVE_WITHIN: Duration = Duration::from_secs(4);
/// Why there is no way for containers.
#[derive(Debug, Clone)]
enum Trouble {
    /// There is no engine, or this user may not use it.
    NoEngine(String),
    /// The engine does not do what is asked of it, or this machine does not.
    Failed(String),
}

impl Trouble {
    fn reason(self) -> String {
        match self {
            Self::NoEngine(reason) | Self::Failed(reason) => reason,
        }
    }
}

/// The task, with what it keeps.
pub(super) struct ContainersTask {
    /// The Docker network.
    network: String,
    /// The image that is configured.
    image: Option<String>,
    /// The device's name.
    device: String,
    /// The forwarder's, which tells those of several agents on one machine apart.
    container: String,
    desired: watch::Receiver<Option<Tunnel>>,
    told: watch::Sender<Option<Containers>>,
    door: DoorKeeper,
    /// Where the owner wants it.
    host_gateway: Option<HostGatewayKeeper>,
    /// The image of this program, once it is made.
    made: Option<String>,
    /// Whether there may be a container of this life.
    is_up: bool,
}

/// What containers are to reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    names: BTreeSet<String>,
    ports: BTreeSet<u16>,
}

impl Wanted {
    fn of(tunnel: Option<&Tunnel>) -> Self {
        let mut wanted = Self::default();
        for (name, destination) in tunnel.iter().flat_map(|tunnel| &tunnel.names) {
            if !destination.ports.is_empty() {
                wanted.names.insert(name.to_string());
                wanted.ports.extend(&destination.ports);
            }
        }
        wanted
    }
}

impl ContainersTask {
    /// A task for the agent with this state folder.
    pub(super) fn new(
        config: &config::Containers,
        identity: &Identity,
        state: &Path,
        outlet: Outlet,
        desired: watch::Receiver<Option<Tunnel>>,
        told: watch::Sender<Option<Containers>>,
    ) -> Self {
        let host_gateway = match config.host_gateway.value {
            config::HostGateway::Off => None,
            config::HostGateway::On => Some(HostGatewayKeeper {
                outlet: outlet.clone(),
                listening: None,
            }),
        };
        Self {
            network: config.network.value.clone(),
            image: config.image.value.clone(),
            device: identity.name.to_string(),
            container: container_of(identity),
            desired,
            told,
            door: DoorKeeper {
                choice: config.door.value,
                folder: state.join("containers"),
                seat: state.join("door.json"),
                outlet,
                open: None,
            },
            host_gateway,
            made: None,
            is_up: false,
        }
    }

    /// Runs until it is told to stop, and takes its container away then.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let wanted = Wanted::of(self.desired.borrow_and_update().as_ref());
            let round = async {
                let pause = self.turn(&wanted).await;
                tokio::select! {
                    () = changed(&mut self.desired, &wanted) => {}
                    () = sleep(pause) => {}
                }
            };
            if stop.run_until_cancelled(round).await.is_none() {
                break;
            }
        }
        self.leave().await;
    }

    /// Makes true what is wanted, once. Gives the time after which to look again.
    async fn turn(&mut self, wanted: &Wanted) -> Duration {
        if wanted.names.is_empty() {
            self.leave().await;
            self.told.send_replace(None);
            return LOOK;
        }
        if self.told.borrow().is_none() {
            self.tell(wanted, ContainersState::Starting, None, None);
        }
        // What is asked of the engine makes large futures; on the heap they are there only while they are needed.
        let (made, host_gateway) = Box::pin(self.ensure(wanted)).await;
        let retries = host_gateway.as_ref().is_some_and(|way| way.reason.is_some());
        let (state, reason, pause) = match made {
            Ok(()) if retries => (ContainersState::Ready, None, RETRY),
            Ok(()) => (ContainersState::Ready, None, LOOK),
            Err(Trouble::NoEngine(reason)) => (ContainersState::NoDocker, Some(reason), NO_DOCKER),
            Err(Trouble::Failed(reason)) => (ContainersState::Failed, Some(reason), RETRY),
        };
        self.tell(wanted, state, reason, host_gateway);
        pause
    }

    /// Both ways; each may be there without the other, but the second is asked for in the container of the first.
    async fn ensure(&mut self, wanted: &Wanted) -> (Result<(), Trouble>, Option<HostGateway>) {
        let engine = match engine::connect().await {
            Ok(engine) => engine,
            Err(trouble) => {
                let reason = trouble.clone().reason();
                return (Err(trouble), self.without_engine(reason).await);
            }
        };
        let bridge = match self.host_gateway {
            Some(_) => Some(HostGatewayKeeper::bridge(&engine).await),
            None => None,
        };
        let shows_host_gateway = matches!(bridge, Some(Ok(_)));
        let made = self.ensure_forwarder(&engine, wanted, shows_host_gateway).await;
        let (Some(bridge), Some(keeper)) = (bridge, &mut self.host_gateway) else {
            return (made, None);
        };
        let found = async {
            made.clone()?;
            Ok((bridge?, engine.host_gateway(&self.container).await?))
        };
        let reason = match found.await {
            Ok((bridge, address)) => keeper.ensure(bridge, address, &wanted.ports).await.err(),
            Err(trouble) => {
                keeper.check().await;
                Some(Trouble::reason(trouble))
            }
        };
        let status = keeper.status(reason);
        (made, Some(status))
    }

    /// What is left of the second way while nothing can be asked.
    async fn without_engine(&mut self, reason: String) -> Option<HostGateway> {
        let keeper = self.host_gateway.as_mut()?;
        keeper.check().await;
        Some(keeper.status(Some(reason)))
    }

    async fn ensure_forwarder(
        &mut self,
        engine: &Engine,
        wanted: &Wanted,
        shows_host_gateway: bool,
    ) -> Result<(), Trouble> {
        let network = engine.ensure_network(&self.network).await?;
        let entrance = self.door.ensure(engine.home, &network).await?;
        let image = engine.ensure_image(self.image.as_deref(), &mut self.made).await?;
        let spec = Spec {
            network_name: &self.network,
            network: &network,
            container: &self.container,
            device: &self.device,
            names: &wanted.names,
            ports: &wanted.ports,
            entrance: &entrance,
            shows_host_gateway,
        };
        self.is_up = true;
        engine.ensure(&spec, &image).await
    }

    fn tell(
        &self,
        wanted: &Wanted,
        state: ContainersState,
        reason: Option<String>,
        host_gateway: Option<HostGateway>,
    ) {
        let news = Containers {
            state,
            network: self.network.clone(),
            names: wanted.names.iter().cloned().collect(),
            reason,
            host_gateway,
        };
        self.told.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&news);
            if changed {
                log(&news, told.as_ref());
                *told = Some(news);
            }
            changed
        });
    }

    /// Takes the container away and closes what listens.
    async fn leave(&mut self) {
        if std::mem::take(&mut self.is_up) {
            let container = &self.container;
            let removed = timeout(REMOVE_WITHIN, async {
                Box::pin(async { engine::connect().await?.remove(container).await }).await
            });
            match removed.await {
                Ok(Ok(())) => {}
                Ok(Err(trouble)) => {
                    tracing::warn!(container, reason = trouble.reason(), "the forwarder stays");
                }
                Err(_) => tracing::warn!(container, "the forwarder stays: no answer in time"),
            }
        }
        self.door.close().await;
        if let Some(keeper) = &mut self.host_gateway {
            keeper.close().await;
        }
    }
}

/// Name of the forwarder's container. Two registries may give two agents of one machine the same name, so the end of the id, which
/// is its random part, stands there, too.
fn container_of(identity: &Identity) -> String {
    let [.., a, b, c, d] = *identity.device.as_bytes();
    format!(
        "orfe-forwarder-{}-{}",
        identity.name,
        HEXLOWER.encode(&[a, b, c, d])
    )
}

/// Says what changed.
fn log(news: &Containers, known: Option<&Containers>) {
    if known.is_none_or(|known| (known.state, &known.reason) != (news.state, &news.reason)) {
        if let (Some(reason), ContainersState::Failed) = (&news.reason, news.state) {
            tracing::warn!(reason, "workspace containers cannot reach Coder");
        } else {
            tracing::info!(state = news.state.as_str(), "way of workspace containers");
        }
    }
    let known = known.and_then(|known| known.host_gateway.as_ref());
    let Some(way) = news.host_gateway.as_ref().filter(|way| known != Some(way)) else {
        return;
    };
    match (way.address, &way.reason) {
        (Some(address), _) => {
            tracing::info!(%address, ports = ?way.ports, "listening at the engine's host-gateway");
        }
        (None, reason) => tracing::warn!(reason, "nothing listens at the engine's host-gateway"),
    }
}

/// Waits until something else is wanted.
async fn changed(desired: &mut watch::Receiver<Option<Tunnel>>, wanted: &Wanted) {
    let differs = |tunnel: &Option<Tunnel>| Wanted::of(tunnel.as_ref()) != *wanted;
    if desired.wait_for(differs).await.is_err() {
        // The daemon is on its way out and says so by the token.
        std::future::pending::<()>().await;
    }
}
