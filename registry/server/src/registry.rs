//! A whole registry: started from a [`Config`], stopped on request.
//!
//! Starting opens things in an order in which nothing answers before it can do its work: state folder and lock,
//! keys, database, fleet, gateway, and the listeners last. Whatever fails, what was opened before it is closed again
//! and the error says which address, file or key it was.
//!
//! Stopping: nothing new is accepted, every session is closed with "going away", what devices said last is
//! written, the gateway and the database are closed. Tasks that are not done within [`GRACE`] are abandoned and
//! counted in the log.

mod error;
mod listeners;
mod plan;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orfe_store::Store;
use orfe_tunnel::Shards;
use orfe_tunnel_core::{Rate, SourceLimiter};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::error::StartError;
use self::listeners::{Listeners, bind_admin, log_served, serve_plain};
use self::plan::{endpoint, make_plan, public_url, site_policy};
use crate::admin::{self, Admin};
use crate::api;
use crate::config::Config;
use crate::dashboard::{self, Access};
use crate::desired::{Digester, Plan};
use crate::fleet::{Fleet, Patience};
use crate::gateway::{self, GatewayRole, GatewayTask};
use crate::joining::Joining;
use crate::listener;
use crate::people::People;
use crate::recorder::Recorder;
use crate::rotation::GatewayKeys;
use crate::routes;
use crate::shared::Shared;
use crate::state_folder::{StateFolder, admin_socket};
use crate::tls::{self, Tls};

/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// How often devices are looked at whose time may have run out.
const SWEEP: Duration = Duration::from_secs(1);

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
    admin: Arc<Admin>,
    plan: watch::Sender<Arc<Plan>>,
    https: SocketAddr,
    wireguard: Option<SocketAddr>,
    /// Holds the lock until everything else has ended.
    folder: StateFolder,
    /// Tasks that write what the sessions leave behind; they end after the sessions.
    writers: TaskTracker,
    writers_stop: CancellationToken,
}

