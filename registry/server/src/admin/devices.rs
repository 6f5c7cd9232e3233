//! The admin routes of devices.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use orfe_protocol::name::DeviceName;
use orfe_protocol::tag::{Tag, Tags};

use super::{Admin, ApiError, peers};
use crate::api;
use crate::fleet::DeviceRow;
use crate::session::Closing;

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Json<api::DeviceList> {
    let rows = admin.shared.fleet.rows();
    let devices = rows.into_iter().filter_map(|row| admin.view(row)).collect();
    Json(api::DeviceList {
        version: api::VERSION,
        devices,
    })
}

pub(super) async fn show(
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

pub(super) async fn revoke(
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

pub(super) async fn tag(
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
    // A device that has more, by several codes of an earlier version, can still be rid of some.
    if !request.set.is_empty() {
        api::check_tags(&tags)?;
    }
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
    show(State(admin), Path(name)).await
}

impl Admin {
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
