//! Join codes: made by an admin, used by devices, revoked by an admin. Only the secret's hash is kept.

use std::net::Ipv4Addr;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::join_code::JoinSecretHash;
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::tag::Tags;
use sqlx::sqlite::SqliteRow;

use crate::address::{AddressTable, JOIN_ADDRESSES, lowest_free};
use crate::column::{self, Columns};
use crate::database::{Store, commit};
use crate::error::StoreError;

/// A join code to be kept.
#[derive(Debug, Clone)]
pub struct NewJoinCode {
    pub id: JoinCodeId,
    pub secret_hash: JoinSecretHash,
    /// Tags that every device that joins with it is given.
    pub tags: Tags,
    /// For people: whom it is for.
    pub note: String,
    /// How many devices may join with it; at least 1.
    pub max_uses: u32,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    /// The one-time WireGuard key with which it is used through the tunnel.
    pub tunnel_key: Option<WireGuardPublicKey>,
}

/// A join code as it is kept, without anything secret.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinCodeRow {
    pub id: JoinCodeId,
    pub tags: Tags,
    pub note: String,
    pub max_uses: u64,
    pub uses: u64,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// The one-time WireGuard key and its address inside the tunnel.
    pub tunnel: Option<(WireGuardPublicKey, Ipv4Addr)>,
    /// Whether it was made to be used through the tunnel; stays so when its address is another code's.
    pub via_tunnel: bool,
}

impl JoinCodeRow {
    /// The one word for the code: `revoked`, `used`, `expired` or `open`.
    pub fn state(&self, now: Timestamp) -> &'static str {
        if self.revoked_at.is_some() {
            "revoked"
        } else if self.uses >= self.max_uses {
            "used"
        } else if self.expires_at <= now {
            "expired"
        } else {
            "open"
        }
    }

    pub(crate) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let columns = Columns(row);
        Ok(Self {
            id: columns.parsed("id")?,
            tags: columns.tags("tags")?,
            note: columns.text("note")?,
            max_uses: columns.count("max_uses")?,
            uses: columns.count("uses")?,
            created_at: columns.time("created_at")?,
            expires_at: columns.time("expires_at")?,
            revoked_at: columns.optional_time("revoked_at")?,
            tunnel: columns.join_tunnel()?,
            via_tunnel: columns.is_set("tunnel_key")?,
        })
    }
}

pub(crate) fn hash_text(hash: &JoinSecretHash) -> String {
    HEXLOWER.encode(&hash.0)
}

/// Repository of join codes.
#[derive(Debug, Clone, Copy)]
pub struct JoinCodes<'a>(pub(crate) &'a Store);

impl JoinCodes<'_> {
    /// Keeps a new code. Returns its address inside the tunnel, when it is to be used through it.
    pub async fn create(&self, code: &NewJoinCode) -> Result<Option<Ipv4Addr>, StoreError> {
        let what = "keep the join code";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let address = match &code.tunnel_key {
            Some(_) => {
                // An address is free again when its code is good no more: there are few of them.
                sqlx::query(
                    "UPDATE join_code SET tunnel_ipv4 = NULL
                     WHERE uses >= max_uses OR revoked_at IS NOT NULL OR expires_at <= $1",
                )
                .bind(column::time(code.created_at))
                .execute(&mut *transaction)
                .await
                .map_err(context.during(what))?;
                let range = &JOIN_ADDRESSES;
                Some(lowest_free(&mut transaction, context, AddressTable::JoinCode, range).await?)
            }
            None => None,
        };
        sqlx::query(
            "INSERT INTO join_code (id, secret_hash, tags, note, max_uses, created_at, expires_at,
                                    tunnel_key, tunnel_ipv4)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(code.id.to_string())
        .bind(hash_text(&code.secret_hash))
        .bind(column::tags(&code.tags)?)
        .bind(&code.note)
        .bind(i64::from(code.max_uses))
        .bind(column::time(code.created_at))
        .bind(column::time(code.expires_at))
        .bind(code.tunnel_key.map(|key| key.to_string()))
        .bind(address.map(column::address))
        .execute(&mut *transaction)
        .await
        .map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        Ok(address)
    }

    /// Every code, newest first.
    pub async fn list(&self) -> Result<Vec<JoinCodeRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, tags, note, max_uses, uses, created_at, expires_at, revoked_at,
                    tunnel_key, tunnel_ipv4
             FROM join_code ORDER BY created_at DESC, id DESC",
        )
        .fetch_all(self.0.reader())
        .await
        .map_err(self.0.context().during("list the join codes"))?;
        rows.iter().map(JoinCodeRow::read).collect()
    }

    /// Makes a code worthless. False when there is no such code; a code that was revoked before stays as it was.
    pub async fn revoke(&self, id: JoinCodeId, now: Timestamp) -> Result<bool, StoreError> {
        let what = "revoke the join code";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let result = sqlx::query("UPDATE join_code SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1")
            .bind(id.to_string())
            .bind(column::time(now))
            .execute(&mut *transaction)
            .await
            .map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        Ok(result.rows_affected() > 0)
    }
}
