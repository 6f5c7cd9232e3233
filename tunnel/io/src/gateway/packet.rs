//! Packets that the gateway reads and makes by itself: UDP datagrams, echo, and "unreachable".
//!
//! TCP is the stack's matter; these need no state, so they are made here from the packet that asked for them. Layouts:
//! RFC 791, 8200 (IP), 768 (UDP), 792 and 4443 (ICMP). Lengths come from the packet and are checked before use. Fragments
//! and IPv6 extension headers are taken by nobody.

use std::net::{IpAddr, SocketAddr};

use crate::netstack::Flow;

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
/// Hop limit of what is made here, as RFC 1700 recommends.
const HOPS: u8 = 64;
/// How much of a refused packet an ICMP error repeats: with both headers well below 1280 bytes.
const QUOTED: usize = 512;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

/// A packet without its IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

/// A UDP datagram from a peer. Local is where the peer sent it, remote is the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) flow: Flow,
    pub(super) payload: &'a [u8],
}

impl<'a> Inner<'a> {
    /// `None` for fragments and for what is malformed.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header_len = usize::from(packet[0] & 0x0f) * 4;
                let total = usize::from(u16_at(packet, 2)?);
                let fragment = u16_at(packet, 6)? & 0x3fff;
                if header_len < 20 || total < header_len || fragment != 0 {
                    return None;
                }
                Some(Self {
                    source: IpAddr::from(*packet.get(12..)?.first_chunk::<4>()?),
                    destination: IpAddr::from(*packet.get(16..)?.first_chunk::<4>()?),
                    protocol: *packet.get(9)?,
                    payload: packet.get(header_len..total)?,
                })
            }
            6 => {
                let len = usize::from(u16_at(packet, 4)?);
                Some(Self {
                    source: IpAddr::from(*packet.get(8..)?.first_chunk::<16>()?),
                    destination: IpAddr::from(*packet.get(24..)?.first_chunk::<16>()?),
                    protocol: *packet.get(6)?,
                    payload: packet.get(40..40 + len)?,
                })
            }
            _ => None,
        }
    }

    /// The datagram in it, if it is UDP. The checksum is not looked at: the tunnel has authenticated every byte.
    pub(super) fn datagram(&self) -> Option<Datagram<'a>> {
        if self.protocol != UDP {
            return None;
        }
        let len = usize::from(u16_at(self.payload, 4)?);
        Some(Datagram {
            flow: Flow {
                local: SocketAddr::new(self.destination, u16_at(self.payload, 2)?),
                remote: SocketAddr::new(self.source, u16_at(self.payload, 0)?),
            },
            payload: self.payload.get(UDP_HEADER..len)?,
        })
    }

    /// The answer to it, if it is an echo request.
    pub(super) fn echo_reply(&self) -> Option<Vec<u8>> {
        let reply_type = match (self.protocol, self.payload.first()?) {
            (ICMP, 8) => 0,
            (ICMP_V6, 128) => 129,
            _ => return None,
        };
        if self.payload.len() < ICMP_HEADER {
            return None;
        }
        let mut message = self.payload.to_vec();
        message[0] = reply_type;
        message[1] = 0;
        Some(self.icmp_answer(message))
    }

    /// Tells the sender that policy does not let `packet`, of which this is a part, pass.
    pub(super) fn prohibited(&self, packet: &[u8]) -> Vec<u8> {
        // "Communication administratively prohibited": RFC 1812, section 5.2.7.1, and RFC 4443, section 3.1.
        let (kind, code) = if self.source.is_ipv4() { (3, 13) } else { (1, 1) };
        let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&packet[..packet.len().min(QUOTED)]);
        self.icmp_answer(message)
    }

    fn icmp_answer(&self, mut message: Vec<u8>) -> Vec<u8> {
        message[2..4].fill(0);
        let protocol = if self.source.is_ipv4() { ICMP } else { ICMP_V6 };
        let sum = if self.source.is_ipv4() {
            // ICMP of IPv4 has no pseudo header.
            checksum([&message[..]])
        } else {
            let pseudo = pseudo_header(self.destination, self.source, protocol, message.len());
            checksum([&pseudo[..], &message])
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        with_header(self.destination, self.source, protocol, &message)
    }
}

