//! Devices: who they are, what was last told to them, what they said last.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use orfe_protocol::id::{DeviceId, JoinCodeId, Revision};
use orfe_protocol::key::{NoisePublicKey, WireGuardPublicKey};
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::ObservedState;
use orfe_protocol::tag::Tags;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use crate::column::{self, Columns};
use crate::database::{Store, commit};
use crate::error::{ErrorContext, StoreError};

/// Most tags that a join code gives, or that a device is granted. Coder has no bound, but tags travel in one URL and in one
/// variable of the provisioner's environment, and each is [`TAG_PART_MAX`](orfe_protocol::tag::TAG_PART_MAX) twice at most.
pub const TAGS_MAX: usize = 32;

/// A device of the fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub id: DeviceId,
    /// Unique, also among revoked devices.
    pub name: DeviceName,
    pub noise_key: NoisePublicKey,
    pub wireguard_key: WireGuardPublicKey,
    /// Its address inside the tunnel.
    pub inner_address: Ipv4Addr,
    /// What its join code gave.
    pub tags: Tags,
    pub join_code: JoinCodeId,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// Number of its newest session; 0 before the first.
    pub session_epoch: u64,
    pub last_seen_at: Option<Timestamp>,
    /// Which desired state stands.
    pub desired: Revision,
}

/// Repository of devices.
#[derive(Debug, Clone, Copy)]
pub struct Devices<'a>(pub(crate) &'a Store);

