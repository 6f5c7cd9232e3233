//! Which addresses are dialled directly: no loopback, link-local, unspecified, multicast or broadcast address, and none behind the
//! tunnel. Another address of this machine's own network interfaces is dialled as any other.
//!
//! Checked after a name is resolved, because whoever answers for the name chooses the address (DNS rebinding).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use orfe_tunnel_core::AllowedIp;

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
        match refused_kind(address) {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddressKind {
    Loopback,
    LinkLocal,
    Unspecified,
    Multicast,
    Broadcast,
}

impl AddressKind {
    fn is_local(self) -> bool {
        matches!(self, Self::Loopback | Self::LinkLocal)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
        }
    }
}

fn refused_kind(address: IpAddr) -> Option<AddressKind> {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Some(AddressKind::Loopback),
        IpAddr::V4(v4) if v4.is_link_local() => Some(AddressKind::LinkLocal),
        // All of 0.0.0.0/8 is "this network" (RFC 1122 §3.2.1.3); some systems connect to themselves there.
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(AddressKind::Unspecified),
        IpAddr::V4(v4) if v4.is_multicast() => Some(AddressKind::Multicast),
        IpAddr::V4(v4) if v4.is_broadcast() => Some(AddressKind::Broadcast),
        IpAddr::V6(v6) if v6.is_loopback() => Some(AddressKind::Loopback),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(AddressKind::LinkLocal),
        IpAddr::V6(v6) if v6.is_unspecified() => Some(AddressKind::Unspecified),
        IpAddr::V6(v6) if v6.is_multicast() => Some(AddressKind::Multicast),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The IPv4 address inside an IPv6 address that stands for one: mapped (`::ffff:a.b.c.d`), compatible (`::a.b.c.d`,
/// RFC 4291 §2.5.5), or behind the well-known NAT64 prefix (`64:ff9b::/96`, RFC 6052).
fn embedded_v4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if v6 == Ipv6Addr::UNSPECIFIED || v6 == Ipv6Addr::LOCALHOST {
        return address;
    }
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        _ => address,
    }
}
