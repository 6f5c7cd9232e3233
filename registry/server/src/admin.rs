//! The admin socket: HTTP over a Unix socket of mode 0600 in the data folder, for the CLI on the same machine.
//!
//! | route | what |
//! |---|---|
//! | `POST /v1/join-codes` | makes a join code, and shows it the one time |
//! | `GET /v1/join-codes` | all of them, without secrets |
//! | `POST /v1/join-codes/{id}/revoke` | makes one worthless |
//! | `GET /v1/devices`, `GET /v1/devices/{name}` | devices |
//! | `POST /v1/devices/{name}/revoke` | a device may not come back; its session and tunnel end at once |
//! | `POST /v1/devices/{name}/tags` | a device's granted tags change; gateway and device learn it at once |
//! | `POST /v1/peers`, `GET /v1/peers`, `GET /v1/peers/{name}` | people's WireGuard clients |
//! | `POST /v1/peers/{name}/remove` | one is gone; its tunnel ends at once |
//! | `GET /v1/gateway` | the gateway's keys and addresses |
//! | `POST /v1/gateway/rotate`, `POST /v1/gateway/finish` | a new key beside the old one; the old one ends |
//! | `POST /v1/dashboard-links` | a one-time link |
//!
//! Who may open the socket may do all of it: the file's mode is the check.

mod gateway;
mod peers;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::join_code::{JoinCode, JoinSecret, SpkiPin, WayIn};
use orfe_protocol::name::DeviceName;
use orfe_protocol::tag::{Tag, Tags};
use orfe_store::{JoinCodeRow, NewJoinCode, StoreError};
use tokio::sync::watch;
use url::Url;

use crate::api;
use crate::dashboard::Access;
use crate::desired::Plan;
use crate::fleet::DeviceRow;
use crate::joining::Joiner;
use crate::session::Closing;
use crate::shared::Shared;

/// What the admin routes need.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) public_url: Url,
    pub(crate) pin: Option<SpkiPin>,
    pub(crate) access: Access,
    /// Where the dashboard is, such as `http://127.0.0.1:7480`.
    pub(crate) dashboard_url: String,
    /// Where the gateway's UDP port is, `host:port`; empty without a gateway.
    pub(crate) endpoint: String,
    /// What holds for every device; a change of the gateway's key changes it.
    pub(crate) plan: watch::Sender<Arc<Plan>>,
}

/// The routes.
pub(crate) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/v1/join-codes", get(list_join_codes).post(create_join_code))
        .route("/v1/join-codes/{id}/revoke", post(revoke_join_code))
        .route("/v1/devices", get(list_devices))
        .route("/v1/devices/{name}", get(show_device))
        .route("/v1/devices/{name}/revoke", post(revoke_device))
        .route("/v1/devices/{name}/tags", post(tag_device))
        .route("/v1/gateway", get(gateway::show))
        .route("/v1/gateway/rotate", post(gateway::rotate))
        .route("/v1/gateway/finish", post(gateway::finish))
        .route("/v1/peers", get(peers::list).post(peers::add))
        .route("/v1/peers/{name}", get(peers::show))
        .route("/v1/peers/{name}/remove", post(peers::remove))
        .route("/v1/dashboard-links", post(create_link))
        .with_state(admin)
}

/// An answer that is no success.
struct ApiError {
    status: StatusCode,
    message: String,
    hint: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>, hint: &str) -> Self {
        Self {
            status,
            message: message.into(),
            hint: Some(hint.to_owned()),
        }
    }

    fn no_device(name: &str) -> Self {
        let message = format!("there is no device `{name}`");
        Self::new(
            StatusCode::NOT_FOUND,
            message,
            "`orfe-registry device list` names them all",
        )
    }

    fn no_join_code(id: &str) -> Self {
        let message = format!("there is no join code `{id}`");
        Self::new(
            StatusCode::NOT_FOUND,
            message,
            "`orfe-registry join-code list` names them all",
        )
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        // The caller is an admin of this machine, so the whole chain helps and tells no secret.
        let message = crate::chain(&error);
        tracing::error!(error = message, "an admin request failed");
        let hint = error.hint().map(ToOwned::to_owned);
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message,
            hint,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = api::ErrorBody {
            message: self.message,
            hint: self.hint,
        };
        (self.status, Json(api::ErrorAnswer { error })).into_response()
    }
}

