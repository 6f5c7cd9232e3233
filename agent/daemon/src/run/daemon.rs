//! The event loop: inputs to the core, its commands to the shells.

mod policy_table;
mod shown;
mod start;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orfe_core::agent::{Agent, ChildPlan, Command, Input};
use orfe_core::time::Now;
use orfe_platform::signals::Termination;
use orfe_protocol::desired::{DesiredState, Tunnel};
use orfe_tunnel::proxy::Routes;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::GRACE;
use super::children::{Children, end_orphan};
use super::slot::{SlotShell, Ways};
use crate::config::Config;
use crate::control::status::{Containers, Status};
use crate::failure::{self, Failure};
use crate::link::{Link, LinkEvent};
use crate::state::{Identity, RunningChild, StateFolder};

/// The running daemon; see the module above.
pub(crate) struct Daemon {
    config: Config,
    state: StateFolder,
    identity: Identity,
    agent: Agent,
    link: Link,
    link_events: mpsc::Receiver<(u64, LinkEvent)>,
    inputs: mpsc::Sender<Input>,
    input_queue: mpsc::Receiver<Input>,
    tunnel: watch::Sender<Option<Tunnel>>,
    routes: watch::Sender<Arc<Routes>>,
    ways: Ways,
    slots: BTreeMap<u8, SlotShell>,
    children: Children,
    containers: watch::Receiver<Option<Containers>>,
    status: watch::Sender<Option<Status>>,
    termination: Termination,
    signals_seen: u32,
    /// Cancelled when orphans are not to finish their jobs.
    hurry_orphans: CancellationToken,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Daemon {
    /// A task that ends when the daemon does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks
            .spawn(async move { stop.run_until_cancelled(task).await });
    }

