//! How the daemon starts: everything is read and bound before the first task runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use orfe_core::agent::{Agent, Start};
use orfe_platform::signals::Termination;
use orfe_protocol::desired::{DesiredState, Tunnel};
use orfe_protocol::id::BootId;
use orfe_protocol::key::NoisePrivateKey;
use orfe_supervisor::become_subreaper;
use orfe_tunnel::dial::Dialer;
use orfe_tunnel::proxy::{Limits, Outlet, Routes};
use orfe_tunnel_core::PrivateKey as WireGuardPrivateKey;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Daemon, now};
use crate::config::{Config, ContainersEnabled, TunnelMode};
use crate::control::status::Containers;
use crate::control::{PersonsProxy, Server, Services};
use crate::link::{InnerWay, Link, RegistryAddress};
use crate::run::children::Children;
use crate::run::containers::ContainersTask;
use crate::run::doors::Doors;
use crate::run::slot::Ways;
use crate::run::tunnel::{Ends, HostChoice, TunnelTask, clean_host};
use crate::run::{INPUTS, probes};
use crate::state::{Identity, RunningChild, StateFolder};

/// What is on the disk, and what nobody else may hold.
struct Opened {
    termination: Termination,
    desired: Option<DesiredState>,
    left_behind: Vec<RunningChild>,
    noise_key: NoisePrivateKey,
    wireguard_key: WireGuardPrivateKey,
    server: Server,
}

impl Opened {
    fn open(config: &Config, state: &StateFolder) -> anyhow::Result<Self> {
        Ok(Self {
            termination: Termination::new()?,
            desired: state.desired()?,
            left_behind: state.children()?,
            noise_key: state.noise_key()?,
            wireguard_key: state.wireguard_key()?,
            server: Server::bind(&config.control.value).map_err(|error| error.at(&config.control.value))?,
        })
    }
}

/// What the daemon's tasks are made of, beside the daemon itself.
struct Parts {
    doors: Doors,
    server: Server,
    services: Services,
    registry: RegistryAddress,
    wireguard_key: WireGuardPrivateKey,
    desired: watch::Receiver<Option<Tunnel>>,
    dialer: watch::Sender<Option<Arc<dyn Dialer>>>,
    containers_told: watch::Sender<Option<Containers>>,
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
        let opened = Opened::open(&config, &state)?;
        let (inputs, input_queue) = mpsc::channel(INPUTS);
        let (link_sender, link_events) = mpsc::channel(INPUTS);
        let (tunnel, desired) = watch::channel(None);
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
        clean_host(state.path()).await;
        let parts = Parts {
            doors,
            server: opened.server,
            services: Services::new(statuses, persons_proxy, outlet),
            registry: RegistryAddress {
                url: identity.registry_url.clone(),
                key: identity.registry_key,
                spki_pin: identity.spki_pin,
                proxy: config.http_proxy.value.proxy.clone(),
            },
            wireguard_key: opened.wireguard_key,
            desired,
            dialer,
            containers_told,
        };
        let inner = InnerWay {
            desired: parts.desired.clone(),
            dialers: ways.dialer.clone(),
        };
        let registry = parts.registry.clone();
        let tasks = TaskTracker::new();
        let mut daemon = Self {
            agent: Agent::new(core(&config, &identity, opened.desired), now()),
            link: Link::new(registry, opened.noise_key, inner, link_sender, tasks.clone()),
            link_events,
            inputs,
            input_queue,
            tunnel,
            routes,
            ways,
            slots: BTreeMap::new(),
            children: Children::new(&opened.left_behind),
            containers,
            status,
            termination: opened.termination,
            signals_seen: 0,
            hurry_orphans: CancellationToken::new(),
            tasks,
            stop: CancellationToken::new(),
            config,
            state,
            identity,
        };
        daemon.start_tasks(parts)?;
        for orphan in opened.left_behind {
            daemon.end_orphan(orphan).await?;
        }
        Ok(daemon)
    }

    fn start_tasks(&self, parts: Parts) -> anyhow::Result<()> {
        self.tasks.spawn(parts.doors.run(self.stop.clone()));
        let server = parts.server;
        self.spawn(server.run(parts.services, self.tasks.clone(), self.stop.clone()));
        self.start_containers(parts.desired.clone(), parts.containers_told);
        let tunnel = TunnelTask {
            desired: parts.desired,
            networks: self.state.path().join("networks.json"),
            ends: Ends {
                key: parts.wireguard_key,
                tcp_stack: self.config.tcp_stack.value,
                host: HostChoice::of(&self.config, self.state.path()),
                registry: parts.registry,
                dialer: parts.dialer,
                inputs: self.inputs.clone(),
            },
        };
        // It ends by itself when it is told to stop: it has to take back what it changed on this host.
        self.tasks.spawn(tunnel.run(self.stop.clone()));
        self.spawn(probes::watch_facts(self.inputs.clone()));
        let path = self.config.path.value.clone();
        self.spawn(probes::watch_terraform(path, self.inputs.clone()));
        let state = self.state.path().to_owned();
        self.spawn(probes::watch_disk(state, self.inputs.clone()));
        self.spawn(become_subreaper()?.run(self.stop.clone()));
        Ok(())
    }

    /// The way of workspace containers to Coder. The task ends by itself when it is told to stop: it has to take its
    /// container away.
    fn start_containers(
        &self,
        desired: watch::Receiver<Option<Tunnel>>,
        told: watch::Sender<Option<Containers>>,
    ) {
        if self.config.containers.enabled.value == ContainersEnabled::Off {
            return;
        }
        let task = ContainersTask::new(
            &self.config.containers,
            &self.identity,
            self.state.path(),
            Outlet::new(
                Limits::default(),
                self.ways.routes.clone(),
                self.ways.dialer.clone(),
            ),
            desired,
            told,
        );
        self.tasks.spawn(task.run(self.stop.clone()));
    }
}

/// What the core begins with.
fn core(config: &Config, identity: &Identity, desired: Option<DesiredState>) -> Start {
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
