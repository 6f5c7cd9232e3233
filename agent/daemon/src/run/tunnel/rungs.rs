//! The rungs of the ladder with what is behind them: addresses of the gateway, and the bridge to the registry.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use orfe_protocol::desired::Gateway;
use orfe_protocol::observed::Carrier;
use orfe_tunnel::carrier::{Bridge, BridgeState};
use orfe_tunnel_core::ladder::Candidate;
use tokio::sync::watch;
use url::Url;

use crate::link::{LinkError, RegistryAddress, open_carrier};

/// The port that stands for [`Carrier::Udp443`].
const HTTPS: u16 = 443;

#[derive(Debug)]
struct Rung {
    carrier: Carrier,
    /// As the registry stated it: `host:port`, or the WebSocket's URL.
    name: String,
    /// One of each family at most; of the WebSocket the bridge's, once it is open.
    addresses: Vec<SocketAddr>,
}

/// All rungs, best first.
#[derive(Debug)]
pub(super) struct Rungs {
    list: Vec<Rung>,
    websocket: Option<Url>,
    registry: RegistryAddress,
    bridge: Option<Bridge>,
    /// The last connection failed because something else than the registry answered.
    foreign: watch::Sender<bool>,
}

impl Rungs {
    pub(super) fn new(gateway: &Gateway, registry: RegistryAddress) -> Self {
        let mut rungs: Vec<Rung> = gateway
            .endpoints
            .iter()
            .map(|endpoint| Rung {
                carrier: carrier_of(endpoint),
                name: endpoint.clone(),
                addresses: Vec::new(),
            })
            .collect();
        rungs.extend(gateway.websocket.iter().map(|url| Rung {
            carrier: Carrier::Websocket,
            name: url.to_string(),
            addresses: Vec::new(),
        }));
        Self {
            list: rungs,
            websocket: gateway.websocket.clone(),
            registry,
            bridge: None,
            foreign: watch::Sender::new(false),
        }
    }

    /// How many addresses each rung has. The bridge to the WebSocket counts as one before it is open.
    pub(super) fn counts(&self) -> Vec<usize> {
        let count = |rung: &Rung| match rung.carrier {
            Carrier::Websocket => 1,
            _ => rung.addresses.len(),
        };
        self.list.iter().map(count).collect()
    }

    /// The names to be resolved, with their rungs.
    pub(super) fn names(&self) -> Vec<(usize, String)> {
        let udp = |(_, rung): &(usize, &Rung)| rung.carrier != Carrier::Websocket;
        let rungs = self.list.iter().enumerate().filter(udp);
        rungs.map(|(index, rung)| (index, rung.name.clone())).collect()
    }

    /// Takes what names were resolved to; the rungs whose addresses are others than before. A name that did not resolve keeps
    /// the addresses that it had.
    pub(super) fn resolved(&mut self, answers: Vec<(usize, Vec<SocketAddr>)>) -> Vec<usize> {
        let mut changed = Vec::new();
        for (index, addresses) in answers {
            if let Some(rung) = self.list.get_mut(index)
                && !addresses.is_empty()
                && rung.addresses != addresses
            {
                rung.addresses = addresses;
                changed.push(index);
            }
        }
        changed
    }

    /// Where the gateway may be, for the question from where it is spoken to.
    pub(super) fn destinations(&self) -> Vec<IpAddr> {
        let udp = self.list.iter().filter(|rung| rung.carrier != Carrier::Websocket);
        udp.flat_map(|rung| rung.addresses.iter().map(SocketAddr::ip))
            .collect()
    }

    /// The rung of this carrier, if there is one.
    pub(super) fn of_carrier(&self, carrier: Carrier) -> Option<usize> {
        self.list.iter().position(|rung| rung.carrier == carrier)
    }

    pub(super) fn carrier(&self, rung: usize) -> Carrier {
        self.list.get(rung).map_or(Carrier::Unknown, |rung| rung.carrier)
    }

    /// Where this candidate is, for people.
    pub(super) fn describe(&self, candidate: Candidate) -> String {
        let Some(rung) = self.list.get(candidate.rung) else {
            return String::new();
        };
        match rung.addresses.get(candidate.address) {
            Some(address) if rung.carrier != Carrier::Websocket => address.to_string(),
            _ => rung.name.clone(),
        }
    }

    /// The endpoint of a candidate, with what it needs opened for the tunnel on this UDP port.
    pub(super) async fn endpoint(&mut self, candidate: Candidate, node_port: u16) -> Option<SocketAddr> {
        self.prepare(candidate.rung, node_port).await;
        let rung = self.list.get(candidate.rung)?;
        rung.addresses.get(candidate.address).copied()
    }

    /// The candidate that an endpoint belongs to.
    pub(super) fn candidate(&self, endpoint: SocketAddr) -> Option<Candidate> {
        self.list.iter().enumerate().find_map(|(rung, found)| {
            let address = found.addresses.iter().position(|address| *address == endpoint)?;
            Some(Candidate { rung, address })
        })
    }

    /// The endpoint as far as it says where the gateway is: a bridge's is a loopback address of this machine's own, also while
    /// it is only tried, and after it gave way to another one.
    pub(super) fn shown(&self, endpoint: SocketAddr) -> Option<SocketAddr> {
        let carrier = self
            .candidate(endpoint)
            .map(|candidate| self.carrier(candidate.rung));
        let is_bridge = match carrier {
            Some(carrier) => carrier == Carrier::Websocket,
            None => endpoint.ip().to_canonical().is_loopback(),
        };
        (!is_bridge).then_some(endpoint)
    }

