//! What this crate reads and writes in inner IP packets: addresses, segment sizes of TCP, "too big" answers.

pub mod checksum;
mod mss;
mod too_big;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use self::mss::{clamp_mss, exceeds_mss};
pub use self::too_big::too_big;

/// Source address of an IPv4 or IPv6 packet; `None` when it is neither or too short for its header.
#[must_use]
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 12, 8)
}

/// Destination address of an IPv4 or IPv6 packet; `None` when it is neither or too short for its header.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 16, 24)
}

/// Offsets from RFC 791 section 3.1 and RFC 8200 section 3.
fn address(packet: &[u8], at_v4: usize, at_v6: usize) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let octets: [u8; 4] = *packet.get(at_v4..)?.first_chunk()?;
            Some(Ipv4Addr::from(octets).into())
        }
        6 if packet.len() >= 40 => {
            let octets: [u8; 16] = *packet.get(at_v6..)?.first_chunk()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_foreign_packets_have_no_address() {
        for packet in [&[][..], &[0x45; 19], &[0x60; 39], &[0x10; 60], &[0xf0; 60]] {
            assert_eq!(source(packet), None);
            assert_eq!(destination(packet), None);
        }
        let mut packet = [0u8; 20];
        packet[0] = 0x45;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(source(&packet), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(destination(&packet), Some("10.0.0.2".parse().unwrap()));
    }
}
