//! Which addresses are dialled directly: no loopback, link-local, unspecified, multicast or broadcast address, and none behind the
//! tunnel. Another address of this machine's own network interfaces is dialled as any other.
//!
//! Checked after a name is resolved, because whoever answers for the name chooses the address (DNS rebinding).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use orfe_tunnel_core::AllowedIp;

use crate::proxy::address_kind::{AddressKind, embedded_v4};
use crate::proxy::refusal::Refusal;
use crate::proxy::target::Host;

/// Which addresses a direct connection may end up at, checked after the name is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct AddressRule {
    /// Loopback and link-local are allowed: a port that the policy itself names, without a tunnel.
    pub(in crate::proxy) local: bool,
    /// Inner addresses, which are never dialled from outside the tunnel.
    pub(in crate::proxy) inner: BTreeSet<IpAddr>,
    /// Networks behind the tunnel, likewise.
    pub(in crate::proxy) networks: Arc<[AllowedIp]>,
}

impl AddressRule {
    /// Whether a resolved address may be dialled.
    pub(in crate::proxy) fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        let address = embedded_v4(address);
        if self.inner.contains(&address) {
            return Err(Refusal::AddressRefused("an inner address of the tunnel"));
        }
        if self.networks.iter().any(|network| network.contains(address)) {
            return Err(Refusal::AddressRefused(
                "an address of a network behind the tunnel",
            ));
        }
        match AddressKind::of(address) {
            Some(kind) if !(self.local && kind.is_local()) => Err(Refusal::AddressRefused(kind.text())),
            _ => Ok(()),
        }
    }

    /// What can be said before a name is resolved; also holds for what the owner's proxy would resolve.
    pub(in crate::proxy) fn check_host(&self, host: &Host) -> Result<(), Refusal> {
        match host {
            Host::Ip(address) => self.check(*address),
            Host::Name(name) if !self.local && (name == "localhost" || name.ends_with(".localhost")) => {
                Err(Refusal::AddressRefused(AddressKind::Loopback.text()))
            }
            Host::Name(_) => Ok(()),
        }
    }
}
