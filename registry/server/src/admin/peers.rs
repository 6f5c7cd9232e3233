//! The admin routes of people's peers.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use orfe_protocol::name::DeviceName;
use orfe_store::{NewPeer, Peer, PeerError, Subnet};
use orfe_tunnel::{PeerStats, PresharedKey};

use super::{Admin, ApiError};
use crate::api;
use crate::gateway::{GatewayRole, wall};
use crate::policy::PEOPLES_ADDRESS;

/// Below the 30 s after which common NATs forget a UDP flow.
const KEEPALIVE_S: u16 = 25;

pub(super) async fn add(
    State(admin): State<Arc<Admin>>,
    Json(request): Json<api::AddPeer>,
) -> Result<Json<api::PeerAnswer>, ApiError> {
    let gateway = gateway(&admin)?;
    check(&request, gateway)?;
    let created_at = Timestamp::now();
    let expires_at = request.ttl_s.map(|ttl| {
        let ttl = SignedDuration::from_secs(i64::try_from(ttl).unwrap_or(i64::MAX));
        created_at.saturating_add(ttl).unwrap_or(Timestamp::MAX)
    });
    let peer = NewPeer {
        name: request.name,
        wireguard_key: request.wireguard_public_key,
        preshared_key: request.preshared_key,
        allowed: request.allowed,
        note: request.note,
        created_at,
        expires_at,
    };
    let peer = admin.shared.store.peers().add(peer).await.map_err(refusal)?;
    admin.shared.people.insert(peer.clone());
    admin.shared.admit_to_gateway();
    tracing::info!(peer = %peer.name, "peer added");
    Ok(Json(answer(&admin, gateway, &peer)))
}

fn refusal(error: PeerError) -> ApiError {
    match error {
        PeerError::Store(error) => error.into(),
        PeerError::NameTaken(_) => ApiError::new(
            StatusCode::CONFLICT,
            error.to_string(),
            "choose another name, or remove it with `orfe-registry peer remove`",
        ),
        PeerError::KeyTaken(_) => ApiError::new(
            StatusCode::CONFLICT,
            error.to_string(),
            "each client has a key pair of its own; make a new one with `wg genkey`",
        ),
    }
}

fn check(request: &api::AddPeer, gateway: &GatewayRole) -> Result<(), ApiError> {
    request.check()?;
    let bad = |message: String, hint: &str| Err(ApiError::new(StatusCode::BAD_REQUEST, message, hint));
    if request.wireguard_public_key == gateway.public_key() {
        return bad(
            "that is the gateway's own public key".to_owned(),
            "see `--public-key`",
        );
    }
    if let Some(key) = &request.preshared_key
        && key.expose().parse::<PresharedKey>().is_err()
    {
        return bad("the preshared key is no key".to_owned(), "`wg genpsk` makes one");
    }
    let allowed = request.allowed.as_deref().unwrap_or_default();
    match allowed.iter().find(|text| !gateway.policy.has_entry(text)) {
        Some(text) => bad(
            format!("the policy has no entry `{text}`"),
            "`--allowed` takes a name or network as it stands in [[policy.allow]]",
        ),
        None => Ok(()),
    }
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Json<api::PeerList> {
    let now = Timestamp::now();
    let peers = admin.shared.people.all();
    let peers = peers.iter().map(|peer| view(&admin, peer, now)).collect();
    Json(api::PeerList {
        version: api::VERSION,
        peers,
    })
}

pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
) -> Result<Json<api::PeerAnswer>, ApiError> {
    let peer = find(&admin, &name)?;
    Ok(Json(answer(&admin, gateway(&admin)?, &peer)))
}

pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
) -> Result<Json<api::Removed>, ApiError> {
    let peer = find(&admin, &name)?;
    admin.shared.store.peers().remove(&peer.name).await?;
    admin.shared.people.remove(&peer.name);
    admin.shared.admit_to_gateway();
    tracing::info!(peer = %peer.name, "peer removed");
    Ok(Json(api::Removed {
        version: api::VERSION,
        removed: peer.name.to_string(),
    }))
}

fn find(admin: &Admin, text: &str) -> Result<Peer, ApiError> {
    let name: Option<DeviceName> = text.parse().ok();
    name.and_then(|name| admin.shared.people.get(&name))
        .ok_or_else(|| {
            let message = format!("there is no peer `{text}`");
            ApiError::new(
                StatusCode::NOT_FOUND,
                message,
                "`orfe-registry peer list` names them all",
            )
        })
}

pub(super) fn gateway(admin: &Admin) -> Result<&GatewayRole, ApiError> {
    admin.shared.gateway.as_deref().ok_or_else(|| {
        ApiError::new(
            StatusCode::CONFLICT,
            "this registry runs no gateway",
            "set `enabled = true` in [tunnel] of the configuration",
        )
    })
}

fn answer(admin: &Admin, gateway: &GatewayRole, peer: &Peer) -> api::PeerAnswer {
    let v6 = gateway.policy.ula.address(Subnet::People, peer.inner_address);
    api::PeerAnswer {
        version: api::VERSION,
        peer: view(admin, peer, Timestamp::now()),
        client: api::ClientConfig {
            addresses: vec![format!("{}/32", peer.inner_address), format!("{v6}/128")],
            dns: vec![IpAddr::V4(PEOPLES_ADDRESS)],
            dns_is_whole: gateway.policy.resolves_everything(),
            gateway_public_key: gateway.public_key(),
            endpoint: admin.endpoint.clone(),
            allowed_ips: gateway.policy.allowed_ips(peer),
            keepalive_s: KEEPALIVE_S,
        },
    }
}

fn view(admin: &Admin, peer: &Peer, now: Timestamp) -> api::PeerView {
    let gateway = admin.shared.gateway.as_deref();
    let mut addresses = vec![IpAddr::V4(peer.inner_address)];
    addresses.extend(gateway.map(|gateway| {
        let v6 = gateway.policy.ula.address(Subnet::People, peer.inner_address);
        IpAddr::V6(v6)
    }));
    let state = if peer.is_current(now) {
        "current"
    } else {
        "expired"
    };
    api::PeerView {
        name: peer.name.clone(),
        state: state.to_owned(),
        wireguard_public_key: peer.wireguard_key,
        has_preshared_key: peer.preshared_key.is_some(),
        addresses,
        allowed: peer.allowed.clone(),
        note: peer.note.clone(),
        created_at: peer.created_at,
        expires_at: peer.expires_at,
        counters: gateway
            .and_then(|gateway| gateway.stats(&peer.wireguard_key))
            .map(|stats| counters(&stats)),
    }
}

pub(super) fn counters(stats: &PeerStats) -> api::PeerCounters {
    api::PeerCounters {
        endpoint: stats.endpoint,
        last_handshake_at: stats.last_handshake.and_then(wall),
        rx_bytes: stats.rx_bytes,
        tx_bytes: stats.tx_bytes,
        connections: stats.connections,
        udp_flows: stats.flows,
        forwarded: stats.forwarded,
        refused: stats.refused,
        failed: stats.failed,
        dropped: api::DroppedPackets {
            spoofed_source: stats.drops.spoofed_source,
            rejected: stats.drops.rejected,
            no_endpoint: stats.drops.no_endpoint,
            unsupported: stats.drops.unsupported,
            overflow: stats.drops.overflow,
        },
    }
}
