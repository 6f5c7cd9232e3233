//! The event loop: inputs to the core, its commands to the shells.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orfe_core::agent::{Agent, ChildPlan, Command, Input, Start};
use orfe_core::session::LinkState;
use orfe_core::time::Now;
use orfe_platform::signals::Termination;
use orfe_protocol::desired::{DesiredState, Tunnel};
use orfe_protocol::id::BootId;
use orfe_supervisor::become_subreaper;
use orfe_tunnel::dial::Dialer;
use orfe_tunnel::proxy::{Limits, Outlet, Routes, TunnelWanted};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::children::{Children, end_orphan};
use super::containers::ContainersTask;
use super::doors::Doors;
use super::slot::{SlotShell, Ways};
use super::tunnel::{Ends, HostChoice, TunnelTask};
use super::{GRACE, INPUTS, probes};
use crate::config::{Config, ContainersEnabled, TunnelMode};
use crate::control::status::{self, Containers, Device, Registry, Status};
use crate::control::{PersonsProxy, Server, Services};
use crate::failure::{self, Failure};
use crate::link::{InnerWay, Link, LinkEvent, RegistryAddress};
use crate::proxy_env::owners_proxy;
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
    /// Opens everything and starts every task; the first command is carried out in [`Daemon::run`].
    pub(crate) async fn start(
        config: Config,
        state: StateFolder,
        identity: Identity,
    ) -> anyhow::Result<Self> {
        if let Err(error) = orfe_platform::process::set_non_dumpable() {
            tracing::warn!(%error, "other processes of this user may read this one's memory");
        }
        let termination = Termination::new()?;
        let desired = state.desired()?;
        let left_behind = state.children()?;
        let (noise_key, wireguard_key) = (state.noise_key()?, state.wireguard_key()?);
        let server = Server::bind(&config.control.value).map_err(|error| {
            Failure::new("the daemon cannot be spoken to")
                .hint(error.hint())
                .because(error)
        })?;

        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (inputs, input_queue) = mpsc::channel(INPUTS);
        let (link_sender, link_events) = mpsc::channel(INPUTS);
        let (tunnel, tunnel_desired) = watch::channel(None);
        let (dialer, dialers) = watch::channel::<Option<Arc<dyn Dialer>>>(None);
        let (routes, route_tables) = watch::channel(Arc::new(Routes::default()));
        let (status, statuses) = watch::channel(None);
        let (containers_told, containers) = watch::channel(None);
        let (proxy_told, persons_proxy) = watch::channel(PersonsProxy::Off);
        let ways = Ways {
            routes: route_tables,
            dialer: dialers,
        };
        let doors = Doors::new(&config, &state, ways.clone(), proxy_told)?;
        let outlet = Outlet::new(Limits::default(), ways.routes.clone(), ways.dialer.clone());
        let services = Services::new(statuses, persons_proxy, outlet);
        let registry = RegistryAddress {
            url: identity.registry_url.clone(),
            key: identity.registry_key,
            spki_pin: identity.spki_pin,
        };
        super::tunnel::clean_host(state.path()).await;
        let host = HostChoice::of(&config, state.path());
        let inner = InnerWay {
            desired: tunnel_desired.clone(),
            dialers: ways.dialer.clone(),
        };
        let agent = Agent::new(start(&config, &identity, desired), now());
        let mut daemon = Self {
            agent,
            link: Link::new(registry.clone(), noise_key, inner, link_sender, tasks.clone()),
            link_events,
            inputs: inputs.clone(),
            input_queue,
            tunnel,
            routes,
            ways,
            slots: BTreeMap::new(),
            children: Children::new(&left_behind),
            containers,
            status,
            termination,
            signals_seen: 0,
            hurry_orphans: CancellationToken::new(),
            tasks,
            stop,
            config,
            state,
            identity,
        };
        daemon.tasks.spawn(doors.run(daemon.stop.clone()));
        daemon.spawn(server.run(services, daemon.tasks.clone(), daemon.stop.clone()));
        daemon.start_containers(tunnel_desired.clone(), containers_told);
        daemon.spawn(
            TunnelTask {
                desired: tunnel_desired,
                networks: daemon.state.path().join("networks.json"),
                ends: Ends {
                    key: wireguard_key,
                    tcp_stack: daemon.config.tcp_stack.value,
                    host,
                    registry,
                    dialer,
                    inputs: inputs.clone(),
                },
            }
            .run(),
        );
        daemon.spawn(probes::watch_facts(inputs.clone()));
        daemon.spawn(probes::watch_terraform(
            daemon.config.path.value.clone(),
            inputs.clone(),
        ));
        daemon.spawn(probes::watch_disk(daemon.state.path().to_owned(), inputs));
        daemon.spawn(become_subreaper()?.run(daemon.stop.clone()));
        for orphan in left_behind {
            daemon.end_orphan(orphan).await?;
        }
        Ok(daemon)
    }

    /// The way of workspace containers to Coder. The task ends by itself when it is told to stop: it has to take its
    /// container away.
    fn start_containers(
        &self,
        desired: watch::Receiver<Option<Tunnel>>,
        told: watch::Sender<Option<Containers>>,
    ) {
        if self.config.containers.value == ContainersEnabled::Off {
            return;
        }
        let task = ContainersTask {
            network: self.config.container_network.value.clone(),
            device: self.identity.name.to_string(),
            folder: self.state.path().join("containers"),
            desired,
            routes: self.ways.routes.clone(),
            dialer: self.ways.dialer.clone(),
            told,
        };
        self.tasks.spawn(task.run(self.stop.clone()));
    }

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
        self.routes.send_replace(Arc::new(routes(tunnel.as_ref())));
        self.tunnel.send_replace(tunnel);
    }

    async fn spawn_child(&mut self, plan: &ChildPlan) {
        let slot = plan.slot;
        let input = match self.start_child(plan).await {
            Ok(pid) => {
                tracing::info!(slot, pid, name = plan.name, "provisioner started");
                Input::ChildSpawned { slot, pid }
            }
            Err(reason) => {
                tracing::error!(slot, reason, "provisioner cannot be started");
                Input::ChildSpawnFailed { slot, reason }
            }
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

    fn publish(&self) {
        let status = self.status_now();
        self.status.send_if_modified(|published| {
            let changed = published.as_ref() != Some(&status);
            if changed {
                *published = Some(status);
            }
            changed
        });
    }

    fn status_now(&self) -> Status {
        let observed = self.agent.observed();
        let (state, reason) = match self.agent.link() {
            LinkState::Off => ("off", None),
            LinkState::Connecting => ("connecting", None),
            LinkState::Connected => ("connected", None),
            LinkState::Waiting { reason, .. } => ("waiting", Some(reason)),
        };
        Status {
            version: status::VERSION,
            device: Device {
                id: self.identity.device,
                name: self.agent.name().clone(),
                agent_version: observed.agent_version.clone(),
            },
            health: observed.health,
            registry: Registry {
                url: self.identity.registry_url.clone(),
                state: state.to_owned(),
                reason,
            },
            checks: observed.checks.clone(),
            tunnel: observed.tunnel.clone(),
            tunnel_off: tunnel_off(&self.config),
            provisioners: observed.provisioners.clone(),
            containers: self.containers.borrow().clone(),
            state: self.state.path().to_owned(),
            tags: observed.tags.clone(),
            facts: observed.facts.clone(),
            desired: observed.desired,
            started_at: observed.started_at,
            pid: std::process::id(),
        }
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

fn start(config: &Config, identity: &Identity, desired: Option<DesiredState>) -> Start {
    Start {
        enrolled: true,
        name: identity.name.clone(),
        boot: BootId::generate(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        desired,
        drain_timeout: config.drain_timeout.value,
        tunnel_off: config.tunnel_mode.value == TunnelMode::Off,
        rng: StdRng::from_os_rng(),
    }
}

/// Why there is no tunnel whatever the registry wants.
fn tunnel_off(config: &Config) -> Option<String> {
    let mode = &config.tunnel_mode;
    (mode.value == TunnelMode::Off).then(|| {
        format!(
            "chosen on this machine ({}); names of the policy are reached as any other",
            mode.origin
        )
    })
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: Timestamp::now(),
    }
}

/// The proxies' table: names of policy go through the tunnel, or nowhere.
fn routes(tunnel: Option<&Tunnel>) -> Routes {
    let mut routes = Routes::new(if tunnel.is_some() {
        TunnelWanted::Wanted
    } else {
        TunnelWanted::Off
    });
    for (name, destination) in tunnel.iter().flat_map(|tunnel| &tunnel.names) {
        if let Err(error) = routes.add_name(
            name.as_str(),
            destination.address,
            destination.ports.iter().copied(),
        ) {
            tracing::warn!(%name, %error, "a name of the policy cannot be used");
        }
        routes.allow_datagrams(name.as_str(), destination.udp_ports.iter().copied());
    }
    for entry in tunnel.iter().flat_map(|tunnel| &tunnel.networks) {
        match entry.network.parse() {
            Ok(network) => routes.add_network(
                network,
                entry.ports.iter().copied(),
                entry.udp_ports.iter().copied(),
            ),
            Err(error) => {
                tracing::warn!(network = entry.network, %error, "a network of the policy cannot be used");
            }
        }
    }
    routes.set_upstream_proxy(owners_proxy());
    routes
}
