//! The gateway role: the WireGuard end that devices reach what policy names through.
//!
//! One task owns the gateway. It takes the peers as a slot with the newest list only, because a list of peers is
//! whole, and tells the fleet every [`LOOK`] when each device shook hands last.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orfe_protocol::key::{NoisePrivateKey, WireGuardPublicKey};
use orfe_store::{Device, Peer, Subnet};
use orfe_tunnel::carrier::UdpRelay;
use orfe_tunnel::{
    Admitted, AllowedIp, Gateway, GatewayConfig, GatewayPeer, GatewayStack, GatewayStartError, GatewayTcp,
    GatewayView, PeerStats, PrivateKey, PublicKey, Shards, TcpStack, TunnelConfig,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::joining::Joiner;
use crate::policy::{SitePolicy, Who};
use crate::rotation::GatewayKeys;
use crate::state_folder::StateFolderError;

/// Inner packets: 1500 less the outer IPv6 and UDP headers and WireGuard's own 32 bytes, as WireGuard itself has it.
const MTU: usize = 1420;

/// How often the handshakes are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("the gateway could not listen on UDP {address}")]
    Start {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the gateway could not listen on UDP {address}, too")]
    Also {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "the configuration fixes `tcp_stack = \"namespace\"` for the gateway, and it may have none: {reason}"
    )]
    TcpStack {
        reason: String,
        hint: Option<&'static str>,
    },
    #[error("the gateway's key cannot be used")]
    Key,
    #[error("the policy in the configuration cannot be used")]
    Policy(#[from] orfe_tunnel::PolicyError),
}

/// The way to the running gateway.
#[derive(Debug)]
pub(crate) struct GatewayRole {
    keys: Mutex<GatewayKeys>,
    pub(crate) local_addr: SocketAddr,
    /// Where it listens, too.
    pub(crate) also: Vec<SocketAddr>,
    pub(crate) policy: Arc<SitePolicy>,
    told: watch::Sender<Told>,
    view: GatewayView,
    /// When the first of those that were admitted may not use the tunnel any more.
    expires_at: Mutex<Option<Timestamp>>,
}

/// Who may use the tunnel.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    pub(crate) devices: Vec<Device>,
    pub(crate) people: Vec<Peer>,
    pub(crate) joiners: Vec<Joiner>,
}

/// The gateway and what it is to be told, for the task that owns it.
#[derive(Debug)]
pub(crate) struct GatewayTask {
    gateway: Gateway,
    relays: Vec<UdpRelay>,
    told: watch::Receiver<Told>,
}

/// What the gateway is to be told: all of it, always, so that only the newest counts.
#[derive(Debug, Clone)]
struct Told {
    keys: [Option<PrivateKey>; 2],
    peers: Vec<Admitted>,
}

