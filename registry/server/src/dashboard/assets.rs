//! The files that a page loads: embedded, served under the digest of their content, cached for ever.

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

/// htmx and its extension for server-sent events as the build found them; empty when it had no Node.
const LIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/live.js"));

/// One embedded file.
pub(super) struct Asset {
    /// Where it is served: `/assets/<16 hex digits of its SHA-256>/<name>`.
    pub(super) path: String,
    content_type: &'static str,
    bytes: &'static [u8],
}

/// All embedded files.
pub(super) struct Assets {
    pub(super) style: Asset,
    pub(super) icon: Asset,
    pub(super) script: Asset,
    /// What makes pages live; `None` when the build had no Node.
    pub(super) live: Option<Asset>,
}

impl Assets {
    /// What the build embedded.
    pub(super) fn embedded() -> Self {
        Self::with_live(LIVE)
    }

    /// With other bytes in the place of htmx; none at all make pages that work by reload.
    pub(super) fn with_live(live: &'static [u8]) -> Self {
        const SCRIPT: &str = "text/javascript; charset=utf-8";
        Self {
            style: Asset::new(
                "dashboard.css",
                "text/css; charset=utf-8",
                include_bytes!("../../assets/dashboard.css"),
            ),
            icon: Asset::new(
                "icon.svg",
                "image/svg+xml",
                include_bytes!("../../assets/icon.svg"),
            ),
            script: Asset::new(
                "dashboard.js",
                SCRIPT,
                include_bytes!("../../assets/dashboard.js"),
            ),
            live: (!live.is_empty()).then(|| Asset::new("live.js", SCRIPT, live)),
        }
    }

    /// The file at `/assets/<digest>/<name>`.
    pub(super) fn find(&self, digest: &str, name: &str) -> Option<&Asset> {
        let path = asset_path(digest, name);
        [
            Some(&self.style),
            Some(&self.icon),
            Some(&self.script),
            self.live.as_ref(),
        ]
        .into_iter()
        .flatten()
        .find(|asset| asset.path == path)
    }
}

impl Asset {
    fn new(name: &str, content_type: &'static str, bytes: &'static [u8]) -> Self {
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)[..8]);
        Self {
            path: asset_path(&digest, name),
            content_type,
            bytes,
        }
    }
}

impl IntoResponse for &Asset {
    fn into_response(self) -> Response {
        let headers: [(HeaderName, &'static str); 2] = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        ];
        (headers, self.bytes).into_response()
    }
}

fn asset_path(digest: &str, name: &str) -> String {
    format!("/assets/{digest}/{name}")
}