impl Registry {
    /// Starts a registry; when this returns, everything answers.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let folder = StateFolder::open(&config.data)?;
        let store = Store::open(&folder.database()).await?;
        let fleet = load_fleet(&store, config).await?;
        let listeners = Listeners::bind(config).await?;
        let public_url = public_url(config, listeners.https)?;
        let tls = if let Some(pem) = &config.tls {
            tls::configured(pem)?
        } else {
            let host = public_url.host_str().unwrap_or("localhost");
            tls::own(&folder.path, host, !fleet.admitted().is_empty())?
        };
        let (gateway, gateway_task) = if config.tunnel {
            let keys = GatewayKeys::open(&folder.path, folder.wireguard_key.clone())?;
            let policy = Arc::new(site_policy(&store, config, listeners.https).await?);
            let shards = config
                .gateway_threads
                .map_or_else(Shards::for_this_machine, Shards::new);
            let (role, task) = gateway::start(
                keys,
                config.wireguard,
                &config.wireguard_also,
                shards,
                config.gateway_tcp_stack,
                policy,
            )?;
            (Some(Arc::new(role)), Some(task))
        } else {
            (None, None)
        };
        let (plan, plan_receiver) =
            watch::channel(Arc::new(make_plan(config, gateway.as_deref(), &public_url)));
        let endpoint = gateway
            .as_deref()
            .map_or_else(String::new, |gateway| endpoint(config, gateway, &public_url));
        let wireguard = gateway.as_ref().map(|gateway| gateway.local_addr);
        let people = People::new(store.peers().list().await?);
        let joining = Joining::load(&store.join_codes().list().await?, Timestamp::now());
        let shared = Arc::new(Shared {
            people,
            joining,
            ..share(config, &folder, store, fleet, plan_receiver, gateway)
        });
        shared.admit_to_gateway();
        let admin = Arc::new(Admin {
            shared: shared.clone(),
            public_url,
            pin: tls.pin,
            access: Access::new(Arc::new(Timestamp::now)),
            dashboard_url: format!("http://{}", listeners.dashboard),
            endpoint,
            plan: plan.clone(),
        });
        let registry = Self {
            https: listeners.https,
            wireguard,
            shared,
            admin,
            plan,
            folder,
            writers: TaskTracker::new(),
            writers_stop: CancellationToken::new(),
        };
        registry.spawn(listeners, tls, gateway_task)?;
        Ok(registry)
    }

    /// The live fleet.
    pub fn fleet(&self) -> Fleet {
        self.shared.fleet.clone()
    }

    /// Where everything is, with a new one-time link into the dashboard.
    pub fn ready(&self) -> api::Ready {
        api::Ready {
            version: api::VERSION,
            https: self.https,
            public_url: self.admin.public_url.as_str().trim_end_matches('/').to_owned(),
            wireguard: self.wireguard,
            dashboard: self.admin.link(),
            data: self.folder.path.clone(),
            pid: std::process::id(),
        }
    }

    /// States what is desired anew, from a changed configuration: what provisioners connect to, how many there are
    /// and what they need. Addresses, keys and policy stay as they were at the start.
    pub fn reconfigure(&self, config: &Config) {
        self.plan.send_if_modified(|plan| {
            let next = Plan {
                coder: config.coder.clone(),
                slots: config.slots,
                docker_required: config.docker_required,
                tunnel: plan.tunnel.clone(),
            };
            let changed = **plan != next;
            *plan = Arc::new(next);
            changed
        });
    }

    /// Stops everything, in order.
    pub async fn shutdown(self) {
        let started = Instant::now();
        self.shared.shutdown.cancel();
        self.shared.tasks.close();
        finish(&self.shared.tasks, "sessions and listeners").await;
        self.writers_stop.cancel();
        self.writers.close();
        finish(&self.writers, "writers").await;
        self.shared.store.close().await;
        // The socket of a registry that runs no more would only mislead.
        if let Err(error) = fs_err::remove_file(admin_socket(&self.folder.path)) {
            tracing::debug!(error = crate::chain(&error), "the admin socket was not removed");
        }
        tracing::info!(
            duration_ms = started.elapsed().as_millis() as u64,
            "registry stopped"
        );
    }

    fn spawn(
        &self,
        listeners: Listeners,
        tls: Tls,
        gateway_task: Option<GatewayTask>,
    ) -> Result<(), StartError> {
        let (shared, tasks) = (&self.shared, &self.shared.tasks);
        let stop = &shared.shutdown;
        let admin_listener = bind_admin(&self.folder)?;

        let agents = routes::router(shared.clone());
        tasks.spawn(listener::serve(
            listeners.https_listener,
            tls.server,
            agents,
            tasks.clone(),
            stop.clone(),
        ));
        let pages = dashboard::router(
            shared.fleet.clone(),
            self.admin.access.clone(),
            listeners.dashboard.port(),
            stop.clone(),
        );
        let dashboard_stop = stop.clone();
        tasks.spawn(serve_plain(listeners.dashboard_listener, pages, dashboard_stop));
        let (routes, admin_stop) = (admin::router(self.admin.clone()), stop.clone());
        tasks.spawn(async move {
            let served =
                axum::serve(admin_listener, routes).with_graceful_shutdown(admin_stop.cancelled_owned());
            log_served("admin socket", served.await);
        });
        tasks.spawn(sweep(shared.fleet.clone(), stop.clone()));
        if let (Some(mut task), Some(role)) = (gateway_task, &shared.gateway) {
            task.tell();
            let renewing = shared.clone();
            let renew = move || renewing.admit_to_gateway();
            tasks.spawn(task.run(role.clone(), shared.fleet.clone(), renew, stop.clone()));
        }
        let (writer, writer_stop) = (shared.clone(), self.writers_stop.clone());
        self.writers
            .spawn(async move { writer.recorder.run(&writer.store, &writer_stop).await });
        Ok(())
    }
}

async fn load_fleet(store: &Store, config: &Config) -> Result<Fleet, StartError> {
    let patience = Patience {
        hold_down: config.session.hold_down,
        start_grace: config.session.start_grace,
    };
    let fleet = Fleet::new(patience);
    let mut observed = store.devices().last_observed().await?;
    let now = Instant::now();
    for device in store.devices().list().await? {
        let observed = observed.remove(&device.id).map(Arc::new);
        fleet.load(device, observed, now);
    }
    Ok(fleet)
}

fn share(
    config: &Config,
    folder: &StateFolder,
    store: Store,
    fleet: Fleet,
    plan: watch::Receiver<Arc<Plan>>,
    gateway: Option<Arc<GatewayRole>>,
) -> Shared {
    let session = &config.session;
    let claims = Rate {
        per_second: session.claims_per_second,
        burst: session.claims_at_once,
    };
    Shared {
        store,
        fleet,
        noise_key: Arc::new(folder.noise_key.clone()),
        digester: Digester::new(&folder.noise_key),
        plan,
        gateway,
        people: People::default(),
        joining: Joining::default(),
        recorder: Recorder::default(),
        claims: Mutex::new(SourceLimiter::new(claims, Instant::now())),
        sessions: Arc::new(Semaphore::new(session.sessions_max)),
        sessions_max: session.sessions_max,
        heartbeat_base: session.heartbeat,
        send_timeout: session.send_timeout,
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
    }
}

/// Turns devices offline whose time has run out.
async fn sweep(fleet: Fleet, stop: CancellationToken) {
    loop {
        let next = fleet
            .sweep(Instant::now())
            .map(|next| next.saturating_duration_since(Instant::now()));
        let pause = next
            .map_or(SWEEP, |next| next.min(SWEEP))
            .max(Duration::from_millis(10));
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
    }
}

async fn finish(tasks: &TaskTracker, what: &'static str) {
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), what, "tasks did not end in time");
    }
}
