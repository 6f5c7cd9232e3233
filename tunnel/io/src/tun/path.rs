//! The data path from outside: started, told about changes, observed, stopped.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use orfe_tunnel_core::path::{self, Path, Report};
use orfe_tunnel_core::{Datagrams, Event, Node, PeerConfig, PeerError, PeerStats, PublicKey};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::bell::Bell;
use super::device::TunDevice;
use super::inbound::Inbound;
use super::measure::Measuring;
use super::outbound::Turn;
use super::threads;
use crate::client::{StackChoice, TunnelStatus, cookie};
use crate::udp::{Sent, UdpPort};

/// What a data path is made from.
#[derive(Debug)]
pub struct DataPathConfig {
    /// The inner side.
    pub device: TunDevice,
    /// The outer side.
    pub udp: UdpPort,
    /// Keys, peers, timers. Its peers may change later.
    pub node: Node,
    /// The peer that [`DataPath::status`] is about.
    pub gateway: PublicKey,
    /// The TCP stack that [`TunnelStatus::stack`] names.
    pub stack: &'static str,
}

/// A running data path. Dropping it ends the threads soon; [`DataPath::stop`] also waits for them.
#[derive(Debug)]
pub struct DataPath {
    shared: Arc<Shared>,
    status: watch::Receiver<TunnelStatus>,
    measured: watch::Receiver<Option<Report>>,
    /// Dropping it ends both threads.
    stop: Mutex<Option<Stop>>,
    wake: Bell,
    threads: Mutex<Vec<Thread>>,
    ended: CancellationToken,
}

/// Ends both threads when it is dropped.
#[derive(Debug)]
struct Stop {
    /// Both hear that it is gone, wherever they wait for descriptors.
    _bell: Bell,
    shared: Arc<Shared>,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.shared.device.interrupt();
    }
}

/// A thread, and word of its end.
#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

/// What both threads and the handle work on.
#[derive(Debug)]
pub(super) struct Shared {
    node: Mutex<Node>,
    pub(super) device: TunDevice,
    /// The socket in use. Whoever sends or receives holds it for one batch or one wait, so another can take its place.
    udp: Mutex<Arc<UdpPort>>,
    /// What the second thread is to measure by from now on, until it takes it up.
    prober: Mutex<Option<Wanted>>,
    /// Largest packet of the device.
    mtu: usize,
    gateway: PublicKey,
    /// Until the path has ended.
    status: Mutex<Option<watch::Sender<TunnelStatus>>>,
}

/// A prober, or that nothing is to be measured.
#[derive(Debug)]
struct Wanted(Option<Path>);

impl DataPath {
    /// Starts the two threads. A peer with endpoint and keepalive is greeted at once.
    pub fn start(config: DataPathConfig) -> io::Result<Self> {
        let now = Instant::now();
        let endpoint = config
            .node
            .stats(&config.gateway)
            .and_then(|stats| stats.endpoint);
        let stack = StackChoice {
            name: config.stack,
            reason: "".into(),
            congestion_control: None,
        };
        let publisher = watch::Sender::new(TunnelStatus::new(endpoint, stack, now));
        Self::start_telling(config, publisher)
    }

