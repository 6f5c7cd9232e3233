//! The cluster's end: many devices, and only the destinations that policy names.
//!
//! A SYN to an inner address and port that policy names makes the gateway dial the upstream first; only when that
//! succeeds is the SYN let into the TCP stack, and bytes are copied both ways with half-closes kept. So a refused
//! upstream is a refused connection for the device, and nothing is accepted that cannot be served.
//!
//! ```text
//!   SYN ─► named by policy? ─ no ─► reset (counted)
//!              │ yes
//!          dial upstream ─ fails ─► reset (counted)
//!              │ connected
//!          let the SYN in ─► forward until both ends closed, reset, peer removed, or policy changed
//! ```
//!
//! UDP is forwarded by flow ([`datagrams`]), refused datagrams are answered as prohibited, and at its own inner addresses the
//! gateway answers echo requests and DNS ([`dns`]). Everything else is dropped and counted.
//!
//! All of this is done by several threads, each for its own peers ([`shards`]).
//!
//! The TCP stack is the kernel's own where this process may have private network namespaces, one for each thread, which is found
//! out by trying ([`choice`]); else smoltcp. What is let in, and when, is the same for both: with the kernel's, a SYN
//! that is held here is given to a namespace that meets nothing else (see `netstack::kernel`). When a namespace is lost, its
//! connections are over, smoltcp has the new ones until another is made ([`regain`]), and [`GatewayView::tcp_stack`] says so.
//!
//! Peers do not reach each other: nothing that arrives in the tunnel ever leaves through it. Which rules of the policy hold
//! for a peer is declared with the peer. Peers and policy are declared as a whole; what did not change is not touched.

mod choice;
mod counters;
mod datagrams;
pub(crate) mod dns;
mod front;
#[cfg(target_os = "linux")]
mod landing;
#[cfg(not(target_os = "linux"))]
#[path = "gateway/no_landing.rs"]
mod landing;
mod packet;
mod policy;
#[cfg(target_os = "linux")]
mod regain;
#[cfg(not(target_os = "linux"))]
#[path = "gateway/no_regain.rs"]
mod regain;
mod segment;
mod shards;
mod stats;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orfe_tunnel_core::{
    AllowedIp, HandshakeLimits, Node, NodeConfig, PresharedKey, PrivateKey, PublicKey, Shard,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::choice::Lost;
pub use self::choice::{GatewayStack, GatewayTcp};
pub(crate) use self::dns::fuzzing;
use self::front::GatewayFront;
use self::landing::Landed;
pub use self::policy::{
    Access, Destination, DnsPolicy, ParsePortsError, ParseUpstreamError, Policy, PolicyEntry, PolicyError,
    PolicyPort, Ports, Rule, Upstream, Via,
};
use self::regain::Keeper;
use self::shards::ShardThread;
pub use self::shards::{GatewayView, Shards};
pub use self::stats::{GatewayStats, PeerDropCounts, PeerStats};
use self::upstream::Forwarders;
use crate::client::{TcpStack, TunnelConfig};
use crate::netstack::{Exchange, Link, Netstack, StackConfig};
use crate::udp::{UdpOptions, UdpPort};

/// Connections at once. With several threads each may have half of them, because busy peers may happen to be of one thread;
/// the memory is what is bounded for all together.
const MAX_CONNECTIONS: usize = 2048;
/// Bytes that their buffers may take together, the kernel's where it has the connections; each thread has an equal share.
const MEMORY: usize = 512 << 20;
/// Probes on silent connections find devices that are gone for good, lest their upstream connections stay open.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// How long [`Gateway::shutdown`] waits for forwarders after it told them to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What a gateway is made from.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The gateway's static key.
    pub private_key: PrivateKey,
    /// Where UDP is bound.
    pub listen: SocketAddr,
    /// The gateway's own addresses inside the tunnel, at most eight; it answers echo requests and DNS there. Policy may
    /// name other ports of them.
    pub addresses: Vec<IpAddr>,
    /// Largest inner packet, 1280 to 9216 bytes.
    pub mtu: usize,
}

/// Why a gateway was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayStartError {
    /// UDP could not be bound, or the configuration cannot work.
    #[error("the gateway could not be opened")]
    Open(#[from] io::Error),
    /// The configuration fixes the kernel's TCP stack, and it is refused here.
    #[error("the gateway may not have a private network namespace: {reason}")]
    NoNamespace {
        /// Which step was refused, and what the system said.
        reason: String,
        /// What a person can do about it.
        hint: Option<&'static str>,
    },
}

