//! What is chosen once for a registry and never again: the IPv6 network of its tunnel.

use std::net::{Ipv4Addr, Ipv6Addr};

use sqlx::Row as _;

use crate::database::{Store, commit};
use crate::error::StoreError;

/// First byte of a unique local address with a random identifier (RFC 4193, section 3.1).
const LOCAL: u64 = 0xfd;

/// The /48 in which everything in the tunnel has an IPv6 address.
///
/// An address is the network, one of four subnets, and the IPv4 address of the same thing in the low 32 bits. So an
/// IPv6 address needs no place of its own in the database and can be read by people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ula(u64);

/// What an address in the tunnel stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Subnet {
    Gateway = 0,
    Devices = 1,
    Policy = 2,
    People = 3,
}

impl Ula {
    /// The network whose 40 random bits are the low ones of `random`.
    #[must_use]
    pub const fn of_random(random: u64) -> Self {
        Self(LOCAL << 40 | (random & 0xff_ffff_ffff))
    }

    /// The IPv6 address beside this IPv4 address.
    #[must_use]
    pub fn address(self, subnet: Subnet, v4: Ipv4Addr) -> Ipv6Addr {
        let low = u128::from(u32::from(v4));
        Ipv6Addr::from(u128::from(self.0) << 80 | u128::from(subnet as u16) << 64 | low)
    }

    /// The first address of a subnet, which is a /64.
    #[must_use]
    pub fn subnet(self, subnet: Subnet) -> Ipv6Addr {
        self.address(subnet, Ipv4Addr::UNSPECIFIED)
    }
}

impl Store {
    /// The IPv6 network of the tunnel. `random` becomes part of it when there is none yet.
    pub async fn ula(&self, random: u64) -> Result<Ula, StoreError> {
        let what = "choose the tunnel's IPv6 network";
        let context = self.context();
        let mut transaction = self.change(what).await?;
        sqlx::query("INSERT INTO site (id, ula) VALUES (1, $1) ON CONFLICT (id) DO NOTHING")
            .bind(Ula::of_random(random).0.cast_signed())
            .execute(&mut *transaction)
            .await
            .map_err(context.during(what))?;
        let row = sqlx::query("SELECT ula FROM site WHERE id = 1")
            .fetch_one(&mut *transaction)
            .await
            .map_err(context.during(what))?;
        let number: i64 = row.try_get("ula").map_err(context.during(what))?;
        commit(transaction, context, what).await?;
        Ok(Ula(number.cast_unsigned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_tells_what_it_stands_for() {
        let ula = Ula::of_random(0x12_3456_789a);
        let address = ula.address(Subnet::Devices, Ipv4Addr::new(100, 64, 0, 7));
        assert_eq!(address.to_string(), "fd12:3456:789a:1::6440:7");
        assert_eq!(ula.subnet(Subnet::Policy).to_string(), "fd12:3456:789a:2::");
        assert_eq!(
            Ula::of_random(u64::MAX).subnet(Subnet::Gateway).segments()[0],
            0xfdff
        );
    }
}
