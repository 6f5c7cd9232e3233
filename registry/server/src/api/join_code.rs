//! Join codes.

use jiff::Timestamp;
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::tag::Tags;
use serde::{Deserialize, Serialize};

use super::{Refused, check_note, check_tags};

/// Longest life of a join code, in seconds: 7 days.
pub const JOIN_CODE_TTL_MAX_S: u64 = 7 * 24 * 3600;

/// Most devices that one join code lets in.
pub const JOIN_CODE_USES_MAX: u32 = 1000;

/// A join code to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinCode {
    pub tags: Tags,
    pub uses: u32,
    pub ttl_s: u64,
    pub note: String,
    /// The code is used through the tunnel; then it has one use.
    #[serde(default)]
    pub via_tunnel: bool,
}

impl CreateJoinCode {
    /// Whether every value is within its range.
    pub fn check(&self) -> Result<(), Refused> {
        if !(1..=JOIN_CODE_USES_MAX).contains(&self.uses) {
            let message = format!(
                "a join code has 1 to {JOIN_CODE_USES_MAX} uses, not {}",
                self.uses
            );
            return Err(Refused::new(message, "see `--uses`"));
        }
        if self.via_tunnel && self.uses != 1 {
            let message = format!("a join code with `--via-tunnel` has one use, not {}", self.uses);
            return Err(Refused::new(
                message,
                "leave `--uses` out and make a code for each device; its one-time WireGuard key cannot be shared",
            ));
        }
        if !(1..=JOIN_CODE_TTL_MAX_S).contains(&self.ttl_s) {
            return Err(Refused::new(
                "a join code lives 1 second to 7 days",
                "see `--ttl`",
            ));
        }
        check_tags(&self.tags)?;
        check_note(&self.note)
    }
}

/// A join code that was made, with its secret: the only time that it is shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct CreatedJoinCode {
    pub version: u32,
    pub id: JoinCodeId,
    pub code: String,
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for CreatedJoinCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CreatedJoinCode")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// All join codes, newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinCodeList {
    pub version: u32,
    pub join_codes: Vec<JoinCodeView>,
}

/// A join code without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinCodeView {
    pub id: JoinCodeId,
    /// `open`, `used`, `expired` or `revoked`.
    pub state: String,
    pub uses: u64,
    pub max_uses: u64,
    /// Whether it is used through the tunnel.
    #[serde(default)]
    pub via_tunnel: bool,
    pub tags: Tags,
    pub note: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}