/// A device, or a person's plain client.
#[derive(Debug, Clone)]
pub struct GatewayPeer {
    /// Its key.
    pub public_key: PublicKey,
    /// The symmetric key that both mix in, if any.
    pub preshared_key: Option<PresharedKey>,
    /// Its addresses inside the tunnel. A network that two peers name belongs to the latter.
    pub allowed_ips: Vec<AllowedIp>,
    /// What it is called in logs and counters.
    pub name: String,
}

/// A peer with what it may reach.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The peer.
    pub peer: GatewayPeer,
    /// The rules of the policy that hold for it.
    pub access: Access,
}

/// A running gateway. Dropping it ends it; [`Gateway::shutdown`] also waits for the end.
#[derive(Debug)]
pub struct Gateway {
    threads: Vec<ShardThread>,
    local_addr: SocketAddr,
    public_key: PublicKey,
    /// Held while something is declared.
    declaring: Mutex<()>,
    view: GatewayView,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// What was declared since a thread last looked. The latest declaration counts, so this cannot grow.
#[derive(Debug, Clone, Default)]
struct Desired {
    peers: Option<Arc<[Admitted]>>,
    policy: Option<Arc<Policy>>,
    keys: Option<Vec<PrivateKey>>,
}

/// A thread's latest counters. It writes those of peers that changed, so an idle peer costs nothing.
#[derive(Debug, Default)]
struct Shown {
    peers: HashMap<PublicKey, PeerStats>,
    total: GatewayStats,
    /// Set while its namespace is lost.
    lost: Option<Lost>,
}

impl Gateway {
    /// Binds UDP and starts the gateway's threads, as many as suit this machine, on smoltcp; upstream connections run on the current
    /// tokio runtime.
    ///
    /// Fails with the system's error for the bind, with `InvalidInput` for a configuration that cannot work, and outside a
    /// runtime.
    pub fn start(config: GatewayConfig, policy: Policy) -> io::Result<Self> {
        Self::start_sharded(config, policy, Shards::for_this_machine())
    }

    /// [`Gateway::start`] with so many threads.
    pub fn start_sharded(config: GatewayConfig, policy: Policy, shards: Shards) -> io::Result<Self> {
        let tcp = GatewayTcp {
            stack: TcpStack::Smoltcp,
            helper: TunnelConfig::this_program(),
        };
        Self::start_on(config, policy, shards, &tcp).map_err(|error| match error {
            GatewayStartError::Open(error) => error,
            error @ GatewayStartError::NoNamespace { .. } => io::Error::other(error),
        })
    }

    /// [`Gateway::start`] with so many threads, on this TCP stack. Blocks for some 10 ms for each thread when it is the kernel's.
    pub fn start_on(
        config: GatewayConfig,
        policy: Policy,
        shards: Shards,
        tcp: &GatewayTcp,
    ) -> Result<Self, GatewayStartError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        let bind = UdpOptions {
            // A gateway may have several addresses; its peers know it by one.
            pin_source: true,
            ..UdpOptions::new(config.listen)
        };
        let ports = UdpPort::bind_group(&bind, shards.count, shards.is_steered)?;
        // The bind may have come to fewer, and never to more.
        let count = ports.len() as u8;
        let public_key = config.private_key.public_key();
        let stack = stack_config(config.addresses, config.mtu, count);
        let (chosen, landed) = choice::choose(tcp, count, &stack)?;
        chosen.log();
        let mut landed = landed.into_iter();
        let node = NodeConfig {
            private_key: config.private_key,
            mtu: config.mtu,
            limits: HandshakeLimits::default().shared(count),
        };
        let exchange = Arc::new(Exchange::new(count));
        let policy = Arc::new(policy);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (mut threads, mut shown) = (Vec::new(), Vec::new());
        for (number, udp) in (0..count).zip(ports) {
            let shard = Shard::new(number, count).unwrap_or(Shard::WHOLE);
            let link = (count > 1).then(|| Link::new(Arc::clone(&exchange), shard));
            let desired = Arc::new(Mutex::new(Desired {
                policy: Some(Arc::clone(&policy)),
                ..Desired::default()
            }));
            let counters = Arc::new(Mutex::new(Shown::default()));
            let node = Node::sharded(node.clone(), shard, Instant::now());
            let name = if count == 1 {
                "orfe-gateway".to_owned()
            } else {
                format!("orfe-gateway-{number}")
            };
            let (kernel, arriving) = landed.next().map(Landed::split).unzip();
            let netstack = Netstack::start_on(&name, udp, link, kernel, node, &stack, |handle| {
                let forwarders = Forwarders::new(handle, runtime.clone(), tracker.clone(), stop.clone());
                if let Some(arriving) = arriving {
                    let keeper = Keeper {
                        helper: tcp.helper.clone(),
                        stack: stack.clone(),
                        shown: Arc::clone(&counters),
                    };
                    forwarders.keep(keeper, arriving);
                }
                let own = stack.addresses.clone();
                GatewayFront::new(
                    own,
                    shard,
                    Arc::clone(&desired),
                    Arc::clone(&counters),
                    forwarders,
                    Instant::now(),
                )
            })?;
            threads.push(ShardThread { netstack, desired });
            shown.push(counters);
        }
        Ok(Self {
            local_addr: threads
                .first()
                .map(|thread| thread.netstack.local_addr())
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?,
            threads,
            public_key,
            declaring: Mutex::new(()),
            view: GatewayView::new(shown, chosen),
            tracker,
            stop,
        })
    }