/// The packet that carries `payload` back to the remote end of `flow`; `None` when it is longer than UDP can say.
pub(super) fn datagram_to_remote(flow: Flow, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let mut message = Vec::with_capacity(usize::from(len));
    message.extend_from_slice(&flow.local.port().to_be_bytes());
    message.extend_from_slice(&flow.remote.port().to_be_bytes());
    message.extend_from_slice(&len.to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(payload);
    let (from, to) = (flow.local.ip(), flow.remote.ip());
    let pseudo = pseudo_header(from, to, UDP, message.len());
    // Zero means "no checksum", so a sum of zero is sent as its other representation (RFC 768).
    let sum = match checksum([&pseudo[..], &message]) {
        0 => 0xffff,
        sum => sum,
    };
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    Some(with_header(from, to, UDP, &message))
}

/// Both addresses are of one family: they come from one packet.
fn with_header(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(40 + payload.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (20 + payload.len()) as u16;
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&total.to_be_bytes());
            // No identification, and "don't fragment": the tunnel's packets are never fragmented.
            packet.extend_from_slice(&[0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
            let sum = checksum([&packet[..]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (from, to) => {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            packet.extend_from_slice(&[protocol, HOPS]);
            packet.extend_from_slice(&octets(from));
            packet.extend_from_slice(&octets(to));
        }
    }
    packet.extend_from_slice(payload);
    packet
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut header = octets(from);
    header.extend_from_slice(&octets(to));
    header.extend_from_slice(&(len as u32).to_be_bytes());
    header.extend_from_slice(&[0, 0, 0, protocol]);
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The internet checksum (RFC 1071) of parts, each but the last of even length.
fn checksum<const N: usize>(parts: [&[u8]; N]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, Ipv4Packet, Ipv6Packet, UdpPacket,
    };

    use super::*;

    fn flow(v6: bool) -> Flow {
        let address = |v4: &str, six: &str| {
            if v6 {
                six.parse().unwrap()
            } else {
                v4.parse().unwrap()
            }
        };
        Flow {
            local: SocketAddr::new(address("100.127.0.1", "fd00::1"), 53),
            remote: SocketAddr::new(address("100.64.0.7", "fd00:0:0:1::7"), 40_000),
        }
    }

    #[test]
    fn a_datagram_comes_back_to_where_it_came_from() {
        for v6 in [false, true] {
            let flow = flow(v6);
            let packet = datagram_to_remote(flow, b"answer").unwrap();
            let inner = Inner::parse(&packet).unwrap();
            let read = inner.datagram().unwrap();
            assert_eq!((read.flow.local, read.flow.remote), (flow.remote, flow.local));
            assert_eq!(read.payload, b"answer");
            let (from, to) = (flow.local.ip().into(), flow.remote.ip().into());
            let udp = UdpPacket::new_checked(inner.payload).unwrap();
            assert!(udp.verify_checksum(&from, &to));
            if !v6 {
                assert!(Ipv4Packet::new_checked(&packet[..]).unwrap().verify_checksum());
            }
        }
        assert_eq!(datagram_to_remote(flow(false), &vec![0; 65_528]), None);
    }

    fn echo(v6: bool) -> Vec<u8> {
        let flow = flow(v6);
        let (from, to) = (flow.remote.ip(), flow.local.ip());
        let mut message = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0x12, 0x34, 0, 5];
        message.extend_from_slice(b"padding");
        with_header(from, to, if v6 { ICMP_V6 } else { ICMP }, &message)
    }

    #[test]
    fn echo_requests_are_answered_with_what_they_carried() {
        let packet = echo(false);
        let reply = Inner::parse(&packet).unwrap().echo_reply().unwrap();
        let ip = Ipv4Packet::new_checked(&reply[..]).unwrap();
        assert_eq!(ip.dst_addr().to_string(), "100.64.0.7");
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        let repr = Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).unwrap();
        let Icmpv4Repr::EchoReply { ident, seq_no, data } = repr else {
            panic!("{repr:?}")
        };
        assert_eq!((ident, seq_no, data), (0x1234, 5, &b"padding"[..]));

        let packet = echo(true);
        let reply = Inner::parse(&packet).unwrap().echo_reply().unwrap();
        let ip = Ipv6Packet::new_checked(&reply[..]).unwrap();
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        let caps = ChecksumCapabilities::default();
        let repr = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &caps).unwrap();
        assert!(
            matches!(repr, Icmpv6Repr::EchoReply { seq_no: 5, .. }),
            "{repr:?}"
        );
        assert_eq!(
            Inner::parse(&reply).unwrap().echo_reply(),
            None,
            "a reply is not answered"
        );
    }

    #[test]
    fn what_is_refused_is_told_with_its_own_beginning() {
        for v6 in [false, true] {
            let asked = datagram_to_remote(flow(v6), &[7; 1000]).unwrap();
            let answer = Inner::parse(&asked).unwrap().prohibited(&asked);
            assert!(answer.len() < 600);
            let inner = Inner::parse(&answer).unwrap();
            assert_eq!(inner.destination, flow(v6).local.ip());
            assert_eq!(inner.payload[..2], if v6 { [1, 1] } else { [3, 13] });
            assert_eq!(inner.payload[ICMP_HEADER..], asked[..QUOTED]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(packet in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            let mut packet = packet;
            if let Some(first) = packet.first_mut() {
                *first = if v6 { 0x60 } else { 0x40 | (*first & 0x0f) };
            }
            if let Some(inner) = Inner::parse(&packet) {
                let _ = (inner.datagram(), inner.echo_reply(), inner.prohibited(&packet));
            }
        }
    }
}
