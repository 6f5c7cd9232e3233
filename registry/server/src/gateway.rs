//! The gateway role: the WireGuard end that devices reach what policy names through.
//!
//! One task owns the gateway. It takes the peers as a slot with the newest list only, because a list of peers is
//! whole, and tells the fleet every [`LOOK`] when each device shook hands last.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orfe_protocol::desired::NamedDestination;
use orfe_protocol::key::{NoisePrivateKey, WireGuardPublicKey};
use orfe_protocol::name::HostName;
use orfe_store::Device;
use orfe_tunnel::{
    AllowedIp, Gateway, GatewayConfig, GatewayPeer, Policy, PolicyEntry, PolicyPort, PrivateKey, PublicKey,
    Upstream,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{self, HostPort};
use crate::fleet::Fleet;

/// The gateway's own address inside the tunnel; below those of policy's names.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 127, 0, 1);

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
    #[error("the gateway's key cannot be used")]
    Key,
    #[error("the policy in the configuration cannot be used")]
    Policy(#[from] orfe_tunnel::PolicyError),
}

/// The way to the running gateway.
#[derive(Debug)]
pub(crate) struct GatewayRole {
    pub(crate) public_key: WireGuardPublicKey,
    pub(crate) local_addr: SocketAddr,
    peers: watch::Sender<Vec<GatewayPeer>>,
}

/// The gateway and what it is to be told, for the task that owns it.
#[derive(Debug)]
pub(crate) struct GatewayTask {
    gateway: Gateway,
    peers: watch::Receiver<Vec<GatewayPeer>>,
}

/// Binds UDP and starts the gateway, without peers.
pub(crate) fn start(
    key: &NoisePrivateKey,
    listen: SocketAddr,
    policy: &[config::PolicyEntry],
    names: &BTreeMap<HostName, NamedDestination>,
) -> Result<(GatewayRole, GatewayTask), GatewayError> {
    let private_key: PrivateKey = key.to_base64().parse().map_err(|_| GatewayError::Key)?;
    let config = GatewayConfig {
        private_key,
        listen,
        addresses: vec![IpAddr::V4(OWN_ADDRESS)],
        mtu: MTU,
    };
    let policy = Policy::new(policy.iter().filter_map(|entry| entry_of(entry, names)))?;
    let gateway = Gateway::start(config, policy).map_err(|source| GatewayError::Start {
        address: listen,
        source,
    })?;
    let (peers, receiver) = watch::channel(Vec::new());
    let role = GatewayRole {
        public_key: WireGuardPublicKey::from_bytes(*gateway.public_key().as_bytes()),
        local_addr: gateway.local_addr(),
        peers,
    };
    Ok((
        role,
        GatewayTask {
            gateway,
            peers: receiver,
        },
    ))
}

impl GatewayRole {
    /// Lets these devices in, and nobody else.
    pub(crate) fn admit(&self, devices: &[Device]) {
        self.peers.send_replace(devices.iter().map(peer).collect());
    }
}

impl GatewayTask {
    /// Keeps the gateway until the registry stops.
    pub(crate) async fn run(mut self, fleet: Fleet, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Ok(()) = self.peers.changed() => {
                    let peers = self.peers.borrow_and_update().clone();
                    self.gateway.set_peers(peers);
                }
                _ = look.tick() => fleet.handshakes(&self.handshakes()),
            }
        }
        self.gateway.shutdown().await;
    }

    fn handshakes(&self) -> HashMap<WireGuardPublicKey, Timestamp> {
        let (now, clock) = (Instant::now(), Timestamp::now());
        let peers = self.gateway.peers();
        let handshakes = peers.iter().filter_map(|peer| {
            let age = now.saturating_duration_since(peer.last_handshake?);
            let at = clock.checked_sub(age).ok()?;
            Some((WireGuardPublicKey::from_bytes(*peer.public_key.as_bytes()), at))
        });
        handshakes.collect()
    }
}

fn peer(device: &Device) -> GatewayPeer {
    GatewayPeer {
        public_key: PublicKey::from(*device.wireguard_key.as_bytes()),
        preshared_key: None,
        allowed_ips: vec![AllowedIp::host(IpAddr::V4(device.inner_address))],
        name: device.name.to_string(),
    }
}

fn entry_of(
    entry: &config::PolicyEntry,
    names: &BTreeMap<HostName, NamedDestination>,
) -> Option<PolicyEntry> {
    let address = names.get(&entry.name)?.address;
    let ports = entry.ports.iter().map(|port| PolicyPort {
        port: *port,
        upstream: upstream(entry, *port),
    });
    Some(PolicyEntry {
        name: entry.name.to_string(),
        address,
        ports: ports.collect(),
    })
}

fn upstream(entry: &config::PolicyEntry, port: u16) -> Upstream {
    let fallback = || HostPort {
        host: entry.name.to_string(),
        port,
    };
    let HostPort { host, port } = entry.upstream.clone().unwrap_or_else(fallback);
    match host.trim_matches(['[', ']']).parse() {
        Ok(address) => Upstream::Address(SocketAddr::new(address, port)),
        Err(_) => Upstream::Name { host, port },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(upstream: Option<&str>) -> config::PolicyEntry {
        config::PolicyEntry {
            name: "coder.internal".parse().unwrap(),
            ports: vec![443, 80],
            upstream: upstream.map(|upstream| upstream.parse().unwrap()),
        }
    }

    #[test]
    fn an_upstream_is_an_address_or_a_name_or_the_name_itself() {
        assert_eq!(
            upstream(&entry(None), 443),
            Upstream::Name {
                host: "coder.internal".into(),
                port: 443
            }
        );
        assert_eq!(
            upstream(&entry(Some("127.0.0.1:36123")), 443),
            Upstream::Address("127.0.0.1:36123".parse().unwrap())
        );
        assert_eq!(
            upstream(&entry(Some("[fd00::1]:8443")), 443),
            Upstream::Address("[fd00::1]:8443".parse().unwrap())
        );
        assert_eq!(
            upstream(&entry(Some("coder.svc:7080")), 443),
            Upstream::Name {
                host: "coder.svc".into(),
                port: 7080
            }
        );
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let key = NoisePrivateKey::generate().unwrap();
        let error = start(&key, address, &[], &BTreeMap::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the gateway could not listen on UDP {address}")
        );
    }

    #[tokio::test]
    async fn the_gateway_has_the_public_half_of_the_key_and_stops_when_told() {
        let key = NoisePrivateKey::generate().unwrap();
        let (role, task) = start(
            &key,
            "127.0.0.1:0".parse().unwrap(),
            &[entry(None)],
            &BTreeMap::new(),
        )
        .unwrap();
        assert_eq!(role.public_key.as_bytes(), key.public_key().as_bytes());
        let patience = crate::fleet::Patience {
            hold_down: LOOK,
            start_grace: LOOK,
        };
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(task.run(Fleet::new(patience), shutdown.clone()));
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), running)
            .await
            .unwrap()
            .unwrap();
    }
}
