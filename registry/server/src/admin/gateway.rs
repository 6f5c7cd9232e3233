//! The admin routes of the gateway's keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use orfe_protocol::key::WireGuardPublicKey;

use super::peers::gateway;
use super::{Admin, ApiError};
use crate::api;
use crate::desired::{Plan, TunnelPlan};
use crate::gateway::GatewayRole;
use crate::state_folder::StateFolderError;

pub(super) async fn show(State(admin): State<Arc<Admin>>) -> Result<Json<api::GatewayAnswer>, ApiError> {
    Ok(Json(answer(&admin, gateway(&admin)?)))
}

pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    Json(request): Json<api::RotateKey>,
) -> Result<Json<api::GatewayAnswer>, ApiError> {
    let gateway = gateway(&admin)?;
    request.check()?;
    let until = request.after_s.map(|after| {
        let after = SignedDuration::from_secs(i64::try_from(after).unwrap_or(i64::MAX));
        Timestamp::now().saturating_add(after).unwrap_or(Timestamp::MAX)
    });
    let Some(key) = gateway.rotate(until).map_err(|error| failed(&error))? else {
        let message = "the change of keys before this one is not finished";
        let hint = "`orfe-registry gateway rotate-key --finish` ends the old key";
        return Err(ApiError::new(StatusCode::CONFLICT, message, hint));
    };
    tracing::info!(public_key = %key, "the gateway has a new key beside the old one");
    tell(&admin, key);
    Ok(Json(answer(&admin, gateway)))
}

pub(super) async fn finish(State(admin): State<Arc<Admin>>) -> Result<Json<api::GatewayAnswer>, ApiError> {
    let gateway = gateway(&admin)?;
    if !gateway.finish_rotation().map_err(|error| failed(&error))? {
        let message = "no change of keys is under way";
        let hint = "`orfe-registry gateway rotate-key` begins one";
        return Err(ApiError::new(StatusCode::CONFLICT, message, hint));
    }
    tracing::info!("the gateway's old key has ended");
    Ok(Json(answer(&admin, gateway)))
}

/// Every device learns the new key with its desired state.
fn tell(admin: &Admin, public_key: WireGuardPublicKey) {
    admin.plan.send_modify(|plan| {
        let Some(tunnel) = &plan.tunnel else { return };
        let mut gateway = tunnel.gateway.clone();
        gateway.public_key = public_key;
        let tunnel = TunnelPlan {
            gateway,
            policy: tunnel.policy.clone(),
        };
        *plan = Arc::new(Plan {
            tunnel: Some(tunnel),
            ..(**plan).clone()
        });
    });
}

fn failed(error: &StateFolderError) -> ApiError {
    let message = crate::chain(error);
    tracing::error!(error = message, "the gateway's key was not changed");
    let hint = error.hint().unwrap_or_else(|| "nothing was changed".to_owned());
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message, &hint)
}

fn answer(admin: &Admin, gateway: &GatewayRole) -> api::GatewayAnswer {
    let old_key = gateway.old_key().map(|(public_key, until)| api::OldKeyView {
        public_key,
        until,
        still_used_by: gateway.users_of(&public_key),
    });
    let also = admin.plan.borrow().tunnel.as_ref().map(|tunnel| {
        let udp = tunnel.gateway.endpoints.iter().skip(1).cloned();
        udp.chain(tunnel.gateway.websocket.as_ref().map(ToString::to_string))
            .collect()
    });
    let tcp = gateway.tcp();
    api::GatewayAnswer {
        version: api::VERSION,
        public_key: gateway.public_key(),
        old_key,
        endpoint: admin.endpoint.clone(),
        also: also.unwrap_or_default(),
        addresses: gateway.policy.own_addresses(),
        tcp: Some(api::TcpView {
            stack: tcp.name.to_owned(),
            congestion_control: tcp.congestion_control.as_deref().map(ToOwned::to_owned),
            reason: tcp.reason.to_string(),
            hint: tcp.hint.map(ToOwned::to_owned),
        }),
    }
}
