//! Which addresses are the gateway's own.

use std::net::IpAddr;

/// Addresses by which a name would reach the gateway's own machine, or its link (cloud metadata services live there).
pub(super) fn is_this_host(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_not_lead_to_this_host() {
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
            "::ffff:169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(is_this_host(address.parse().unwrap()), "{address}");
        }
        for address in [
            "10.0.0.5",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::5",
            "2001:db8::1",
        ] {
            assert!(!is_this_host(address.parse().unwrap()), "{address}");
        }
    }
}
