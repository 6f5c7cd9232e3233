//! Keeps a way from workspace containers to Coder, while there is a tunnel and a Docker engine.
//!
//! ```text
//!  workspace container ─443─► forwarder's container ─unix socket─► door ─policy─► tunnel ─► Coder
//!        network `orfe`, in which the forwarder bears Coder's names
//! ```
//!
//! The task makes true what is desired, looks again at intervals, and says in the status how it is. Nothing listens on the
//! host. When the daemon stops, the forwarder's container goes; the network stays, because workspaces may be in it. After a
//! kill -9 the container stays too and is taken over by the next life, whose door is in the same folder.

mod engine;
mod image;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orfe_platform::private;
use orfe_protocol::desired::Tunnel;
use orfe_tunnel::dial::Dialer;
use orfe_tunnel::proxy::{Door, Limits, Routes};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::engine::{Spec, Trouble};
use crate::control::status::{Containers, ContainersState};

/// How often it is looked whether container and network are still there.
const LOOK: Duration = Duration::from_secs(30);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(10);
/// Wait while no engine answers: many machines never have one.
const NO_DOCKER: Duration = Duration::from_secs(60);
/// How long taking the container away may hold up the daemon's end; the daemon waits 5 s for all its tasks.
const REMOVE_WITHIN: Duration = Duration::from_secs(4);
/// Name of the door in its folder.
pub(super) const DOOR: &str = "door.sock";

/// The ends of the channels that the task speaks through, and what is configured.
pub(super) struct ContainersTask {
    /// The Docker network.
    pub(super) network: String,
    /// The device's name, which tells forwarders of several agents on one machine apart.
    pub(super) device: String,
    /// The folder that is mounted into the forwarder; it holds the door and nothing else.
    pub(super) folder: PathBuf,
    pub(super) desired: watch::Receiver<Option<Tunnel>>,
    pub(super) routes: watch::Receiver<Arc<Routes>>,
    pub(super) dialer: watch::Receiver<Option<Arc<dyn Dialer>>>,
    pub(super) told: watch::Sender<Option<Containers>>,
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
    /// Runs until it is told to stop, and takes its container away then.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut door = None;
        let mut tag = None;
        loop {
            let wanted = Wanted::of(self.desired.borrow_and_update().as_ref());
            let round = async {
                let pause = self.turn(&wanted, &mut door, &mut tag).await;
                tokio::select! {
                    () = changed(&mut self.desired, &wanted) => {}
                    () = sleep(pause) => {}
                }
            };
            if stop.run_until_cancelled(round).await.is_none() {
                break;
            }
        }
        self.leave(door).await;
    }

    /// Makes true what is wanted, once. Gives the time after which to look again.
    async fn turn(&self, wanted: &Wanted, door: &mut Option<Door>, tag: &mut Option<String>) -> Duration {
        if wanted.names.is_empty() {
            self.leave(door.take()).await;
            self.told.send_replace(None);
            return LOOK;
        }
        if self.told.borrow().is_none() {
            self.tell(wanted, ContainersState::Starting, None);
        }
        match self.ensure(wanted, door, tag).await {
            Ok(()) => {
                self.tell(wanted, ContainersState::Ready, None);
                LOOK
            }
            Err(Trouble::NoEngine(reason)) => {
                self.tell(wanted, ContainersState::NoDocker, Some(reason));
                NO_DOCKER
            }
            Err(Trouble::Failed(reason)) => {
                self.tell(wanted, ContainersState::Failed, Some(reason));
                RETRY
            }
        }
    }

    async fn ensure(
        &self,
        wanted: &Wanted,
        door: &mut Option<Door>,
        tag: &mut Option<String>,
    ) -> Result<(), Trouble> {
        let engine = Box::pin(engine::connect()).await?;
        if door.is_none() {
            *door = Some(self.open_door()?);
        }
        let spec = Spec {
            network: &self.network,
            container: &self.container(),
            device: &self.device,
            folder: &self.folder,
            names: &wanted.names,
            ports: &wanted.ports,
        };
        // What is asked of the engine makes large futures; on the heap they are there only while they are needed.
        Box::pin(engine.ensure(&spec, tag)).await
    }

    fn open_door(&self) -> Result<Door, Trouble> {
        let failed = |error: &dyn std::error::Error| {
            let cause = error
                .source()
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            Trouble::Failed(format!("{error}{cause}"))
        };
        private::create_dir(&self.folder).map_err(|error| failed(&error))?;
        Door::open(
            &self.folder.join(DOOR),
            Limits::default(),
            self.routes.clone(),
            self.dialer.clone(),
        )
        .map_err(|error| failed(&error))
    }

    /// Name of the forwarder's container.
    fn container(&self) -> String {
        format!("orfe-forwarder-{}", self.device)
    }

    fn tell(&self, wanted: &Wanted, state: ContainersState, reason: Option<String>) {
        let news = Containers {
            state,
            network: self.network.clone(),
            names: wanted.names.iter().cloned().collect(),
            reason,
        };
        self.told.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&news);
            if changed {
                if let (Some(reason), ContainersState::Failed) = (&news.reason, state) {
                    tracing::warn!(reason, "workspace containers cannot reach Coder");
                } else {
                    tracing::info!(state = state.as_str(), "way of workspace containers");
                }
                *told = Some(news);
            }
            changed
        });
    }

    /// Takes the container away and closes the door. Without a door there was never a container of this life.
    async fn leave(&self, door: Option<Door>) {
        let Some(door) = door else { return };
        let removed = timeout(REMOVE_WITHIN, async {
            Box::pin(async { engine::connect().await?.remove(&self.container()).await }).await
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(Trouble::NoEngine(reason) | Trouble::Failed(reason))) => {
                tracing::warn!(container = self.container(), reason, "the forwarder stays");
            }
            Err(_) => tracing::warn!(
                container = self.container(),
                "the forwarder stays: no answer in time"
            ),
        }
        door.shutdown().await;
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
