//! Joining through the tunnel: a tunnel of a few seconds, with the one-time key of the join code.
//!
//! The key opens nothing but the registry's port. It dies a minute after the claim, so that a claim whose answer was lost can be
//! repeated; from then on the device's own key opens the tunnel, and what that takes is in the answer.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use orfe_protocol::desired::{DesiredState, Tunnel as Desired};
use orfe_protocol::id::Revision;
use orfe_protocol::join_code::{JoinCode, JoinSecret, WayIn};
use orfe_protocol::key::NoisePrivateKey;
use orfe_protocol::tag::Tags;
use orfe_tunnel::{AllowedIp, PublicKey, TcpStack, Tunnel, TunnelConfig, TunnelError, TunnelPeer};
use tokio::time::timeout;

use super::unreachable;
use crate::failure::Failure;
use crate::link::{self, Connection, RegistryAddress, Way};
use crate::state::Identity;

/// How long each address of the gateway is given in each round over all of them. Where a network passes only some ports the
/// first round is quick to find one; the later ones are for slow paths and lost datagrams.
const ROUNDS: [Duration; 3] = [
    Duration::from_millis(1500),
    Duration::from_millis(2500),
    Duration::from_secs(4),
];

/// Keeps NATs from forgetting the flow while somebody looks at the answer.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// Opens the tunnel; when this returns, the gateway has answered.
pub(super) async fn open(
    secret: &JoinSecret,
    way_in: &WayIn,
    tcp_stack: TcpStack,
) -> Result<Tunnel, Failure> {
    let mut addresses = Vec::new();
    for endpoint in &way_in.endpoints {
        // One name that does not resolve is not the end: there may be another.
        if let Ok(found) = tokio::net::lookup_host(endpoint).await {
            addresses.extend(found);
        }
    }
    let Some(first) = addresses.first() else {
        let names = way_in.endpoints.join(", ");
        return Err(Failure::new(format!("no name of the gateway resolves: {names}"))
            .hint("check this machine's network and DNS; the join code was not used".to_owned()));
    };
    let config = config(secret, way_in, *first, tcp_stack)?;
    // Making a namespace blocks for as long as the system takes.
    let tunnel = tokio::task::spawn_blocking(move || Tunnel::start(config))
        .await
        .map_err(|error| Failure::new("starting the tunnel was cut short").because(error))?
        .map_err(unstartable)?;
    for patience in ROUNDS {
        for address in &addresses {
            // Shakes hands there at once. An answer to an earlier one counts, too: the tunnel goes where it came from.
            tunnel.set_endpoint(*address);
            let mut status = tunnel.status();
            let answered = status.wait_for(|status| status.last_handshake.is_some());
            if matches!(timeout(patience, answered).await, Ok(Ok(_))) {
                return Ok(tunnel);
            }
        }
    }
    tunnel.shutdown().await;
    Err(unanswered(&addresses))
}

/// A connection to the registry through the tunnel, which comes with it. Where the gateway does not answer, the registry may be
/// reachable directly all the same, as where a network passes no UDP: then that is the way.
pub(super) async fn connect(
    opened: Result<Tunnel, Failure>,
    way_in: &WayIn,
    registry: &RegistryAddress,
    key: &NoisePrivateKey,
) -> Result<(Connection, Option<Tunnel>), Failure> {
    match opened {
        Ok(tunnel) => {
            let way = Way::Tunnel {
                dialer: Arc::new(tunnel.dialer()),
                registry: way_in.registry.into(),
            };
            let connection = link::connect(registry, &way, key).await;
            Ok((connection.map_err(unreachable)?, Some(tunnel)))
        }
        Err(unanswered) => match link::connect(registry, &Way::Direct, key).await {
            Ok(connection) => Ok((connection, None)),
            Err(error) => {
                tracing::info!(
                    error = error.text(),
                    "the registry cannot be reached directly either"
                );
                Err(unanswered)
            }
        },
    }
}

/// Whether the code gives a device that has joined already a new way in: it may have lost the one it had, when the gateway got a
/// new key or another address while the device was off. The registry knows the device by its key, so it stays the same.
pub(super) fn renews(identity: &Identity, code: &JoinCode) -> bool {
    code.way_in.is_some() && identity.registry_key == code.registry_key
}

/// What the daemon begins with: its own end of the tunnel and nothing else. Any revision of the registry's is newer.
pub(super) fn first_desired(identity: &Identity, tunnel: Desired) -> DesiredState {
    DesiredState {
        revision: Revision::default(),
        device: identity.name.clone(),
        tags: Tags::default(),
        coder: None,
        slots: 1,
        tunnel: Some(tunnel),
        docker_required: false,
    }
}

fn config(
    secret: &JoinSecret,
    way_in: &WayIn,
    endpoint: SocketAddr,
    tcp_stack: TcpStack,
) -> Result<TunnelConfig, Failure> {
    let private_key = secret
        .tunnel_key()
        .to_base64()
        .parse()
        .map_err(|error| Failure::new("the join code's one-time key cannot be used").because(error))?;
    Ok(TunnelConfig {
        private_key,
        addresses: vec![way_in.address.into()],
        peer: TunnelPeer {
            public_key: PublicKey::from(*way_in.gateway_key.as_bytes()),
            preshared_key: None,
            endpoint: Some(endpoint),
            allowed_ips: vec![AllowedIp::host((*way_in.registry.ip()).into())],
            keepalive: Some(KEEPALIVE),
        },
        mtu: TunnelConfig::DEFAULT_MTU,
        bind: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        tcp_stack,
        helper: TunnelConfig::this_program(),
    })
}

fn unstartable(error: TunnelError) -> Failure {
    let hint = error.hint().map(str::to_owned);
    Failure::new("the tunnel cannot be started")
        .hint(hint)
        .because(error)
}

/// The gateway answers nobody whose key it does not know, so a dead code and a blocked path look alike.
fn unanswered(addresses: &[SocketAddr]) -> Failure {
    let tried: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Failure::new(format!("the gateway does not answer this join code at {}", tried.join(", "))).hint(
        "a code that has expired, was used or was revoked is not answered: see `orfe-registry join-code list`, and ask for a \
         new one (`orfe-registry join-code create --via-tunnel`); otherwise check that this network lets UDP out to that address"
            .to_owned(),
    )
}