    /// Declares all peers, each with access to everything that policy names; see [`Gateway::admit`].
    pub fn set_peers(&self, peers: Vec<GatewayPeer>) {
        let everything = |peer| Admitted {
            peer,
            access: Access::Everything,
        };
        self.admit(peers.into_iter().map(everything).collect());
    }

    /// Declares all peers. Those not named any more lose access and connections at once; the others keep their sessions,
    /// and the connections that their access still allows.
    pub fn admit(&self, peers: Vec<Admitted>) {
        self.tell(&Desired::of_peers(peers));
    }

    /// Declares the policy. Connections to what it does not name in the same way any more are reset.
    pub fn set_policy(&self, policy: Policy) {
        self.tell(&Desired {
            policy: Some(Arc::new(policy)),
            ..Desired::default()
        });
    }

    /// Declares policy and peers in one step, so that no peer's access is ever read against another policy.
    pub fn declare(&self, policy: Policy, peers: Vec<Admitted>) {
        self.tell(&Desired {
            policy: Some(Arc::new(policy)),
            ..Desired::of_peers(peers)
        });
    }

    /// Answers for `current` and, as long as a change of keys lasts, for `previous`; sessions on a key that stays are not
    /// touched, those on one that goes end. Peers are declared in the same step, because a key that is new has none.
    pub fn set_keys(&self, current: PrivateKey, previous: Option<PrivateKey>, peers: Vec<Admitted>) {
        self.tell(&Desired {
            keys: Some([current].into_iter().chain(previous).collect()),
            ..Desired::of_peers(peers)
        });
    }

    fn tell(&self, desired: &Desired) {
        // Two declarations at once must not end up in different order at different threads.
        let _one_at_a_time = self.declaring.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in &self.threads {
            thread.declare(desired);
        }
    }

    /// What is known of the peers. Those just declared are shown from the moment at which they can connect.
    pub fn peers(&self) -> Vec<PeerStats> {
        self.view.peers()
    }

    /// A reader of the counters that may be kept apart from the gateway.
    pub fn view(&self) -> GatewayView {
        self.view.clone()
    }

    /// Counters of the gateway as a whole.
    pub fn stats(&self) -> GatewayStats {
        self.view.total()
    }

    /// How many threads it has: fewer than asked for where the system cannot spread datagrams over them.
    pub fn shards(&self) -> usize {
        self.threads.len()
    }

    /// The TCP stack that it has at this moment, and why.
    pub fn tcp_stack(&self) -> GatewayStack {
        self.view.tcp_stack()
    }

    /// Where UDP is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The key that the gateway was started with.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Resets all connections, and waits for the forwarders and the threads to end.
    pub async fn shutdown(self) {
        let Self {
            threads,
            tracker,
            stop,
            ..
        } = self;
        stop.cancel();
        tracker.close();
        // The threads last: they carry what forwarders leave behind, resets among it.
        if tokio::time::timeout(GRACE, tracker.wait()).await.is_err() {
            tracing::warn!(left = tracker.len(), "forwarders did not end in time");
        }
        for thread in threads {
            thread.netstack.shutdown().await;
        }
    }
}

/// The TCP stack of each of `shards` threads.
fn stack_config(addresses: Vec<IpAddr>, mtu: usize, shards: u8) -> StackConfig {
    let shards = usize::from(shards);
    StackConfig {
        addresses,
        mtu,
        any_address: true,
        max_connections: MAX_CONNECTIONS / shards.min(2),
        memory: MEMORY / shards,
        keep_alive: Some(KEEP_ALIVE),
    }
}
