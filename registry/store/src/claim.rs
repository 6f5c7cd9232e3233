//! The claim: a device uses a join code and becomes one of the fleet.
//!
//! The use of the code and the device's row are one transaction, and the use is one conditional update, so of any
//! number of claims no more succeed than the code allows, and a claim that fails for another reason burns nothing.
//!
//! A device whose answer was lost claims again with the same key and the same code, and gets the same answer.

use jiff::Timestamp;
use orfe_protocol::id::{DeviceId, JoinCodeId};
use orfe_protocol::join_code::JoinSecretHash;
use orfe_protocol::key::{NoisePublicKey, WireGuardPublicKey};
use orfe_protocol::name::{DEVICE_NAME_MAX, DeviceName};
use sqlx::{Row as _, SqliteConnection};

use crate::address::{AddressTable, DEVICE_ADDRESSES, lowest_free};
use crate::column;
use crate::database::{Store, commit};
use crate::device::{self, Device, Devices, Identity, TAGS_MAX};
use crate::error::StoreError;
use crate::join_code::{JoinCodeRow, hash_text};

const WHAT: &str = "enrol the device";

/// Room that is kept at the end of a name for a dash and a number.
const SUFFIX_ROOM: usize = 8;

/// What a device claims.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    pub join_code: JoinCodeId,
    pub secret_hash: JoinSecretHash,
    /// The key of the session that the claim came in, which becomes the device's identity.
    pub noise_key: NoisePublicKey,
    pub wireguard_key: WireGuardPublicKey,
    /// What the device would like to be called.
    pub name: DeviceName,
}

/// Why a claim is not good. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ClaimRefusal {
    #[error("there is no such join code")]
    UnknownCode,
    #[error("the secret does not fit the join code")]
    WrongSecret,
    #[error("the join code was revoked")]
    Revoked,
    #[error("the join code has expired")]
    Expired,
    #[error("the join code was used as often as it may be")]
    Used,
    #[error("another device has this WireGuard key")]
    WireGuardKeyTaken,
    #[error("the device with this key was revoked")]
    DeviceRevoked,
    #[error("with the code's tags the device would have more than {TAGS_MAX}")]
    TooManyTags,
}

/// Why a claim got no device.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Refused(#[from] ClaimRefusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Devices<'_> {
    /// Enrols a device, or answers again what was answered before.
    ///
    /// A device that is enrolled already and comes with another good code keeps its name, id, address and granted
    /// tags; a key that the code names gets the code's value. It may come to have [`TAGS_MAX`] at the most.
    pub async fn claim(&self, request: &ClaimRequest, now: Timestamp) -> Result<Device, ClaimError> {
        let store: &Store = self.0;
        let mut transaction = store.change(WHAT).await?;
        let claim = Claiming {
            store,
            connection: &mut transaction,
            request,
            now,
        };
        let device = claim.run().await?;
        commit(transaction, store.context(), WHAT).await?;
        Ok(device)
    }
}

struct Claiming<'a> {
    store: &'a Store,
    connection: &'a mut SqliteConnection,
    request: &'a ClaimRequest,
    now: Timestamp,
}

