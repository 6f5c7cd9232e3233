//! Which inner addresses there are, and how the lowest free one is found.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use sqlx::{Row as _, SqliteConnection};

use crate::column;
use crate::error::{ErrorContext, StoreError};

/// Devices: 100.64.0.0/10 below the policy's names. The first address of a network is left out, because some
/// systems take it for the network itself.
pub const DEVICE_ADDRESSES: RangeInclusive<Ipv4Addr> =
    Ipv4Addr::new(100, 64, 0, 1)..=Ipv4Addr::new(100, 126, 255, 254);

/// Names of the policy: 100.127.0.0/16. The first 255 are left to the gateway itself.
pub const POLICY_ADDRESSES: RangeInclusive<Ipv4Addr> =
    Ipv4Addr::new(100, 127, 1, 0)..=Ipv4Addr::new(100, 127, 255, 254);

/// People's peers: 10.10.0.0/24, of which the gateway has the first.
pub const PEER_ADDRESSES: RangeInclusive<Ipv4Addr> =
    Ipv4Addr::new(10, 10, 0, 2)..=Ipv4Addr::new(10, 10, 0, 254);

/// One-time keys of join codes: 100.127.0.128/25, of the part that is left to the gateway itself.
pub const JOIN_ADDRESSES: RangeInclusive<Ipv4Addr> =
    Ipv4Addr::new(100, 127, 0, 128)..=Ipv4Addr::new(100, 127, 0, 254);

/// The lowest address of `range` that `table` does not hold. Called inside the transaction that then takes it.
pub(crate) async fn lowest_free(
    connection: &mut SqliteConnection,
    context: &ErrorContext,
    table: AddressTable,
    range: &RangeInclusive<Ipv4Addr>,
) -> Result<Ipv4Addr, StoreError> {
    let what = table.what();
    // An address is free when it follows a taken one, or is the first, and is not taken itself; the lowest of
    // those is the lowest free one.
    let sql = match table {
        AddressTable::Device => {
            "SELECT MIN(candidate) AS free FROM (
                 SELECT $1 AS candidate UNION ALL SELECT inner_ipv4 + 1 FROM device
             ) AS candidates
             WHERE NOT EXISTS (SELECT 1 FROM device WHERE inner_ipv4 = candidate)"
        }
        AddressTable::Policy => {
            "SELECT MIN(candidate) AS free FROM (
                 SELECT $1 AS candidate UNION ALL SELECT inner_ipv4 + 1 FROM policy_address
             ) AS candidates
             WHERE NOT EXISTS (SELECT 1 FROM policy_address WHERE inner_ipv4 = candidate)"
        }
        AddressTable::Peer => {
            "SELECT MIN(candidate) AS free FROM (
                 SELECT $1 AS candidate UNION ALL SELECT inner_ipv4 + 1 FROM peer
             ) AS candidates
             WHERE NOT EXISTS (SELECT 1 FROM peer WHERE inner_ipv4 = candidate)"
        }
        AddressTable::JoinCode => {
            "SELECT MIN(candidate) AS free FROM (
                 SELECT $1 AS candidate
                 UNION ALL SELECT tunnel_ipv4 + 1 FROM join_code WHERE tunnel_ipv4 IS NOT NULL
             ) AS candidates
             WHERE NOT EXISTS (SELECT 1 FROM join_code WHERE tunnel_ipv4 = candidate)"
        }
    };
    let row = sqlx::query(sql)
        .bind(column::address(*range.start()))
        .fetch_one(connection)
        .await
        .map_err(context.during(what))?;
    let free: i64 = row.try_get("free").map_err(context.during(what))?;
    let address = column::read_address(free, "inner_ipv4")?;
    if range.contains(&address) {
        Ok(address)
    } else {
        Err(StoreError::AddressesExhausted { what })
    }
}

/// Where addresses are taken from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AddressTable {
    Device,
    Policy,
    Peer,
    JoinCode,
}

impl AddressTable {
    const fn what(self) -> &'static str {
        match self {
            Self::Device => "find an address for the device",
            Self::Policy => "find an address for a name of the policy",
            Self::Peer => "find an address for the peer",
            Self::JoinCode => "find an address for the join code's tunnel",
        }
    }
}
