//! `GET /api/v2/entitlements`: what the licence allows, cut to the features that matter here.

use serde_json::{Value, json};

/// The answer with and without a licence.
pub(super) fn shown(licensed: bool) -> Value {
    let feature = |entitled: bool| {
        let entitlement = if entitled { "entitled" } else { "not_entitled" };
        json!({ "entitlement": entitlement, "enabled": entitled })
    };
    json!({
        "features": {
            "audit_log": feature(false),
            "external_provisioner_daemons": feature(licensed),
            "multiple_organizations": feature(licensed),
        },
        "warnings": [],
        "errors": [],
        "has_license": licensed,
        "trial": false,
        "require_telemetry": false,
        "refreshed_at": jiff::Timestamp::now().to_string(),
    })
}
