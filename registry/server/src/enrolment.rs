//! A claim that came in over a session: limited by source, decided by the store, answered without telling more than
//! the other side has earned.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Instant;

use jiff::Timestamp;
use orfe_protocol::join_code::JoinSecret;
use orfe_protocol::key::NoisePublicKey;
use orfe_protocol::message::{Claim, Claimed, Refused, RefusedReason};
use orfe_store::{ClaimError, ClaimRefusal, ClaimRequest};
use orfe_tunnel::PublicKey;

use crate::connection::{refused, unavailable};
use crate::shared::Shared;

/// Enrols the device that has this key, if its join code is good.
pub(crate) async fn claim(
    shared: &Shared,
    source: IpAddr,
    key: NoisePublicKey,
    claim: &Claim,
) -> Result<Claimed, Refused> {
    let is_granted = (shared.claims.lock())
        .unwrap_or_else(PoisonError::into_inner)
        .take(source, Instant::now());
    if !is_granted {
        tracing::warn!(%source, "too many claims from one address");
        return Err(refused(
            RefusedReason::Unavailable,
            "too many claims from this address; wait a moment",
        ));
    }
    // With a point of low order for a key, anybody could later come in as this device.
    let keys = [
        ("Noise", key.as_bytes()),
        ("WireGuard", claim.wireguard_public_key.as_bytes()),
    ];
    if let Some((kind, _)) = keys
        .into_iter()
        .find(|(_, bytes)| PublicKey::from(**bytes).is_low_order())
    {
        tracing::warn!(%source, join_code = %claim.join_code, "claim with a {kind} key that belongs to no private key refused");
        return Err(refused(
            RefusedReason::WeakKey,
            "a public key of this device belongs to no private key; join with new keys",
        ));
    }
    let Some(secret) = JoinSecret::from_text(claim.secret.expose()) else {
        return Err(refusal(ClaimRefusal::WrongSecret));
    };
    let request = ClaimRequest {
        join_code: claim.join_code,
        secret_hash: secret.hash(),
        noise_key: key,
        wireguard_key: claim.wireguard_public_key,
        name: claim.name.clone(),
    };
    let device = match shared.store.devices().claim(&request, Timestamp::now()).await {
        Ok(device) => device,
        Err(ClaimError::Refused(reason)) => {
            tracing::warn!(%source, join_code = %claim.join_code, %reason, "claim refused");
            return Err(refusal(reason));
        }
        Err(ClaimError::Store(error)) => return Err(unavailable(&error)),
    };
    tracing::info!(%source, device = %device.name, join_code = %claim.join_code, "device enrolled");
    let plan = shared.plan.borrow().clone();
    let tunnel = plan.tunnel.as_ref().map(|plan| plan.for_device(&device));
    let claimed = Claimed {
        device: device.id,
        name: device.name.clone(),
        tunnel: tunnel.map(Box::new),
    };
    shared.fleet.enrolled(device);
    shared.joining.claimed(claim.join_code, Timestamp::now());
    // Before the device is answered, so that its first handshake is not lost on a gateway that knows it not.
    shared.admit_to_gateway();
    Ok(claimed)
}

/// What is wrong with a code is told apart only to whoever has its secret.
fn refusal(reason: ClaimRefusal) -> Refused {
    let (reason, message) = match reason {
        ClaimRefusal::UnknownCode | ClaimRefusal::WrongSecret => {
            (RefusedReason::JoinCodeInvalid, "the join code is not good here")
        }
        ClaimRefusal::Revoked => (RefusedReason::JoinCodeRevoked, "the join code was revoked"),
        ClaimRefusal::Expired => (RefusedReason::JoinCodeExpired, "the join code has expired"),
        ClaimRefusal::Used => (RefusedReason::JoinCodeUsed, "the join code was used already"),
        ClaimRefusal::WireGuardKeyTaken => (
            RefusedReason::WireGuardKeyTaken,
            "another device has this WireGuard key; join with new keys",
        ),
        ClaimRefusal::DeviceRevoked => (
            RefusedReason::DeviceRevoked,
            "this device was revoked; join with a new join code and new keys",
        ),
        ClaimRefusal::TooManyTags => (
            RefusedReason::TooManyTags,
            "with the code's tags this device would have more than a device may be granted",
        ),
    };
    refused(reason, message)
}