    /// The same with a state that somebody else has a part in. Its sender goes when the path is stopped.
    pub(crate) fn start_telling(
        config: DataPathConfig,
        publisher: watch::Sender<TunnelStatus>,
    ) -> io::Result<Self> {
        let status = publisher.subscribe();
        let (stop, stopped) = Bell::pair()?;
        let (wake, woken) = Bell::pair()?;
        let (measured_publisher, measured) = watch::channel(None);
        let shared = Arc::new(Shared {
            mtu: config.node.mtu(),
            node: Mutex::new(config.node),
            device: config.device,
            udp: Mutex::new(Arc::new(config.udp)),
            prober: Mutex::default(),
            gateway: config.gateway,
            status: Mutex::new(Some(publisher)),
        });
        let stop = Stop {
            _bell: stop,
            shared: Arc::clone(&shared),
        };
        let back = wake.try_clone()?;
        let path = Self {
            shared: Arc::clone(&shared),
            status,
            measured,
            stop: Mutex::new(Some(stop)),
            wake,
            threads: Mutex::default(),
            ended: CancellationToken::new(),
        };
        let (turn, called) = Turn::new(Arc::clone(&shared), stopped.try_clone()?)?;
        let turn = Arc::new(turn);
        let measuring = Measuring::new(measured_publisher);
        let inbound = Inbound::new(
            Arc::clone(&shared),
            stopped.try_clone()?,
            woken,
            Arc::clone(&turn),
            measuring,
        );
        // The first failure drops the path, which ends what was started.
        path.spawn("orfe-tun-udp", move || {
            turn.run(&shared, &called, &stopped, || back.ring());
        })?;
        path.spawn("orfe-udp-tun", move || inbound.run())?;
        Ok(path)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (sender, ended) = oneshot::channel();
        let any_ended = self.ended.clone().drop_guard();
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            run();
            drop(any_ended);
            // The receiver may be gone; then nobody waits.
            let _ = sender.send(());
        })?;
        lock(&self.threads).push(Thread { handle, ended });
        Ok(())
    }

    /// State and counters of the gateway, now and as they change. Counters lag by 0.25 s at most while something happens.
    /// The sender goes when the path has ended.
    pub fn status(&self) -> watch::Receiver<TunnelStatus> {
        self.status.clone()
    }

    /// Where UDP is bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.udp().local_addr()
    }

    /// What is known of each peer at this moment.
    pub fn peers(&self) -> Vec<PeerStats> {
        self.shared.node().all_stats().collect()
    }

    /// Sends to `peer` at `endpoint` from now on, and shakes hands there at once. False when there is no such peer.
    pub fn set_endpoint(&self, peer: &PublicKey, endpoint: SocketAddr) -> bool {
        let is_known = self.shared.node().set_endpoint(peer, endpoint);
        self.rehandshake(peer);
        is_known
    }

    /// Shakes hands with `peer` at once: after a resume, a change of network, or when it is known to have restarted.
    pub fn rehandshake(&self, peer: &PublicKey) {
        let mut out = Datagrams::new();
        self.shared.node().rehandshake(peer, Instant::now(), &mut out);
        // One small datagram: when the socket takes none now, the protocol's own retry follows.
        let _ = self.shared.udp().send(&out, &mut Sent::default());
        self.wake();
    }

    /// Sends from a fresh UDP port from now on: a middlebox may hold a dead mapping for the old one. What the old one still
    /// held is lost, as on any network. On an error the old one stays.
    pub fn rebind(&self) -> io::Result<()> {
        let fresh = self.shared.udp().fresh_port()?;
        tracing::debug!(address = ?fresh.local_addr(), "UDP has a fresh port");
        *lock(&self.shared.udp) = Arc::new(fresh);
        // The second thread waits for the old one.
        self.wake();
        Ok(())
    }

    /// Measures the path from one of our `own` inner addresses to one of the `gateway`'s, from now on and anew: to be called
    /// also when the network changed. The MTU begins with what passes everywhere ([`path::MTU_MIN`]), follows what is
    /// measured up to the device's own, and stays where it begins when they have no family in common.
    pub fn measure(&self, own: &[IpAddr], gateway: &[IpAddr]) {
        let limit = u16::try_from(self.shared.mtu).map_or(path::MTU_MAX, |mtu| mtu.min(path::MTU_MAX));
        let prober = Path::new(own, gateway, limit, cookie(), Instant::now());
        *lock(&self.shared.prober) = Some(Wanted(prober));
        self.set_mtu(self.shared.mtu.min(path::MTU_MIN.into()));
        self.wake();
    }

    /// What was measured of the path, now and as it changes; `None` while nothing was.
    pub fn measured(&self) -> watch::Receiver<Option<Report>> {
        self.measured.clone()
    }

    /// Asks by a handshake whether `peer` answers at `endpoint`, beside the traffic; see [`Node::probe`].
    pub fn probe(&self, peer: &PublicKey, endpoint: SocketAddr) {
        let mut out = Datagrams::new();
        self.shared.node().probe(peer, endpoint, Instant::now(), &mut out);
        // What the socket does not take now is not sent: whoever probes does it again.
        let _ = self.shared.udp().send(&out, &mut Sent::default());
        self.wake();
    }

    /// Adds a peer or changes it; see [`Node::set_peer`].
    pub fn set_peer(&self, peer: PeerConfig) -> Result<(), PeerError> {
        self.shared.node().set_peer(peer, Instant::now())?;
        self.wake();
        Ok(())
    }

    /// Forgets a peer. False when there was none.
    pub fn remove_peer(&self, peer: &PublicKey) -> bool {
        self.shared.node().remove_peer(peer)
    }

    /// Takes packets of at most `mtu` bytes from now on; larger ones are answered with "too big". What is measured
    /// changes it again.
    pub fn set_mtu(&self, mtu: usize) {
        self.shared.node().set_mtu(mtu);
    }

    /// Resolves when a thread has ended, be it by itself because the device is gone.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends both threads and waits for them; what the device still held is sent. The device goes with its last descriptor.
    pub async fn stop(&self) {
        drop(lock(&self.stop).take());
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // An error means that the thread panicked; it is over as well.
            let _ = thread.ended.await;
            if thread.handle.join().is_err() {
                tracing::error!("a thread of the data path panicked");
            }
        }
        drop(lock(&self.shared.status).take());
    }

    /// The same for who cannot wait in another way: blocks until both threads are at their ends, some milliseconds.
    pub(crate) fn stop_blocking(&self) {
        drop(lock(&self.stop).take());
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            if thread.handle.join().is_err() {
                tracing::error!("a thread of the data path panicked");
            }
        }
        drop(lock(&self.shared.status).take());
    }

    /// Cancelled when a thread has ended; for who must not keep the path.
    pub(crate) fn end(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Has the second thread look at the node's timers anew.
    fn wake(&self) {
        self.wake.ring();
    }
}

