//! The inner addresses that stand for the names of the policy.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use orfe_protocol::name::HostName;

use crate::address::{AddressTable, POLICY_ADDRESSES, lowest_free};
use crate::column::{self, Columns};
use crate::database::{Store, commit};
use crate::error::StoreError;

/// Repository of the names' addresses.
#[derive(Debug, Clone, Copy)]
pub struct PolicyAddresses<'a>(pub(crate) &'a Store);

impl PolicyAddresses<'_> {
    /// The address of each name. A name keeps the address that it had before; a new one gets the lowest free one, so
    /// names that are new together get theirs in the order of the alphabet.
    pub async fn assign(&self, names: &[HostName]) -> Result<BTreeMap<HostName, Ipv4Addr>, StoreError> {
        let what = "assign addresses to the names of the policy";
        let context = self.0.context();
        let mut sorted: Vec<&HostName> = names.iter().collect();
        sorted.sort();
        sorted.dedup();

        let mut transaction = self.0.change(what).await?;
        let mut assigned = BTreeMap::new();
        for name in sorted {
            let row = sqlx::query("SELECT inner_ipv4 FROM policy_address WHERE name = $1")
                .bind(name.as_str())
                .fetch_optional(&mut *transaction)
                .await
                .map_err(context.during(what))?;
            let address = if let Some(row) = row {
                Columns(&row).address("inner_ipv4")?
            } else {
                let free =
                    lowest_free(&mut transaction, context, AddressTable::Policy, &POLICY_ADDRESSES).await?;
                sqlx::query("INSERT INTO policy_address (name, inner_ipv4) VALUES ($1, $2)")
                    .bind(name.as_str())
                    .bind(column::address(free))
                    .execute(&mut *transaction)
                    .await
                    .map_err(context.during(what))?;
                free
            };
            assigned.insert(name.clone(), address);
        }
        commit(transaction, context, what).await?;
        Ok(assigned)
    }
}
