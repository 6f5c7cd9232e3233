//! Names of the cluster that policy does not name: which of their addresses may be dialled.

use std::net::{IpAddr, SocketAddr};

use super::{PolicyNetwork, Transport};
use crate::proxy::refusal::Refusal;

/// A name below a suffix of the gateway's DNS, and what is needed to reach it.
#[derive(Debug)]
pub(in crate::proxy) struct Lookup {
    /// In lower case, without a dot at its end.
    pub(in crate::proxy) name: String,
    /// Who is asked for its addresses, inside the tunnel.
    pub(in crate::proxy) server: SocketAddr,
    pub(super) port: u16,
    pub(super) transport: Transport,
    pub(super) networks: Vec<PolicyNetwork>,
}

impl Lookup {
    /// The first address that policy lets this be dialled at. The gateway decides by the same table; asking it would cost a
    /// connection that is sure to be refused.
    pub(in crate::proxy) fn allowed(&self, found: &[IpAddr]) -> Result<SocketAddr, Refusal> {
        let mut refusal = match found {
            [] => Refusal::NameNotResolved,
            _ => Refusal::AddressRefused("an address that policy does not name"),
        };
        for address in found {
            let mut networks = self
                .networks
                .iter()
                .filter(|entry| entry.network.contains(*address))
                .peekable();
            if networks.peek().is_none() {
                continue;
            }
            if networks.any(|entry| entry.allows(self.port, self.transport)) {
                return Ok(SocketAddr::new(*address, self.port));
            }
            refusal = Refusal::PortNotInPolicy(self.port);
        }
        Err(refusal)
    }
}

/// Whether `name` is `suffix` or ends with all its labels.
pub(super) fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
