//! Addresses that no name may lead to: those of this machine itself and of its link, and those of nobody or of many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is that is dialled only where it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressKind {
    Loopback,
    /// Cloud metadata services live there.
    LinkLocal,
    Unspecified,
    Multicast,
    Broadcast,
}

impl AddressKind {
    /// `None` for an address that is dialled as any other. One that stands for an IPv4 address is what that is.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        match embedded_v4(address) {
            IpAddr::V4(v4) if v4.is_loopback() => Some(Self::Loopback),
            IpAddr::V4(v4) if v4.is_link_local() => Some(Self::LinkLocal),
            // All of 0.0.0.0/8 is "this network" (RFC 1122 §3.2.1.3); some systems connect to themselves there.
            IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(Self::Unspecified),
            IpAddr::V4(v4) if v4.is_multicast() => Some(Self::Multicast),
            IpAddr::V4(v4) if v4.is_broadcast() => Some(Self::Broadcast),
            IpAddr::V6(v6) if v6.is_loopback() => Some(Self::Loopback),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(Self::LinkLocal),
            IpAddr::V6(v6) if v6.is_unspecified() => Some(Self::Unspecified),
            IpAddr::V6(v6) if v6.is_multicast() => Some(Self::Multicast),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    pub(in crate::proxy) fn is_local(self) -> bool {
        matches!(self, Self::Loopback | Self::LinkLocal)
    }

    pub(in crate::proxy) fn text(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
        }
    }
}

/// The IPv4 address inside an IPv6 address that stands for one: mapped (`::ffff:a.b.c.d`), compatible (`::a.b.c.d`,
/// RFC 4291 §2.5.5), or behind the well-known NAT64 prefix (`64:ff9b::/96`, RFC 6052).
pub(in crate::proxy) fn embedded_v4(address: IpAddr) -> IpAddr {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_not_lead_to_this_host_or_to_nobody() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "::ffff:169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(AddressKind::of(address.parse().unwrap()).is_some(), "{address}");
        }
        for address in [
            "10.0.0.5",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::5",
            "2001:db8::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(AddressKind::of(address.parse().unwrap()).is_none(), "{address}");
        }
    }
}