async fn create_join_code(
    State(admin): State<Arc<Admin>>,
    Json(request): Json<api::CreateJoinCode>,
) -> Result<Json<api::CreatedJoinCode>, ApiError> {
    check(&request)?;
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

fn check(request: &api::CreateJoinCode) -> Result<(), ApiError> {
    let bad = |message: String, hint: &str| Err(ApiError::new(StatusCode::BAD_REQUEST, message, hint));
    if !(1..=api::JOIN_CODE_USES_MAX).contains(&request.uses) {
        let message = format!(
            "a join code has 1 to {} uses, not {}",
            api::JOIN_CODE_USES_MAX,
            request.uses
        );
        return bad(message, "see `--uses`");
    }
    if request.via_tunnel && request.uses != 1 {
        let message = format!(
            "a join code with `--via-tunnel` has one use, not {}",
            request.uses
        );
        return bad(message, "leave `--uses` out and make a code for each device");
    }
    if !(1..=api::JOIN_CODE_TTL_MAX_S).contains(&request.ttl_s) {
        return bad("a join code lives 1 second to 7 days".to_owned(), "see `--ttl`");
    }
    if request.note.chars().count() > api::NOTE_MAX || request.note.chars().any(char::is_control) {
        return bad(
            format!("a note is one line of {} characters at most", api::NOTE_MAX),
            "see `--note`",
        );
    }
    Ok(())
}

async fn list_join_codes(State(admin): State<Arc<Admin>>) -> Result<Json<api::JoinCodeList>, ApiError> {
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

async fn revoke_join_code(
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

async fn list_devices(State(admin): State<Arc<Admin>>) -> Json<api::DeviceList> {
    let rows = admin.shared.fleet.rows();
    let devices = rows.into_iter().filter_map(|row| admin.view(row)).collect();
    Json(api::DeviceList {
        version: api::VERSION,
        devices,
    })
}

async fn show_device(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
) -> Result<Json<api::DeviceAnswer>, ApiError> {
    let device = admin.row(&name).and_then(|row| admin.view(row));
    let device = device.ok_or_else(|| ApiError::no_device(&name))?;
    Ok(Json(api::DeviceAnswer {
        version: api::VERSION,
        device,
    }))
}

async fn revoke_device(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
) -> Result<Json<api::Done>, ApiError> {
    let row = admin.row(&name).ok_or_else(|| ApiError::no_device(&name))?;
    let revoked_at = admin
        .shared
        .store
        .devices()
        .revoke(row.id, Timestamp::now())
        .await?;
    let revoked_at = revoked_at.ok_or_else(|| ApiError::no_device(&name))?;
    if let Some(session) = admin.shared.fleet.revoked(row.id, revoked_at) {
        session.close(Closing::REVOKED);
    }
    admin.shared.admit_to_gateway();
    tracing::info!(device = %row.name, "device revoked");
    Ok(Json(api::Done {
        version: api::VERSION,
        revoked: row.name.to_string(),
    }))
}

async fn tag_device(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    Json(request): Json<api::ChangeTags>,
) -> Result<Json<api::DeviceAnswer>, ApiError> {
    let row = admin.row(&name).ok_or_else(|| ApiError::no_device(&name))?;
    let kept = row
        .granted_tags
        .iter()
        .filter(|(key, _)| !request.remove.iter().any(|removed| removed == key));
    let kept: Tags = kept
        .filter_map(|(key, value)| Tag::new(key, value).ok())
        .collect();
    let tags = kept.overlaid(&request.set);
    if !admin.shared.store.devices().set_tags(row.id, &tags).await? {
        return Err(ApiError::no_device(&name));
    }
    tracing::info!(device = %row.name, %tags, "device's tags changed");
    let session = admin.shared.fleet.retagged(row.id, tags);
    // The gateway first, so that the device finds open what it is told of.
    admin.shared.admit_to_gateway();
    if let Some(session) = session {
        session.tell();
    }
    show_device(State(admin), Path(name)).await
}

async fn create_link(State(admin): State<Arc<Admin>>) -> Json<api::DashboardLink> {
    Json(api::DashboardLink {
        version: api::VERSION,
        url: admin.link(),
    })
}

impl Admin {
    /// A new one-time link into the dashboard.
    pub(crate) fn link(&self) -> String {
        self.access.create_link(&self.dashboard_url)
    }

    fn row(&self, name: &str) -> Option<DeviceRow> {
        self.shared.fleet.row(&name.parse::<DeviceName>().ok()?)
    }

    fn view(&self, row: DeviceRow) -> Option<api::DeviceView> {
        let device = self.shared.fleet.device(row.id)?;
        Some(api::DeviceView {
            state: row.state().to_owned(),
            id: row.id,
            name: row.name,
            granted_tags: row.granted_tags,
            inner_address: device.inner_address,
            noise_public_key: device.noise_key,
            wireguard_public_key: device.wireguard_key,
            created_at: row.created_at,
            revoked_at: device.revoked_at,
            last_seen_at: row.last_seen_at,
            session_since: row.session_since,
            tunnel_handshake_at: row.tunnel_handshake_at,
            counters: self
                .shared
                .gateway
                .as_deref()
                .and_then(|gateway| gateway.stats(&device.wireguard_key))
                .map(|stats| peers::counters(&stats)),
            goodbye: self.shared.fleet.goodbye(row.id),
            observed: row.observed.as_deref().cloned(),
        })
    }
}
