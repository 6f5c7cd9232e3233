//! Keeps one tunnel: carries out what the ladder says, and tells the ladder and the core what is seen.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use orfe_core::agent::Input;
use orfe_platform::network::{Network, NetworkSignal, NetworkWatch};
use orfe_protocol::desired::Tunnel as Desired;
use orfe_protocol::observed::{Carrier, TunnelStatus};
use orfe_tunnel::carrier::BridgeState;
use orfe_tunnel::{AllowedIp, Phase, Tunnel, TunnelError};
use orfe_tunnel_core::ladder::{Candidate, Ladder, Move, Seen};
use orfe_tunnel_core::path::Report;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::bridges::LetIn;
use super::host::HostChoice;
use super::memory::Memory;
use super::rungs::{Rungs, resolve};
use super::waits::{Job, at, bridge_news, job, signal};
use super::{Ends, host, obstacle};
use crate::failure::with_causes;

/// A rung that was lost for this long took the connections through it with it.
const CUT_AFTER: Duration = Duration::from_secs(3);

/// How often it is looked for new bridges in TUN mode: a container's first steps take longer.
const BRIDGES_EVERY: Duration = Duration::from_secs(2);

/// One tunnel with its ladder.
pub(super) struct Keeper<'a> {
    pub(super) ends: &'a Ends,
    pub(super) desired: &'a Desired,
    memory: &'a mut Memory,
    tunnel: Tunnel,
    pub(super) rungs: Rungs,
    pub(super) ladder: Ladder,
    /// Where the tunnel sends.
    using: Candidate,
    pub(super) network: Network,
    /// None where the system does not tell; then nothing is noticed but silence.
    watch: Option<NetworkWatch>,
    pub(super) bridge: Option<watch::Receiver<BridgeState>>,
    resolving: Job<Vec<(usize, Vec<SocketAddr>)>>,
    diagnosing: Job<Option<String>>,
    pub(super) portal: Option<String>,
    rounds: u32,
    /// In TUN mode, where the registry is, networks that therefore have no route, and bridges that are let in.
    registry: Vec<IpAddr>,
    pub(super) refused: Vec<AllowedIp>,
    bridges: LetIn,
    letting_in: Job<Result<Option<String>, TunnelError>>,
    /// What TUN mode leaves open, for want of a packet filter.
    pub(super) unguarded: Option<String>,
    /// When the rung in use was lost.
    lost_at: Option<Instant>,
    pub(super) told: Option<TunnelStatus>,
    told_phase: Option<Phase>,
    /// The path's MTU when it was last looked at, on this path.
    mtu: Option<u16>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        ends: &'a Ends,
        desired: &'a Desired,
        memory: &'a mut Memory,
        tunnel: Tunnel,
        rungs: Rungs,
        registry: Vec<IpAddr>,
    ) -> Self {
        let refused = refused(ends, desired, &rungs, &registry);
        let bridges = ends.host.as_ref().map(HostChoice::bridges).unwrap_or_default();
        let now = Instant::now();
        let network = Network::look(&rungs.destinations());
        let start = memory
            .carrier(&network.ids)
            .and_then(|carrier| rungs.of_carrier(carrier));
        let watch = NetworkWatch::new()
            .inspect_err(|error| tracing::warn!(%error, "changes of the network are not noticed at once"))
            .ok();
        tunnel.measure_path(desired.gateway.addresses.clone());
        Self {
            ends,
            desired,
            memory,
            ladder: Ladder::new(rungs.counts(), start, StdRng::from_os_rng(), now),
            using: Candidate { rung: 0, address: 0 },
            unguarded: tunnel.unguarded().map(str::to_owned),
            tunnel,
            rungs,
            network,
            watch,
            bridge: None,
            resolving: None,
            diagnosing: None,
            portal: None,
            rounds: 0,
            registry,
            refused,
            bridges: LetIn::new(bridges),
            letting_in: None,
            lost_at: None,
            told: None,
            told_phase: None,
            mtu: None,
        }
    }

    /// Ends the tunnel, and waits for it: in TUN mode programs are run for that.
    pub(super) async fn end(self) {
        self.tunnel.shutdown().await;
    }

    /// Keeps the tunnel until its thread ends or nobody desires any more.
    pub(super) async fn run(&mut self, mut instances: watch::Receiver<Option<Desired>>) {
        let (mut states, mut paths) = (self.tunnel.status(), self.tunnel.path());
        let mut instance = self.desired.gateway.instance;
        let mut bridges = interval(BRIDGES_EVERY);
        bridges.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let path = *paths.borrow_and_update();
            self.see(&states.borrow_and_update().clone(), path.map(|report| report.rtt));
            self.carry_out().await;
            let state = states.borrow().clone();
            self.tell(&state, path).await;
            let timer = self.ladder.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                changed = states.changed() => if changed.is_err() {
                    tracing::warn!("the tunnel's thread ended; starting it again");
                    return;
                },
                Ok(()) = paths.changed() => {}
                changed = instances.changed() => {
                    let current = instances.borrow_and_update().as_ref().map(|desired| desired.gateway.instance);
                    if changed.is_err() {
                        return;
                    }
                    if let Some(current) = current && current != instance {
                        tracing::info!("the gateway began a new life; shaking hands");
                        instance = current;
                        self.ladder.gateway_restarted(Instant::now());
                    }
                }
                signal = signal(&mut self.watch) => self.look(signal).await,
                () = at(timer) => self.ladder.handle_timeout(Instant::now()),
                open = bridge_news(&mut self.bridge) => if open {
                    self.bridge_opened();
                },
                answers = job(&mut self.resolving) => {
                    self.take_addresses(answers);
                    if refused(self.ends, self.desired, &self.rungs, &self.registry) != self.refused {
                        tracing::warn!("the gateway moved into a network that is routed to it; starting the tunnel again");
                        return;
                    }
                }
                _ = bridges.tick(), if self.ends.host.is_some() && self.letting_in.is_none() => {
                    self.let_bridges_in(Instant::now());
                }
                outcome = job(&mut self.letting_in) => match outcome {
                    Ok(unguarded) => self.unguarded = unguarded,
                    Err(error) => {
                        tracing::warn!(error = with_causes(&error), "bridges are not let into the tunnel");
                        self.bridges.note_failure(Instant::now());
                    }
                },
                portal = job(&mut self.diagnosing) => self.portal = portal,
            }
        }
    }

    /// Tells the ladder what is seen of the tunnel.
    fn see(&mut self, state: &orfe_tunnel::TunnelStatus, rtt: Option<Duration>) {
        // An endpoint that is no rung's: the gateway answers from another address of its own.
        let candidate = state.endpoint.and_then(|endpoint| self.rungs.candidate(endpoint));
        let seen = Seen {
            handshake: state.last_handshake,
            candidate: candidate.or(Some(self.using)),
            down: state.phase == Phase::Down,
            sent: state.tx_bytes,
            received: state.rx_bytes,
            rtt,
        };
        let now = Instant::now();
        let was_settled = self.ladder.settled().is_some();
        self.ladder.handle_seen(&seen, now);
        if was_settled && self.ladder.settled().is_none() {
            tracing::info!("the gateway does not answer any more; trying the other ways to it");
            self.lost_at.get_or_insert(now);
        }
        let rounds = self.ladder.failed_rounds();
        if rounds > self.rounds {
            self.begin_diagnosis();
        }
        self.rounds = rounds;
    }

    /// Does what the ladder wants.
    async fn carry_out(&mut self) {
        while let Some(wanted) = self.ladder.poll_move() {
            tracing::debug!(?wanted, "carrier ladder");
            let port = self.tunnel.local_addr().port();
            match wanted {
                Move::Use(candidate) => {
                    if let Some(endpoint) = self.rungs.endpoint(candidate, port).await {
                        self.using = candidate;
                        self.tunnel.set_endpoint(endpoint);
                    }
                }
                Move::Probe(candidate) => {
                    if let Some(endpoint) = self.rungs.endpoint(candidate, port).await {
                        self.tunnel.probe(endpoint);
                    }
                }
                Move::Ask => self.tunnel.rehandshake(),
                Move::Prepare(rung) => self.rungs.prepare(rung, port).await,
                Move::Rebind => {
                    if self.tunnel.rebind() {
                        // The bridge listens to the old port only; the next use opens another.
                        self.rungs.release();
                    }
                }
                Move::Settled(candidate) => self.settled(candidate).await,
            }
        }
        let websocket = self.rungs.of_carrier(Carrier::Websocket);
        if self.rungs.has_bridge() && websocket.is_some_and(|rung| !self.ladder.needs(rung)) {
            self.rungs.release();
        }
        if self.bridge.is_none() {
            self.bridge = self.rungs.bridge_state();
        }
    }

    async fn settled(&mut self, candidate: Candidate) {
        let carrier = self.rungs.carrier(candidate.rung);
        self.using = candidate;
        tracing::info!(
            carrier = carrier.as_str(),
            endpoint = self.rungs.describe(candidate),
            "the gateway answers"
        );
        self.portal = None;
        self.memory.remember(&self.network.ids, carrier).await;
        self.tunnel.measure_path(self.desired.gateway.addresses.clone());
        // What is found now is compared with nothing: it is another path.
        self.mtu = None;
        if carrier == Carrier::Websocket && self.resolving.is_none() {
            // Names may not have been resolved where the way up begins.
            self.resolving = Some(Box::pin(resolve(self.rungs.names())));
        }
        if self.lost_at.take().is_some_and(|at| at.elapsed() >= CUT_AFTER) {
            self.cut().await;
        }
    }

    /// Cuts the children's connections: they dial anew within 0.1 s, and by themselves would notice only after 37 s.
    async fn cut(&mut self) {
        // The daemon's end closes only when it stops.
        let _ = self.ends.inputs.send(Input::PathChanged).await;
    }

    /// The system says that the network may be another one.
    async fn look(&mut self, signal: NetworkSignal) {
        let network = Network::look(&self.rungs.destinations());
        let resumed = signal == NetworkSignal::Resumed;
        let moved = !network.is_same_path(&self.network);
        if !moved && !resumed {
            // What was not known yet, such as the router's hardware address, may be known now.
            self.network = network;
            return;
        }
        tracing::info!(resumed, from = ?self.network.sources, to = ?network.sources, "the network changed; shaking hands");
        self.network = network;
        self.portal = None;
        self.lost_at = None;
        // Connections of the bridge were made from the old address.
        self.rungs.release();
        self.bridge = None;
        self.search_anew();
        self.resolving = Some(Box::pin(resolve(self.rungs.names())));
        self.cut().await;
    }

    fn search_anew(&mut self) {
        let start = self
            .memory
            .carrier(&self.network.ids)
            .and_then(|carrier| self.rungs.of_carrier(carrier));
        self.ladder.network_changed(start, Instant::now());
    }

    fn take_addresses(&mut self, answers: Vec<(usize, Vec<SocketAddr>)>) {
        let changed = self.rungs.resolved(answers);
        let counts = self.rungs.counts();
        for rung in &changed {
            self.ladder.set_addresses(*rung, counts[*rung], Instant::now());
        }
        if !changed.is_empty() {
            tracing::info!(addresses = ?self.rungs.destinations(), "the gateway's name has other addresses");
            self.network = Network::look(&self.rungs.destinations());
            if self.ladder.settled().is_none() {
                self.search_anew();
            }
        }
    }

    /// Nothing answered on any rung: looks names up again and asks who is there.
    fn begin_diagnosis(&mut self) {
        if self.resolving.is_none() {
            self.resolving = Some(Box::pin(resolve(self.rungs.names())));
        }
        if self.diagnosing.is_none()
            && !self.network.is_offline()
            && let Some(host) = self.ends.registry.url.host_str()
            // Between us and ourselves there is no portal.
            && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        {
            self.diagnosing = Some(Box::pin(obstacle::find_portal(host.to_owned())));
        }
    }

    /// Lets containers of new bridges in, and forgets bridges that are gone.
    fn let_bridges_in(&mut self, now: Instant) {
        let Some(choice) = &self.ends.host else {
            return;
        };
        if let Some(bridges) = self.bridges.next(choice.bridges(), now) {
            tracing::info!(?bridges, "containers of these bridges may use the tunnel");
            self.letting_in = Some(Box::pin(self.tunnel.set_bridges(bridges)));
        }
    }

    /// The way over the WebSocket is open, be it anew: the gateway is to learn at once where we are.
    fn bridge_opened(&mut self) {
        if let Some(rung) = self.rungs.of_carrier(Carrier::Websocket) {
            self.ladder.handle_open(rung, Instant::now());
        }
    }

    /// Tells the core how the tunnel is, when that is news.
    async fn tell(&mut self, state: &orfe_tunnel::TunnelStatus, path: Option<Report>) {
        let status = self.status(state, path);
        if self.told_phase != Some(state.phase) {
            tracing::info!(
                phase = status.phase.as_str(),
                endpoint = state.endpoint.map(tracing::field::display),
                "tunnel"
            );
        }
        let mtu = path.map(|report| report.mtu);
        let fell = self.mtu.zip(mtu).is_some_and(|(before, now)| now < before);
        self.mtu = mtu;
        let recovered = state.phase == Phase::Up && self.told_phase == Some(Phase::Down);
        self.told_phase = Some(state.phase);
        if self.told.as_ref() != Some(&status) {
            self.told = Some(status.clone());
            let _ = self.ends.inputs.send(Input::Tunnel(Some(Box::new(status)))).await;
        }
        if recovered || fell {
            // What was open before the path died may be dead without knowing it. And where the MTU falls, what the gateway
            // sends on older connections does not pass any more, and nobody tells it.
            self.cut().await;
        }
    }
}

/// Networks that get no route in TUN mode.
fn refused(ends: &Ends, desired: &Desired, rungs: &Rungs, registry: &[IpAddr]) -> Vec<AllowedIp> {
    if ends.host.is_none() {
        return Vec::new();
    }
    let outer = [rungs.destinations().as_slice(), registry].concat();
    host::networks(desired, &outer).1
}