/// Binds UDP, at `also` too, and starts the gateway, without peers.
pub(crate) fn start(
    keys: GatewayKeys,
    listen: SocketAddr,
    also: &[SocketAddr],
    shards: Shards,
    tcp_stack: TcpStack,
    policy: Arc<SitePolicy>,
) -> Result<(GatewayRole, GatewayTask), GatewayError> {
    let private_key = tunnel_key(&keys.current).ok_or(GatewayError::Key)?;
    let config = GatewayConfig {
        private_key,
        listen,
        addresses: policy.own_addresses(),
        mtu: MTU,
    };
    let tcp = GatewayTcp {
        stack: tcp_stack,
        helper: TunnelConfig::this_program(),
    };
    let gateway =
        Gateway::start_on(config, policy.for_gateway()?, shards, &tcp).map_err(|error| match error {
            GatewayStartError::NoNamespace { reason, hint } => GatewayError::TcpStack { reason, hint },
            GatewayStartError::Open(source) => GatewayError::Start {
                address: listen,
                source,
            },
            other => GatewayError::Start {
                address: listen,
                source: io::Error::other(other),
            },
        })?;
    let relays = also
        .iter()
        .map(|address| {
            UdpRelay::start(*address, gateway.local_addr()).map_err(|source| GatewayError::Also {
                address: *address,
                source,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let (told, receiver) = watch::channel(Told {
        keys: tunnel_keys(&keys),
        peers: Vec::new(),
    });
    let role = GatewayRole {
        keys: Mutex::new(keys),
        local_addr: gateway.local_addr(),
        also: relays.iter().map(UdpRelay::local_addr).collect(),
        policy,
        told,
        view: gateway.view(),
        expires_at: Mutex::default(),
    };
    Ok((
        role,
        GatewayTask {
            gateway,
            relays,
            told: receiver,
        },
    ))
}

impl GatewayRole {
    /// Lets these in, each to what policy names for it, and nobody else.
    pub(crate) fn admit(&self, guests: &Guests) {
        let ends = guests.people.iter().filter_map(|peer| peer.expires_at);
        let ends = ends.chain(guests.joiners.iter().map(|joiner| joiner.until));
        *self.expires_at.lock().unwrap_or_else(PoisonError::into_inner) = ends.min();
        let devices = guests.devices.iter().map(|device| self.device(device));
        let people = guests.people.iter().map(|peer| self.person(peer));
        let joiners = guests.joiners.iter().map(|joiner| self.joiner(joiner));
        let peers = devices.chain(people).chain(joiners).collect();
        self.told.send_modify(|told| told.peers = peers);
    }

    /// The key by which devices and people are to know the gateway.
    pub(crate) fn public_key(&self) -> WireGuardPublicKey {
        public(&self.keys().current)
    }

    /// The key before it while it is still good, and when it ends by itself.
    pub(crate) fn old_key(&self) -> Option<(WireGuardPublicKey, Option<Timestamp>)> {
        let old = self.keys().old.clone()?;
        Some((public(&old.key), old.until))
    }

    /// Makes a new key; both are good from now on, until `until` or until it is finished. None while the change before
    /// it is not finished.
    pub(crate) fn rotate(
        &self,
        until: Option<Timestamp>,
    ) -> Result<Option<WireGuardPublicKey>, StateFolderError> {
        let mut keys = self.keys();
        if keys.old.is_some() {
            return Ok(None);
        }
        *keys = keys.rotated(until)?;
        self.told.send_modify(|told| told.keys = tunnel_keys(&keys));
        Ok(Some(public(&keys.current)))
    }

    /// Ends the old key. False when there is none.
    pub(crate) fn finish_rotation(&self) -> Result<bool, StateFolderError> {
        let mut keys = self.keys();
        if keys.old.is_none() {
            return Ok(false);
        }
        *keys = keys.finished()?;
        self.told.send_modify(|told| told.keys = tunnel_keys(&keys));
        Ok(true)
    }

    /// Ends an old key whose time has run out.
    fn finish_if_overdue(&self, now: Timestamp) {
        if !self.keys().is_overdue(now) {
            return;
        }
        match self.finish_rotation() {
            Ok(_) => tracing::info!("the gateway's old key has ended"),
            Err(error) => tracing::error!(error = crate::chain(&error), "the gateway's old key stays"),
        }
    }

    fn keys(&self) -> MutexGuard<'_, GatewayKeys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody who was admitted may not use the tunnel any more.
    fn is_outdated(&self, now: Timestamp) -> bool {
        let expires_at = *self.expires_at.lock().unwrap_or_else(PoisonError::into_inner);
        expires_at.is_some_and(|at| at <= now)
    }

    /// What the gateway knows of the peer with this key.
    pub(crate) fn stats(&self, key: &WireGuardPublicKey) -> Option<PeerStats> {
        self.view.peer(&PublicKey::from(*key.as_bytes()))
    }

    /// The TCP stack that connections get, and why.
    pub(crate) fn tcp(&self) -> GatewayStack {
        self.view.tcp_stack()
    }

    /// The names of those who shook hands on this key of the gateway last, in the order of the alphabet.
    pub(crate) fn users_of(&self, key: &WireGuardPublicKey) -> Vec<String> {
        let key = PublicKey::from(*key.as_bytes());
        let peers = self.view.peers();
        let users = peers
            .iter()
            .filter(|peer| peer.gateway_key == key && peer.last_handshake.is_some());
        let mut names: Vec<String> = users.map(|peer| peer.name.to_string()).collect();
        names.sort_unstable();
        names
    }

    fn device(&self, device: &Device) -> Admitted {
        let v6 = self.policy.ula.address(Subnet::Devices, device.inner_address);
        Admitted {
            peer: GatewayPeer {
                public_key: PublicKey::from(*device.wireguard_key.as_bytes()),
                preshared_key: None,
                allowed_ips: hosts([device.inner_address.into(), v6.into()]),
                name: device.name.to_string(),
            },
            access: self.policy.access(Who::Device(&device.tags)),
        }
    }

    fn person(&self, peer: &Peer) -> Admitted {
        let v6 = self.policy.ula.address(Subnet::People, peer.inner_address);
        // What is stored was read as a key before.
        let preshared_key = peer
            .preshared_key
            .as_ref()
            .and_then(|key| key.expose().parse().ok());
        Admitted {
            peer: GatewayPeer {
                public_key: PublicKey::from(*peer.wireguard_key.as_bytes()),
                preshared_key,
                allowed_ips: hosts([peer.inner_address.into(), v6.into()]),
                name: format!("peer {}", peer.name),
            },
            access: self.policy.access(Who::Person(peer)),
        }
    }

    fn joiner(&self, joiner: &Joiner) -> Admitted {
        Admitted {
            peer: GatewayPeer {
                public_key: PublicKey::from(*joiner.key.as_bytes()),
                preshared_key: None,
                allowed_ips: hosts([joiner.address.into()]),
                name: "a device that joins".to_owned(),
            },
            access: self.policy.access(Who::Joining),
        }
    }
}

fn hosts<const N: usize>(addresses: [IpAddr; N]) -> Vec<AllowedIp> {
    addresses.map(AllowedIp::host).to_vec()
}

impl GatewayTask {
    /// Tells the gateway what stands now. Called once before the registry is ready, too: a device whose first handshake came
    /// before its admission would try again only after 5 s.
    pub(crate) fn tell(&mut self) {
        let Told {
            keys: [current, old],
            peers,
        } = self.told.borrow_and_update().clone();
        match current {
            Some(current) => self.gateway.set_keys(current, old, peers),
            None => self.gateway.admit(peers),
        }
    }

    /// Keeps the gateway until the registry stops. `renew` declares anew who may use the tunnel.
    pub(crate) async fn run(
        mut self,
        role: Arc<GatewayRole>,
        fleet: Fleet,
        renew: impl Fn() + Send,
        shutdown: CancellationToken,
    ) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Ok(()) = self.told.changed() => self.tell(),
                _ = look.tick() => {
                    fleet.handshakes(&self.handshakes());
                    role.finish_if_overdue(Timestamp::now());
                    if role.is_outdated(Timestamp::now()) {
                        renew();
                    }
                }
            }
        }
        // Each ends within a round of its thread.
        drop(self.relays);
        self.gateway.shutdown().await;
    }

    fn handshakes(&self) -> HashMap<WireGuardPublicKey, Timestamp> {
        let peers = self.gateway.peers();
        let handshakes = peers.iter().filter_map(|peer| {
            let at = wall(peer.last_handshake?)?;
            Some((WireGuardPublicKey::from_bytes(*peer.public_key.as_bytes()), at))
        });
        handshakes.collect()
    }
}

/// The current key, and the old one while it is good.
fn tunnel_keys(keys: &GatewayKeys) -> [Option<PrivateKey>; 2] {
    let old = keys.old.as_ref().and_then(|old| tunnel_key(&old.key));
    [tunnel_key(&keys.current), old]
}

fn tunnel_key(key: &NoisePrivateKey) -> Option<PrivateKey> {
    key.to_base64().parse().ok()
}

fn public(key: &NoisePrivateKey) -> WireGuardPublicKey {
    WireGuardPublicKey::from_bytes(*key.public_key().as_bytes())
}

/// The wall clock's time at an instant of the monotonic clock.
pub(crate) fn wall(at: Instant) -> Option<Timestamp> {
    Timestamp::now().checked_sub(at.elapsed()).ok()
}

#[cfg(test)]
mod tests;
