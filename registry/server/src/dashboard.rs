//! The dashboard: one page with the live list of devices, for a person on the registry's own machine.
//!
//! It is rendered here (askama) and complete without scripts. Where the build could embed htmx, the page
//! also listens at `/events`, and the list is replaced in place whenever the fleet changes.
//!
//! | path | what | needs a session |
//! |---|---|---|
//! | `/` | the list of devices | yes |
//! | `/events` | server-sent events, each the whole list anew | yes |
//! | `/enter/{token}` | a one-time link: gives the session cookie and redirects to `/` | no |
//! | `/assets/{digest}/{name}` | style, scripts and icon, immutable | no |
//!
//! It is meant for a plain-http listener on loopback. What stands between it and everyone else on the
//! machine and in its browser: the one-time link and cookie ([`Access`]), a check of `Host` against DNS
//! rebinding, a check of `Origin` on whatever is not a read, and a content security policy that lets a page
//! load nothing but this crate's own files.
//!
//! What can fail: a request without a session gets 401 and a page that says how to get a link; a foreign
//! `Host` gets 421; more streams than are kept at a time get 503, and that page says that it is paused.

mod access;
mod assets;
mod guard;
mod live;
mod pages;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Router, middleware};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use self::access::{Access, Clock, LINK_LIFE, SESSION_LIFE};
use self::assets::Assets;
use self::pages::{DevicesPage, Notice};
use self::view::FleetPage;
use crate::fleet::{DeviceRow, Fleet};

/// Event streams that are kept at one time, that is, tabs that show the page. Each renders the list for
/// itself, so the number bounds the work that one change causes; who comes later is told 503 and
/// works by reload.
const STREAMS_MAX: usize = 32;

/// What the dashboard needs to know of the fleet.
pub trait FleetView: Send + Sync + 'static {
    /// All devices as they are now, in any order.
    fn rows(&self) -> Vec<DeviceRow>;

    /// A counter that grows whenever `rows` would answer something else.
    fn changes(&self) -> watch::Receiver<u64>;
}

impl FleetView for Fleet {
    fn rows(&self) -> Vec<DeviceRow> {
        Self::rows(self)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        Self::changes(self)
    }
}

/// What every handler shares.
#[derive(Clone)]
struct Dashboard {
    fleet: Arc<dyn FleetView>,
    access: Access,
    assets: Arc<Assets>,
    /// The port that requests come in on; it is part of a right `Host` and of the cookie's name.
    port: u16,
    streams: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// The dashboard over `fleet`, for a listener on loopback at `port`. Streams end when `shutdown` is
/// cancelled, so that a graceful shutdown of the listener need not wait for browsers.
pub fn router(fleet: impl FleetView, access: Access, port: u16, shutdown: CancellationToken) -> Router {
    Dashboard::new(fleet, access, Assets::embedded(), port, shutdown).router()
}

impl Dashboard {
    fn new(
        fleet: impl FleetView,
        access: Access,
        assets: Assets,
        port: u16,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            fleet: Arc::new(fleet),
            access,
            assets: Arc::new(assets),
            port,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            shutdown,
        }
    }

    fn router(self) -> Router {
        let guarded = Router::new()
            .route("/", get(devices))
            .route("/events", get(live::events))
            .route_layer(middleware::from_fn_with_state(
                self.clone(),
                guard::require_session,
            ));
        Router::new()
            .merge(guarded)
            .route("/enter/{token}", get(enter))
            .route("/assets/{digest}/{name}", get(asset))
            .fallback(not_found)
            .layer(middleware::from_fn_with_state(
                self.clone(),
                guard::require_loopback,
            ))
            .layer(middleware::map_response(guard::secure))
            .with_state(self)
    }
}

/// `/`: the list of devices.
async fn devices(State(dashboard): State<Dashboard>) -> Response {
    let fleet = FleetPage::new(dashboard.fleet.rows(), dashboard.access.now());
    pages::respond(
        StatusCode::OK,
        &DevicesPage {
            assets: &dashboard.assets,
            fleet,
        },
    )
}

/// `/enter/{token}`: turns a one-time link into a session.
async fn enter(
    State(dashboard): State<Dashboard>,
    method: Method,
    headers: HeaderMap,
    Path(token): Path<String>,
) -> Response {
    // Link checkers and previews ask with HEAD; that must not use the link up.
    if method == Method::HEAD {
        return StatusCode::NO_CONTENT.into_response();
    }
    let Some(session) = dashboard.access.enter(&token) else {
        return pages::respond(StatusCode::UNAUTHORIZED, &Notice::link_spent(&dashboard.assets));
    };
    let cookie = guard::session_cookie(dashboard.port, &session);
    // A browser that follows the link from another site counts the redirect as that site's too, and sends no
    // Strict cookie with it. A page that goes on by itself is a fresh start.
    let from_another_site = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site");
    let onward = if from_another_site {
        pages::respond(StatusCode::OK, &Notice::entered(&dashboard.assets))
    } else {
        Redirect::to("/").into_response()
    };
    ([(header::SET_COOKIE, cookie)], onward).into_response()
}

/// `/assets/{digest}/{name}`: an embedded file under the digest of its content.
async fn asset(State(dashboard): State<Dashboard>, Path((digest, name)): Path<(String, String)>) -> Response {
    match dashboard.assets.find(&digest, &name) {
        Some(asset) => asset.into_response(),
        None => not_found(State(dashboard)).await,
    }
}

async fn not_found(State(dashboard): State<Dashboard>) -> Response {
    pages::respond(StatusCode::NOT_FOUND, &Notice::not_found(&dashboard.assets))
}