impl Shared {
    /// The peer whose state is shown.
    pub(super) fn gateway(&self) -> &PublicKey {
        &self.gateway
    }

    /// Whether connections are open as far as that is known: ours are counted in the status, the host's own are not.
    pub(super) fn has_connections(&self) -> bool {
        lock(&self.status)
            .as_ref()
            .is_some_and(|status| status.borrow().connections > 0)
    }

    /// The node, for one batch.
    pub(super) fn node(&self) -> MutexGuard<'_, Node> {
        lock(&self.node)
    }

    /// Sends all of `out` and clears it, waiting for room as long as the path is not stopped.
    pub(super) fn send(&self, out: &mut Datagrams, stopped: &Bell) {
        let mut sent = Sent::default();
        loop {
            // Looked up each time: a socket that takes nothing may have been exchanged meanwhile.
            let udp = self.udp();
            if udp.send(out, &mut sent).is_ok() || !threads::wait_writable(&udp, stopped) {
                break;
            }
        }
        out.clear();
    }

    /// The socket, for one batch or one wait.
    pub(super) fn udp(&self) -> Arc<UdpPort> {
        Arc::clone(&lock(&self.udp))
    }

    /// Has the second thread measure by another prober, when that was asked for.
    pub(super) fn pass_prober(&self, measuring: &mut Measuring) {
        if let Some(Wanted(prober)) = lock(&self.prober).take() {
            measuring.take_up(prober);
        }
    }

    /// Shows the gateway's state to the outside.
    pub(super) fn publish(&self, node: &Node, now: Instant) {
        let Some(stats) = node.stats(&self.gateway) else {
            return;
        };
        let publisher = lock(&self.status);
        let Some(publisher) = &*publisher else {
            return;
        };
        publisher.send_if_modified(|status| {
            let before = status.clone();
            status.update(&stats, node.drops(), now);
            *status != before
        });
    }
}

/// What is locked here is whole between any two statements, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what happened to a peer.
pub(super) fn report(event: &Event) {
    match event {
        Event::HandshakeCompleted { peer, endpoint } => {
            tracing::debug!(%peer, %endpoint, "handshake completed");
        }
        Event::EndpointChanged { peer, to, .. } => {
            tracing::info!(%peer, endpoint = %to, "a peer speaks from another address");
        }
        Event::SessionExpired { peer } => tracing::warn!(%peer, "a peer does not answer; trying again"),
        _ => {}
    }
}
