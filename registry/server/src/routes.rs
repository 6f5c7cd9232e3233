//! What the HTTPS listener answers: agents' sessions, and whether the registry lives and works.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use orfe_protocol::noise::FRAME_MAX;
use orfe_protocol::{CONNECT_PATH, SUBPROTOCOL};

use crate::listener::Source;
use crate::shared::Shared;
use crate::{carrier, connection};

/// What a WebSocket reads at a time. The library's default of 128 KiB would be most of a session's memory.
const READ_BUFFER: usize = 4 * 1024;

/// What may wait to be written: one largest frame with its head, and room for a pong.
const WRITE_BUFFER_MAX: usize = 2 * FRAME_MAX;

/// The routes for agents and for whoever watches the registry.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(CONNECT_PATH, get(connect))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(shared.clone())
        .merge(carrier::router(shared))
}

/// The agents' WebSocket.
async fn connect(
    State(shared): State<Arc<Shared>>,
    Extension(Source(source)): Extension<Source>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(FRAME_MAX)
        .max_frame_size(FRAME_MAX);
    if upgrade.selected_protocol().is_none() {
        let body = Json(
            serde_json::json!({ "error": { "message": "no common subprotocol" }, "supported": [SUBPROTOCOL] }),
        );
        return (StatusCode::UPGRADE_REQUIRED, body).into_response();
    }
    let tasks = shared.tasks.clone();
    upgrade.on_upgrade(move |socket| tasks.track_future(connection::serve(socket, source.ip(), shared)))
}

/// Whether the registry can do its work now.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.store.check().await {
        Ok(()) if !shared.shutdown.is_cancelled() => "ready\n".into_response(),
        Ok(()) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
        Err(error) => {
            tracing::error!(error = crate::chain(&error), "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n").into_response()
        }
    }
}
