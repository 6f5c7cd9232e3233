//! People's plain WireGuard clients. The private key is never here; a preshared key is, because the gateway needs it.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::name::DeviceName;
use orfe_protocol::secret::Secret;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::address::{AddressTable, PEER_ADDRESSES, lowest_free};
use crate::column::{self, Columns};
use crate::database::{Store, commit};
use crate::error::StoreError;

/// A peer to be kept.
#[derive(Debug, Clone)]
pub struct NewPeer {
    /// What it is called; the rule for devices holds for people, too.
    pub name: DeviceName,
    pub wireguard_key: WireGuardPublicKey,
    pub preshared_key: Option<Secret>,
    /// The only destinations of the policy that it may reach; none for all that policy gives people.
    pub allowed: Option<Vec<String>>,
    pub note: String,
    pub created_at: Timestamp,
    /// None: it does not end by itself.
    pub expires_at: Option<Timestamp>,
}

/// A person's WireGuard client.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    pub name: DeviceName,
    pub wireguard_key: WireGuardPublicKey,
    pub preshared_key: Option<Secret>,
    /// Its address inside the tunnel.
    pub inner_address: Ipv4Addr,
    pub allowed: Option<Vec<String>>,
    pub note: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

impl Peer {
    /// Whether it may use the tunnel.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

/// Why a peer was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("there is a peer `{0}` already")]
    NameTaken(DeviceName),
    #[error("{0} has this public key already")]
    KeyTaken(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Repository of people's peers.
#[derive(Debug, Clone, Copy)]
pub struct Peers<'a>(pub(crate) &'a Store);

impl Peers<'_> {
    /// Keeps a new peer and gives it the lowest free address. A name stands once among peers, a key once among peers,
    /// devices and join codes.
    pub async fn add(&self, new: NewPeer) -> Result<Peer, PeerError> {
        let what = "keep the peer";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let owner = sqlx::query(
            "SELECT 'device ' || name AS owner FROM device WHERE wireguard_key = $1
             UNION ALL SELECT 'peer ' || name FROM peer WHERE wireguard_key = $1
             UNION ALL SELECT 'join code ' || id FROM join_code WHERE tunnel_key = $1",
        )
        .bind(new.wireguard_key.to_string())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(context.during(what))?;
        if let Some(row) = owner {
            return Err(PeerError::KeyTaken(Columns(&row).text("owner")?));
        }
        let taken = sqlx::query("SELECT 1 FROM peer WHERE name = $1")
            .bind(new.name.as_str())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(context.during(what))?;
        if taken.is_some() {
            return Err(PeerError::NameTaken(new.name));
        }
        let address = lowest_free(&mut transaction, context, AddressTable::Peer, &PEER_ADDRESSES).await?;
        sqlx::query(
            "INSERT INTO peer (name, wireguard_key, preshared_key, inner_ipv4, allowed, note, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(new.name.as_str())
        .bind(new.wireguard_key.to_string())
        .bind(new.preshared_key.as_ref().map(|key| key.expose().to_owned()))
        .bind(column::address(address))
        .bind(new.allowed.as_ref().map(column::json).transpose()?)
        .bind(&new.note)
        .bind(column::time(new.created_at))
        .bind(new.expires_at.map(column::time))
        .execute(&mut *transaction)
        .await
        .map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        Ok(Peer {
            name: new.name,
            wireguard_key: new.wireguard_key,
            preshared_key: new.preshared_key,
            inner_address: address,
            allowed: new.allowed,
            note: new.note,
            created_at: new.created_at,
            expires_at: new.expires_at,
        })
    }

    /// Every peer, those that have expired included, in the order of their names.
    pub async fn list(&self) -> Result<Vec<Peer>, StoreError> {
        let rows = sqlx::query("SELECT * FROM peer ORDER BY name")
            .fetch_all(self.0.reader())
            .await
            .map_err(self.0.context().during("list the peers"))?;
        rows.iter().map(read).collect()
    }

    /// Forgets a peer. False when there is none of that name.
    pub async fn remove(&self, name: &DeviceName) -> Result<bool, StoreError> {
        let what = "remove the peer";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let result = sqlx::query("DELETE FROM peer WHERE name = $1")
            .bind(name.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        Ok(result.rows_affected() > 0)
    }
}

fn read(row: &SqliteRow) -> Result<Peer, StoreError> {
    let columns = Columns(row);
    let optional = |column: &'static str| -> Result<Option<String>, StoreError> {
        row.try_get(column).map_err(|error| StoreError::Content {
            column,
            source: error.into(),
        })
    };
    Ok(Peer {
        name: columns.parsed("name")?,
        wireguard_key: columns.parsed("wireguard_key")?,
        preshared_key: optional("preshared_key")?.map(Secret::new),
        inner_address: columns.address("inner_ipv4")?,
        allowed: optional("allowed")?
            .map(|_| columns.json("allowed"))
            .transpose()?,
        note: columns.text("note")?,
        created_at: columns.time("created_at")?,
        expires_at: columns.optional_time("expires_at")?,
    })
}