impl Claiming<'_> {
    async fn run(mut self) -> Result<Device, ClaimError> {
        let code = self.good_code().await?;
        let known = self.find(Identity::Noise(&self.request.noise_key)).await?;
        let owner_of_key = self
            .find(Identity::WireGuard(&self.request.wireguard_key))
            .await?;
        if owner_of_key.is_some_and(|owner| known.as_ref().is_none_or(|device| device.id != owner.id)) {
            return Err(ClaimRefusal::WireGuardKeyTaken.into());
        }
        if self.is_key_of_no_device().await? {
            return Err(ClaimRefusal::WireGuardKeyTaken.into());
        }
        match known {
            Some(device) if device.revoked_at.is_some() => Err(ClaimRefusal::DeviceRevoked.into()),
            Some(device) if device.join_code == code.id => Ok(self.again(device).await?),
            Some(device) => {
                self.use_code().await?;
                self.anew(device, &code).await
            }
            None => {
                self.use_code().await?;
                Ok(self.insert(&code).await?)
            }
        }
    }

    /// The code, if it exists, fits the secret and lives. Whether a use is left is decided by the update alone.
    async fn good_code(&mut self) -> Result<JoinCodeRow, ClaimError> {
        let row = sqlx::query(
            "SELECT id, tags, note, max_uses, uses, created_at, expires_at, revoked_at, tunnel_key, tunnel_ipv4,
                    CASE WHEN secret_hash = $2 THEN 1 ELSE 0 END AS secret_fits
             FROM join_code WHERE id = $1",
        )
        .bind(self.request.join_code.to_string())
        .bind(hash_text(&self.request.secret_hash))
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(self.store.context().during(WHAT))?
        .ok_or(ClaimRefusal::UnknownCode)?;
        let secret_fits: i64 = row
            .try_get("secret_fits")
            .map_err(self.store.context().during(WHAT))?;
        if secret_fits != 1 {
            return Err(ClaimRefusal::WrongSecret.into());
        }
        let code = JoinCodeRow::read(&row)?;
        if code.revoked_at.is_some() {
            return Err(ClaimRefusal::Revoked.into());
        }
        if code.expires_at <= self.now {
            return Err(ClaimRefusal::Expired.into());
        }
        Ok(code)
    }

    async fn find(&mut self, identity: Identity<'_>) -> Result<Option<Device>, StoreError> {
        device::find(self.connection, self.store.context(), identity).await
    }

    /// Whether a person's peer or a join code has the WireGuard key: the gateway could not tell them apart.
    async fn is_key_of_no_device(&mut self) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT 1 FROM peer WHERE wireguard_key = $1
             UNION ALL SELECT 1 FROM join_code WHERE tunnel_key = $1",
        )
        .bind(self.request.wireguard_key.to_string())
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(self.store.context().during(WHAT))?;
        Ok(row.is_some())
    }

    async fn use_code(&mut self) -> Result<(), ClaimError> {
        let result = sqlx::query(
            "UPDATE join_code SET uses = uses + 1
             WHERE id = $1 AND uses < max_uses AND revoked_at IS NULL AND expires_at > $2",
        )
        .bind(self.request.join_code.to_string())
        .bind(column::time(self.now))
        .execute(&mut *self.connection)
        .await
        .map_err(self.store.context().during(WHAT))?;
        if result.rows_affected() == 1 {
            Ok(())
        } else {
            Err(ClaimRefusal::Used.into())
        }
    }

    /// The answer again. The WireGuard key is taken as the device says it now, since it may have made a new one.
    async fn again(self, mut device: Device) -> Result<Device, StoreError> {
        if device.wireguard_key != self.request.wireguard_key {
            device.wireguard_key = self.request.wireguard_key;
            self.update(&device).await?;
        }
        Ok(device)
    }

    async fn anew(self, mut device: Device, code: &JoinCodeRow) -> Result<Device, ClaimError> {
        device.wireguard_key = self.request.wireguard_key;
        // What was granted since, or by an admin, is nobody's to lose by a new way in; `device tag` takes tags away.
        let tags = device.tags.overlaid(&code.tags);
        let (had, has) = (device.tags.iter().count(), tags.iter().count());
        // Who has too many of an earlier version's finds a new way in all the same, with a code that adds none.
        if has > TAGS_MAX && has > had {
            return Err(ClaimRefusal::TooManyTags.into());
        }
        device.tags = tags;
        device.join_code = code.id;
        self.update(&device).await?;
        Ok(device)
    }

    async fn update(self, device: &Device) -> Result<(), StoreError> {
        sqlx::query("UPDATE device SET wireguard_key = $2, tags = $3, join_code = $4 WHERE id = $1")
            .bind(device.id.to_string())
            .bind(device.wireguard_key.to_string())
            .bind(column::tags(&device.tags)?)
            .bind(device.join_code.to_string())
            .execute(self.connection)
            .await
            .map_err(self.store.context().during(WHAT))?;
        Ok(())
    }

    async fn insert(mut self, code: &JoinCodeRow) -> Result<Device, StoreError> {
        let name = self.free_name().await?;
        let address = lowest_free(
            self.connection,
            self.store.context(),
            AddressTable::Device,
            &DEVICE_ADDRESSES,
        )
        .await?;
        let row = sqlx::query(
            "INSERT INTO device (id, name, noise_key, wireguard_key, inner_ipv4, tags, join_code, created_at,
                                 desired_epoch)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, epoch FROM meta
             RETURNING *",
        )
        .bind(DeviceId::generate().to_string())
        .bind(name.as_str())
        .bind(self.request.noise_key.to_string())
        .bind(self.request.wireguard_key.to_string())
        .bind(column::address(address))
        .bind(column::tags(&code.tags)?)
        .bind(code.id.to_string())
        .bind(column::time(self.now))
        .fetch_one(self.connection)
        .await
        .map_err(self.store.context().during(WHAT))?;
        device::read(&row)
    }

    /// The name that was asked for, or the same with the lowest free number from 2 on.
    async fn free_name(&mut self) -> Result<DeviceName, StoreError> {
        let wanted = self.request.name.as_str();
        let stem = &wanted[..wanted.len().min(DEVICE_NAME_MAX - SUFFIX_ROOM)];
        // Names hold no character that LIKE gives a meaning to.
        let rows = sqlx::query("SELECT name FROM device WHERE name LIKE $1")
            .bind(format!("{stem}%"))
            .fetch_all(&mut *self.connection)
            .await
            .map_err(self.store.context().during(WHAT))?;
        let taken = rows
            .iter()
            .map(|row| row.try_get("name"))
            .collect::<Result<std::collections::HashSet<String>, _>>()
            .map_err(self.store.context().during(WHAT))?;
        let stem = stem.trim_end_matches('-');
        // One more number than there are names taken, so one of them is free.
        let numbered = (2..taken.len() + 3).map(|number| format!("{stem}-{number}"));
        let name = std::iter::once(wanted.to_owned())
            .chain(numbered)
            .find(|name| !taken.contains(name));
        name.and_then(|name| name.parse().ok())
            .ok_or(StoreError::OutOfRange {
                what: "the device's name",
            })
    }
}