    /// Runs until it is told to stop and everything is at rest.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        tracing::info!(device = %self.identity.name, version = env!("CARGO_PKG_VERSION"), "orfe is running");
        let outcome = self.turn_until_stopped().await;
        self.close().await;
        outcome
    }

    async fn turn_until_stopped(&mut self) -> anyhow::Result<()> {
        loop {
            while let Some(command) = self.agent.poll_command() {
                if command == Command::Stopped {
                    return Ok(());
                }
                self.carry_out(command).await;
            }
            self.publish();
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let timer = self.agent.poll_timeout();
        let timer = async {
            match timer {
                Some((at, why)) => {
                    sleep_until(at.into()).await;
                    why
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = self.termination.recv() => {
                self.signals_seen += 1;
                tracing::info!(?signal, "stopping");
                let input = if self.signals_seen == 1 { Input::Stop } else { Input::StopNow };
                self.agent.handle(input, now());
            }
            Ok(()) = self.containers.changed() => {}
            Some((session, event)) = self.link_events.recv() => self.handle_link(session, event),
            Some(input) = self.input_queue.recv() => self.handle_input(input),
            why = timer => {
                tracing::trace!(why, "timer");
                self.agent.handle_timeout(now());
            }
        }
    }

    fn handle_link(&mut self, session: u64, event: LinkEvent) {
        if !self.link.is_current(session) {
            return;
        }
        let input = match event {
            LinkEvent::Connected => Input::LinkConnected,
            LinkEvent::Message(message) => Input::LinkMessage(message),
            LinkEvent::Closed(closed) => {
                tracing::warn!(reason = %closed, "not connected to the registry");
                Input::LinkClosed(closed)
            }
        };
        self.agent.handle(input, now());
    }

    fn handle_input(&mut self, input: Input) {
        if let Input::ChildExited { slot, .. } | Input::OrphanGone { slot } = &input {
            self.children.ended(&self.state, *slot);
            if let Some(shell) = self.slots.get_mut(slot) {
                shell.ended();
            }
        }
        self.agent.handle(input, now());
    }

    async fn carry_out(&mut self, command: Command) {
        match command {
            Command::Connect => self.link.connect(),
            Command::Send(message) => self.link.send(message),
            Command::CloseLink => self.link.close(),
            Command::StoreDesired(desired) => self.store(&desired),
            Command::ApplyTunnel(tunnel) => self.apply_tunnel(tunnel.map(|tunnel| *tunnel)),
            Command::Spawn(plan) => self.spawn_child(&plan).await,
            Command::Drain { slot } => self.with_slot(slot, SlotShell::drain),
            Command::Kill { slot } => self.with_slot(slot, |shell| shell.kill(&self.tasks)),
            Command::Cut { slot } => self.with_slot(slot, SlotShell::cut),
            Command::KillOrphans => self.hurry_orphans.cancel(),
            Command::ForgetDesired => self.forget_desired(),
            // Handled by the caller, which ends the loop.
            Command::Stopped => {}
        }
    }

    fn with_slot(&self, slot: u8, act: impl FnOnce(&SlotShell)) {
        if let Some(shell) = self.slots.get(&slot) {
            act(shell);
        }
    }

    fn store(&self, desired: &DesiredState) {
        tracing::info!(revision = %desired.revision, "new desired state");
        if let Err(error) = self.state.store_desired(desired) {
            // It is made true all the same; only a restart without the registry would miss it.
            tracing::error!(
                error = failure::one_line(&error),
                "the desired state cannot be kept on disk"
            );
        }
    }

    fn forget_desired(&self) {
        tracing::warn!("this device was revoked; forgetting what was desired of it");
        if let Err(error) = self.state.forget_desired() {
            tracing::error!(
                error = failure::one_line(&error),
                "the desired state stays on disk"
            );
        }
    }

    fn apply_tunnel(&mut self, tunnel: Option<Tunnel>) {
        self.routes.send_replace(Arc::new(policy_table::routes(
            tunnel.as_ref(),
            self.config.http_proxy.value.proxy.clone(),
        )));
        self.tunnel.send_replace(tunnel);
    }

    async fn spawn_child(&mut self, plan: &ChildPlan) {
        let slot = plan.slot;
        let input = match self.start_child(plan).await {
            Ok(pid) => {
                tracing::info!(slot, pid, name = plan.name, "provisioner started");
                Input::ChildSpawned { slot, pid }
            }
            // Logged with the change of the slot's state.
            Err(reason) => Input::ChildSpawnFailed { slot, reason },
        };
        self.agent.handle(input, now());
    }

    async fn start_child(&mut self, plan: &ChildPlan) -> Result<u32, String> {
        self.open_slot(plan.slot)
            .await
            .map_err(|failure| failure::one_line(&failure))?;
        let shell = self.slots.get_mut(&plan.slot).ok_or("its slot is closed")?;
        let id = shell.spawn(plan, &self.config, &self.inputs, &self.tasks)?;
        self.children.started(&self.state, plan.slot, id);
        Ok(id.pid)
    }

    async fn open_slot(&mut self, slot: u8) -> Result<&mut SlotShell, Failure> {
        match self.slots.entry(slot) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(SlotShell::open(&self.state, slot, &self.ways).await?)),
        }
    }

    /// Begins to end what an earlier life left in a slot. Its proxy is opened first: the orphan still dials through it.
    async fn end_orphan(&mut self, orphan: RunningChild) -> Result<(), Failure> {
        let slot = orphan.slot;
        let folders = self.open_slot(slot).await?.folders().clone();
        self.agent.handle(Input::OrphanLeft { slot }, now());
        let (limit, inputs) = (self.config.drain_timeout.value, self.inputs.clone());
        let hurry = self.hurry_orphans.clone();
        self.spawn(async move {
            let in_peace = end_orphan(orphan.clone(), folders.clone(), limit);
            let ended = match hurry.run_until_cancelled(in_peace).await {
                Some(ended) => ended,
                None => end_orphan(orphan, folders, Duration::ZERO).await,
            };
            let input = match ended {
                Ok(_) => Input::OrphanGone { slot },
                Err(failure) => {
                    let error = failure::one_line(&failure);
                    tracing::error!(slot, error, "nothing can be started in this slot");
                    Input::OrphanStays { slot }
                }
            };
            // The daemon drops its end only when it is done.
            let _ = inputs.send(input).await;
        });
        Ok(())
    }

    /// Ends every task and waits for them; runs however the loop ended.
    async fn close(mut self) {
        self.link.close();
        self.stop.cancel();
        self.tasks.close();
        for (_, shell) in std::mem::take(&mut self.slots) {
            shell.close().await;
        }
        if timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "tasks did not end in time");
        }
        tracing::info!("orfe has stopped");
    }
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: Timestamp::now(),
    }
}
