//! ICMP echo packets, IPv4 (RFC 792) and IPv6 (RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Hops: the gateway is one away.
const HOP_LIMIT: u8 = 64;
/// Type, code, checksum, identifier, sequence.
const ICMP_HEADER: usize = 8;

/// The two ends of an exchange, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    V4 { own: Ipv4Addr, gateway: Ipv4Addr },
    V6 { own: Ipv6Addr, gateway: Ipv6Addr },
}

impl Pair {
    /// The first two addresses of the same family.
    pub(super) fn choose(own: &[IpAddr], gateway: &[IpAddr]) -> Option<Self> {
        own.iter()
            .flat_map(|own| gateway.iter().map(move |gateway| (*own, *gateway)))
            .find_map(|pair| match pair {
                (IpAddr::V4(own), IpAddr::V4(gateway)) => Some(Self::V4 { own, gateway }),
                (IpAddr::V6(own), IpAddr::V6(gateway)) => Some(Self::V6 { own, gateway }),
                _ => None,
            })
    }

    /// An echo request of `size` bytes, headers included, that bears `cookie`.
    pub(super) fn request(&self, sequence: u16, cookie: u64, size: u16) -> Vec<u8> {
        let header = self.header();
        let size_min = header + ICMP_HEADER + size_of_val(&cookie);
        let mut packet = vec![0; usize::from(size).max(size_min)];
        let total = packet.len() as u16;
        let (ip, icmp) = packet.split_at_mut(header);
        let kind = match self {
            Self::V4 { .. } => 8,
            Self::V6 { .. } => 128,
        };
        icmp[0] = kind;
        icmp[4..6].copy_from_slice(&(cookie as u16).to_be_bytes());
        icmp[6..8].copy_from_slice(&sequence.to_be_bytes());
        icmp[8..16].copy_from_slice(&cookie.to_be_bytes());
        match self {
            Self::V4 { own, gateway } => {
                ip[0] = 0x45;
                ip[2..4].copy_from_slice(&total.to_be_bytes());
                // Do not fragment: a packet that is too large is to be lost.
                ip[6] = 0x40;
                ip[8] = HOP_LIMIT;
                ip[9] = ICMP;
                ip[12..16].copy_from_slice(&own.octets());
                ip[16..20].copy_from_slice(&gateway.octets());
                let checksum = checksum(0, ip);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Self::V6 { own, gateway } => {
                ip[0] = 0x60;
                ip[4..6].copy_from_slice(&(total - header as u16).to_be_bytes());
                ip[6] = ICMPV6;
                ip[7] = HOP_LIMIT;
                ip[8..24].copy_from_slice(&own.octets());
                ip[24..40].copy_from_slice(&gateway.octets());
            }
        }
        let checksum = checksum(self.pseudo_header(icmp.len()), icmp);
        icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The sequence number of an echo reply to this end that bears `cookie`. What is inside the tunnel is authenticated,
    /// so its checksums say nothing more.
    pub(super) fn parse_reply(&self, packet: &[u8], cookie: u64) -> Option<u16> {
        let (icmp, kind) = match self {
            Self::V4 { own, gateway } => {
                let length = usize::from(packet.first()? & 0x0f) * 4;
                let fits = packet[0] >> 4 == 4
                    && packet.get(9) == Some(&ICMP)
                    && packet.get(12..16)? == gateway.octets()
                    && packet.get(16..20)? == own.octets();
                (fits.then(|| packet.get(length..))??, 0)
            }
            Self::V6 { own, gateway } => {
                let fits = packet.first()? >> 4 == 6
                    && packet.get(6) == Some(&ICMPV6)
                    && packet.get(8..24)? == gateway.octets()
                    && packet.get(24..40)? == own.octets();
                (fits.then(|| packet.get(40..))??, 129)
            }
        };
        let ours = icmp.first() == Some(&kind) && icmp.get(8..16)? == cookie.to_be_bytes();
        let sequence = icmp.get(6..8)?.try_into().ok()?;
        ours.then(|| u16::from_be_bytes(sequence))
    }

    fn header(&self) -> usize {
        match self {
            Self::V4 { .. } => 20,
            Self::V6 { .. } => 40,
        }
    }

    /// Sum over the pseudo-header, which the checksum of IPv6 includes and that of IPv4 does not.
    fn pseudo_header(&self, length: usize) -> u32 {
        match self {
            Self::V4 { .. } => 0,
            Self::V6 { own, gateway } => {
                sum(0, &own.octets()) + sum(0, &gateway.octets()) + length as u32 + u32::from(ICMPV6)
            }
        }
    }
}

fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    })
}

/// The internet checksum (RFC 1071).
pub(super) fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = sum(start, bytes);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