impl Devices<'_> {
    /// The device that has this identity.
    pub async fn by_noise_key(&self, key: &NoisePublicKey) -> Result<Option<Device>, StoreError> {
        let what = "look the device up";
        let mut connection = self
            .0
            .reader()
            .acquire()
            .await
            .map_err(self.0.context().during(what))?;
        find(&mut connection, self.0.context(), Identity::Noise(key)).await
    }

    /// Every device, in the order of their names.
    pub async fn list(&self) -> Result<Vec<Device>, StoreError> {
        let rows = sqlx::query("SELECT * FROM device ORDER BY name")
            .fetch_all(self.0.reader())
            .await
            .map_err(self.0.context().during("list the devices"))?;
        rows.iter().map(read).collect()
    }

    /// Makes a device unwelcome for good. Returns when that was: now, or an earlier time if it was done before.
    pub async fn revoke(&self, id: DeviceId, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let what = "revoke the device";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let row = sqlx::query(
            "UPDATE device SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1 RETURNING revoked_at",
        )
        .bind(id.to_string())
        .bind(column::time(now))
        .fetch_optional(&mut *transaction)
        .await
        .map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        row.map_or(Ok(None), |row| Columns(&row).optional_time("revoked_at"))
    }

    /// Gives a device these tags in place of those that were granted before. False when there is no such device.
    pub async fn set_tags(&self, id: DeviceId, tags: &Tags) -> Result<bool, StoreError> {
        let what = "change the tags of the device";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let result = sqlx::query("UPDATE device SET tags = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(column::tags(tags)?)
            .execute(&mut *transaction)
            .await
            .map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        Ok(result.rows_affected() > 0)
    }

    /// The number of a new session, higher than that of every earlier one; none when the device is gone or
    /// revoked.
    pub async fn begin_session(&self, id: DeviceId, now: Timestamp) -> Result<Option<u64>, StoreError> {
        let what = "begin the session";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let row = sqlx::query(
            "UPDATE device SET session_epoch = session_epoch + 1, last_seen_at = $2
             WHERE id = $1 AND revoked_at IS NULL RETURNING session_epoch",
        )
        .bind(id.to_string())
        .bind(column::time(now))
        .fetch_optional(&mut *transaction)
        .await
        .map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        row.map(|row| Columns(&row).count("session_epoch")).transpose()
    }

    /// Says which revision a desired state with this digest has: the one that stands when nothing changed, else the
    /// next. A device that has a later one than we know (the database is an older copy of itself) gets one
    /// that is later still, so that it takes what is said from now on.
    pub async fn desire(
        &self,
        id: DeviceId,
        digest: &str,
        on_device: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        let what = "state what is desired of the device";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let row =
            sqlx::query("SELECT desired_epoch, desired_revision, desired_digest FROM device WHERE id = $1")
                .bind(id.to_string())
                .fetch_optional(&mut *transaction)
                .await
                .map_err(context.during(what))?;
        let Some(row) = row else { return Ok(None) };
        let stands = revision(&Columns(&row))?;
        let stands_digest: Option<String> = row.try_get("desired_digest").map_err(context.during(what))?;
        if stands_digest.as_deref() == Some(digest) && on_device <= stands {
            return Ok(Some(stands));
        }
        let base = stands.max(on_device);
        let next = Revision {
            epoch: base.epoch,
            revision: base.revision.saturating_add(1),
        };
        sqlx::query(
            "UPDATE device SET desired_epoch = $2, desired_revision = $3, desired_digest = $4 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(column::number(next.epoch, "the epoch of a desired state")?)
        .bind(column::number(next.revision, "the revision of a desired state")?)
        .bind(digest)
        .execute(&mut *transaction)
        .await
        .map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        Ok(Some(next))
    }

    /// Notes when devices were heard last, all in one transaction. An earlier time than the one that stands changes
    /// nothing.
    pub async fn record_seen(&self, seen: &[(DeviceId, Timestamp)]) -> Result<(), StoreError> {
        let what = "note when devices were seen";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        for (id, at) in seen {
            sqlx::query(
                "UPDATE device SET last_seen_at = $2
                 WHERE id = $1 AND (last_seen_at IS NULL OR last_seen_at < $2)",
            )
            .bind(id.to_string())
            .bind(column::time(*at))
            .execute(&mut *transaction)
            .await
            .map_err(context.during(what))?;
        }
        commit(transaction, context, what).await
    }

    /// Keeps what devices said of themselves, all in one transaction. Returns how many of them differ from what was
    /// kept; the others are not written.
    pub async fn record_observed(
        &self,
        observed: &[(DeviceId, &ObservedState)],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let what = "keep what a device said of itself";
        let context = self.0.context();
        let mut transaction = self.0.change(what).await?;
        let mut changed = 0;
        for (id, state) in observed {
            let state = serde_json::to_string(state).map_err(|error| StoreError::Content {
                column: "state",
                source: error.into(),
            })?;
            // The device may be gone by now; what it said goes with it.
            let result = sqlx::query(
                "INSERT INTO device_observed (device, state, observed_at)
                 SELECT id, $2, $3 FROM device WHERE id = $1
                 ON CONFLICT (device) DO UPDATE SET state = excluded.state, observed_at = excluded.observed_at
                 WHERE device_observed.state <> excluded.state",
            )
            .bind(id.to_string())
            .bind(state)
            .bind(column::time(now))
            .execute(&mut *transaction)
            .await
            .map_err(context.during(what))?;
            changed += result.rows_affected();
        }
        commit(transaction, context, what).await?;
        Ok(changed)
    }

    /// What every device said of itself last. What a newer or older program wrote and this one cannot read is
    /// left out: the device will say it again.
    pub async fn last_observed(&self) -> Result<HashMap<DeviceId, ObservedState>, StoreError> {
        let rows = sqlx::query("SELECT device, state FROM device_observed")
            .fetch_all(self.0.reader())
            .await
            .map_err(self.0.context().during("load what devices said of themselves"))?;
        let mut all = HashMap::with_capacity(rows.len());
        for row in &rows {
            if let Ok(state) = Columns(row).json("state") {
                all.insert(Columns(row).parsed("device")?, state);
            }
        }
        Ok(all)
    }
}

/// What a device is told by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Identity<'a> {
    Noise(&'a NoisePublicKey),
    WireGuard(&'a WireGuardPublicKey),
}

/// The device that has this key.
pub(crate) async fn find(
    connection: &mut SqliteConnection,
    context: &ErrorContext,
    identity: Identity<'_>,
) -> Result<Option<Device>, StoreError> {
    let query = match identity {
        Identity::Noise(key) => {
            sqlx::query("SELECT * FROM device WHERE noise_key = $1").bind(key.to_string())
        }
        Identity::WireGuard(key) => {
            sqlx::query("SELECT * FROM device WHERE wireguard_key = $1").bind(key.to_string())
        }
    };
    let row = query
        .fetch_optional(connection)
        .await
        .map_err(context.during("look the device up"))?;
    row.as_ref().map(read).transpose()
}

fn revision(columns: &Columns<'_>) -> Result<Revision, StoreError> {
    Ok(Revision {
        epoch: columns.count("desired_epoch")?,
        revision: columns.count("desired_revision")?,
    })
}

pub(crate) fn read(row: &SqliteRow) -> Result<Device, StoreError> {
    let columns = Columns(row);
    Ok(Device {
        id: columns.parsed("id")?,
        name: columns.parsed("name")?,
        noise_key: columns.parsed("noise_key")?,
        wireguard_key: columns.parsed("wireguard_key")?,
        inner_address: columns.address("inner_ipv4")?,
        tags: columns.tags("tags")?,
        join_code: columns.parsed("join_code")?,
        created_at: columns.time("created_at")?,
        revoked_at: columns.optional_time("revoked_at")?,
        session_epoch: columns.count("session_epoch")?,
        last_seen_at: columns.optional_time("last_seen_at")?,
        desired: revision(&columns)?,
    })
}
