//! The admin routes of join codes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::join_code::{JoinCode, JoinSecret, WayIn};
use orfe_store::{JoinCodeRow, NewJoinCode};

use super::{Admin, ApiError};
use crate::api;
use crate::joining::Joiner;

pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Json(request): Json<api::CreateJoinCode>,
) -> Result<Json<api::CreatedJoinCode>, ApiError> {
    request.check()?;
    let gateway = if request.via_tunnel {
        Some(admin.way_in()?)
    } else {
        None
    };
    let random = |error: getrandom::Error| ApiError {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        message: format!("the system gives no random numbers: {error}"),
        hint: None,
    };
    let created_at = Timestamp::now();
    let new = |secret: &JoinSecret| NewJoinCode {
        id: JoinCodeId::generate(),
        secret_hash: secret.hash(),
        tags: request.tags.clone(),
        note: request.note.clone(),
        max_uses: request.uses,
        created_at,
        expires_at: created_at
            .saturating_add(Duration::from_secs(request.ttl_s))
            .unwrap_or(Timestamp::MAX),
        tunnel_key: request.via_tunnel.then(|| secret.tunnel_public_key()),
    };
    let secret = JoinSecret::generate().map_err(random)?;
    let row = new(&secret);
    let address = admin.shared.store.join_codes().create(&row).await?;
    let way_in = (address.zip(gateway)).map(|(address, gateway)| WayIn { address, ..gateway });
    if let (Some(way_in), Some(key)) = (&way_in, row.tunnel_key) {
        let joiner = Joiner {
            key,
            address: way_in.address,
            until: row.expires_at,
        };
        admin.shared.joining.created(row.id, joiner);
        // Before the code is shown, so that its first handshake is not lost on a gateway that knows it not.
        admin.shared.admit_to_gateway();
    }
    let code = JoinCode {
        registry_url: admin.public_url.clone(),
        id: row.id,
        secret,
        registry_key: admin.shared.noise_key.public_key(),
        spki_pin: admin.pin,
        way_in,
    };
    tracing::info!(join_code = %row.id, uses = row.max_uses, via_tunnel = request.via_tunnel, "join code created");
    Ok(Json(api::CreatedJoinCode {
        version: api::VERSION,
        id: row.id,
        code: code.to_text().to_string(),
        expires_at: row.expires_at,
    }))
}

impl Admin {
    /// The way in as a join code tells it, but for the device's address.
    fn way_in(&self) -> Result<WayIn, ApiError> {
        let plan = self.plan.borrow();
        let gateway = plan.tunnel.as_ref().map(|tunnel| &tunnel.gateway);
        let registry = gateway.and_then(|gateway| gateway.registry);
        let (Some(gateway), Some(SocketAddr::V4(registry))) = (gateway, registry) else {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "this registry runs no gateway, so nobody can join through it",
                "set `enabled = true` under `[tunnel]`, or leave `--via-tunnel` out",
            ));
        };
        Ok(WayIn {
            gateway_key: gateway.public_key,
            address: Ipv4Addr::UNSPECIFIED,
            registry,
            endpoints: gateway.endpoints.clone(),
        })
    }
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<api::JoinCodeList>, ApiError> {
    let now = Timestamp::now();
    let rows = admin.shared.store.join_codes().list().await?;
    let join_codes = rows.into_iter().map(|row| view(row, now)).collect();
    Ok(Json(api::JoinCodeList {
        version: api::VERSION,
        join_codes,
    }))
}

fn view(row: JoinCodeRow, now: Timestamp) -> api::JoinCodeView {
    api::JoinCodeView {
        state: row.state(now).to_owned(),
        id: row.id,
        uses: row.uses,
        max_uses: row.max_uses,
        via_tunnel: row.via_tunnel,
        tags: row.tags,
        note: row.note,
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
    }
}

pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    Path(text): Path<String>,
) -> Result<Json<api::Done>, ApiError> {
    let id: JoinCodeId = text.parse().map_err(|_| ApiError::no_join_code(&text))?;
    if !admin
        .shared
        .store
        .join_codes()
        .revoke(id, Timestamp::now())
        .await?
    {
        return Err(ApiError::no_join_code(&text));
    }
    admin.shared.joining.revoked(id);
    admin.shared.admit_to_gateway();
    tracing::info!(join_code = %id, "join code revoked");
    Ok(Json(api::Done {
        version: api::VERSION,
        revoked: id.to_string(),
    }))
}
