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

mod devices;
mod gateway;
mod join_codes;
mod peers;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use orfe_protocol::join_code::SpkiPin;
use orfe_store::StoreError;
use tokio::sync::watch;
use url::Url;

use crate::api;
use crate::dashboard::Access;
use crate::desired::Plan;
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
        .route("/v1/join-codes", get(join_codes::list).post(join_codes::create))
        .route("/v1/join-codes/{id}/revoke", post(join_codes::revoke))
        .route("/v1/devices", get(devices::list))
        .route("/v1/devices/{name}", get(devices::show))
        .route("/v1/devices/{name}/revoke", post(devices::revoke))
        .route("/v1/devices/{name}/tags", post(devices::tag))
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

impl From<api::Refused> for ApiError {
    fn from(refused: api::Refused) -> Self {
        Self::new(StatusCode::BAD_REQUEST, refused.to_string(), refused.hint())
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
}
