//! Our types as they stand in columns.
//!
//! What is read back was written by this program, so a value that does not parse means a damaged or edited
//! database: an error that names the column, never a panic and never a guess.

use std::net::Ipv4Addr;
use std::str::FromStr;

use jiff::Timestamp;
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::tag::Tags;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::error::StoreError;

fn unreadable<E>(column: &'static str) -> impl FnOnce(E) -> StoreError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| StoreError::Content {
        column,
        source: source.into(),
    }
}

pub(crate) fn time(at: Timestamp) -> i64 {
    at.as_microsecond()
}

pub(crate) fn tags(tags: &Tags) -> Result<String, StoreError> {
    serde_json::to_string(tags).map_err(unreadable("tags"))
}

pub(crate) fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(unreadable("JSON"))
}

pub(crate) fn number(value: u64, what: &'static str) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::OutOfRange { what })
}

pub(crate) fn address(address: Ipv4Addr) -> i64 {
    i64::from(u32::from(address))
}

pub(crate) fn read_address(number: i64, column: &'static str) -> Result<Ipv4Addr, StoreError> {
    u32::try_from(number)
        .map(Ipv4Addr::from)
        .map_err(unreadable(column))
}

/// Reads the columns of one row.
pub(crate) struct Columns<'a>(pub(crate) &'a SqliteRow);

impl Columns<'_> {
    pub(crate) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.0.try_get(column).map_err(unreadable(column))
    }

    pub(crate) fn parsed<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        self.text(column)?.parse().map_err(unreadable(column))
    }

    pub(crate) fn count(&self, column: &'static str) -> Result<u64, StoreError> {
        let number: i64 = self.0.try_get(column).map_err(unreadable(column))?;
        u64::try_from(number).map_err(unreadable(column))
    }

    pub(crate) fn address(&self, column: &'static str) -> Result<Ipv4Addr, StoreError> {
        read_address(self.0.try_get(column).map_err(unreadable(column))?, column)
    }

    pub(crate) fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        Timestamp::from_microsecond(self.0.try_get(column).map_err(unreadable(column))?)
            .map_err(unreadable(column))
    }

    pub(crate) fn optional_time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        let micros: Option<i64> = self.0.try_get(column).map_err(unreadable(column))?;
        micros
            .map(Timestamp::from_microsecond)
            .transpose()
            .map_err(unreadable(column))
    }

    /// The key and the address of a join code's tunnel; none when its address was given to another code.
    pub(crate) fn join_tunnel(&self) -> Result<Option<(WireGuardPublicKey, Ipv4Addr)>, StoreError> {
        let column = "tunnel_key";
        let key: Option<String> = self.0.try_get(column).map_err(unreadable(column))?;
        let address: Option<i64> = self.0.try_get("tunnel_ipv4").map_err(unreadable("tunnel_ipv4"))?;
        let (Some(key), Some(_)) = (key, address) else {
            return Ok(None);
        };
        let key = key.parse().map_err(unreadable(column))?;
        Ok(Some((key, self.address("tunnel_ipv4")?)))
    }

    /// Whether a column holds anything.
    pub(crate) fn is_set(&self, column: &'static str) -> Result<bool, StoreError> {
        let text: Option<String> = self.0.try_get(column).map_err(unreadable(column))?;
        Ok(text.is_some())
    }

    pub(crate) fn tags(&self, column: &'static str) -> Result<Tags, StoreError> {
        self.json(column)
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(unreadable(column))
    }
}