    /// Opens what takes time to open, if this rung has any such thing and it is not open yet.
    pub(super) async fn prepare(&mut self, rung: usize, node_port: u16) {
        let (Some(url), Carrier::Websocket) = (&self.websocket, self.carrier(rung)) else {
            return;
        };
        if self
            .bridge
            .as_ref()
            .is_some_and(|bridge| bridge.node_port() == node_port)
        {
            return;
        }
        let target = Arc::new((self.registry.clone(), url.clone()));
        let foreign = self.foreign.clone();
        let connect = move || {
            let (target, foreign) = (target.clone(), foreign.clone());
            async move {
                let opened = open_carrier(&target.0, &target.1).await;
                let is_foreign = opened.as_ref().is_err_and(LinkError::is_foreign);
                foreign.send_replace(is_foreign);
                opened.map_err(|error| error.text())
            }
        };
        match Bridge::start(node_port, connect).await {
            Ok(bridge) => {
                if let Some(rung) = self.list.get_mut(rung) {
                    rung.addresses = vec![bridge.address()];
                }
                self.bridge = Some(bridge);
            }
            Err(error) => tracing::warn!(%error, "no loopback socket for the WebSocket carrier"),
        }
    }

    /// Closes the bridge.
    pub(super) fn release(&mut self) {
        self.bridge = None;
    }

    pub(super) fn has_bridge(&self) -> bool {
        self.bridge.is_some()
    }

    /// How the bridge's connection is; it ends when there is no bridge any more.
    pub(super) fn bridge_state(&self) -> Option<watch::Receiver<BridgeState>> {
        self.bridge.as_ref().map(Bridge::state)
    }

    /// Whether something else than the registry answered when the bridge was last opened.
    pub(super) fn is_foreign(&self) -> bool {
        *self.foreign.borrow()
    }
}

fn carrier_of(endpoint: &str) -> Carrier {
    let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    if port == Some(HTTPS) {
        Carrier::Udp443
    } else {
        Carrier::Udp
    }
}

/// Resolves the names of the rungs, all at a time: the first address of each family, in the resolver's order.
pub(super) async fn resolve(names: Vec<(usize, String)>) -> Vec<(usize, Vec<SocketAddr>)> {
    let lookups = names.into_iter().map(|(rung, name)| async move {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        match tokio::net::lookup_host(&name).await {
            Ok(found) => {
                for address in found {
                    if addresses.iter().all(|known| known.is_ipv4() != address.is_ipv4()) {
                        addresses.push(address);
                    }
                }
            }
            Err(error) => tracing::debug!(name, %error, "the gateway's name does not resolve"),
        }
        (rung, addresses)
    });
    futures_util::future::join_all(lookups).await
}

#[cfg(test)]
mod tests {
    use orfe_protocol::id::InstanceId;
    use orfe_protocol::key::{NoisePrivateKey, WireGuardPublicKey};

    use super::*;

    #[test]
    fn rungs_are_in_the_order_of_the_registry_and_found_by_their_addresses() {
        let gateway = Gateway {
            public_key: WireGuardPublicKey::from_bytes([9; 32]),
            endpoints: vec!["orfe.example.com:51820".into(), "orfe.example.com:443".into()],
            websocket: Some("wss://orfe.example.com/agent/v1/tunnel".parse().unwrap()),
            addresses: vec![],
            registry: None,
            instance: InstanceId::from_bytes([1; 16]),
        };
        let registry = RegistryAddress {
            url: "https://orfe.example.com".parse().unwrap(),
            key: NoisePrivateKey::generate().unwrap().public_key(),
            spki_pin: None,
            proxy: None,
        };
        let mut rungs = Rungs::new(&gateway, registry);
        let carriers: Vec<Carrier> = (0..3).map(|rung| rungs.carrier(rung)).collect();
        assert_eq!(carriers, [Carrier::Udp, Carrier::Udp443, Carrier::Websocket]);
        assert_eq!(rungs.counts(), [0, 0, 1]);
        let (one, other) = (
            "192.0.2.1:51820".parse().unwrap(),
            "192.0.2.1:443".parse().unwrap(),
        );
        assert_eq!(rungs.resolved(vec![(0, vec![one]), (1, vec![other])]), [0, 1]);
        let changed = rungs.resolved(vec![(0, vec![one]), (1, vec![])]);
        assert!(changed.is_empty(), "an answer is not forgotten");
        assert_eq!(rungs.candidate(other), Some(Candidate { rung: 1, address: 0 }));
        assert_eq!(rungs.of_carrier(Carrier::Websocket), Some(2));

        let bridge = "127.0.0.1:40001".parse().unwrap();
        rungs.list[2].addresses = vec![bridge];
        assert_eq!(rungs.shown(one), Some(one));
        assert_eq!(rungs.shown(bridge), None, "a bridge is not where the gateway is");
        let closed_bridge = "127.0.0.1:40000".parse().unwrap();
        assert_eq!(rungs.shown(closed_bridge), None);
        let roamed = "192.0.2.9:51820".parse().unwrap();
        assert_eq!(
            rungs.shown(roamed),
            Some(roamed),
            "another address of the gateway's own"
        );
        assert_eq!(rungs.resolved(vec![(0, vec![closed_bridge])]), [0]);
        assert_eq!(
            rungs.shown(closed_bridge),
            Some(closed_bridge),
            "a gateway on this machine"
        );
    }
}
