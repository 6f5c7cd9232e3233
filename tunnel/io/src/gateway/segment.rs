//! The part of a packet that decides what the gateway does with it.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

use crate::netstack::Flow;

/// A TCP segment that arrived in the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Local is where the device wants to go, remote is the device.
    pub(super) flow: Flow,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first of a connection.
    Syn,
    Reset,
    Other,
}

impl Segment {
    /// `None` for what is not TCP, for fragments (TCP makes none here), for IPv6 with extension headers, and for what is
    /// malformed.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let (source, destination, payload): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4Packet::new_checked(packet).ok()?;
                let is_whole = !ip.more_frags() && ip.frag_offset() == 0;
                (is_whole && ip.next_header() == IpProtocol::Tcp).then_some(())?;
                (ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
            }
            6 => {
                let ip = Ipv6Packet::new_checked(packet).ok()?;
                (ip.next_header() == IpProtocol::Tcp).then_some(())?;
                (ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
            }
            _ => return None,
        };
        let tcp = TcpPacket::new_checked(payload).ok()?;
        let kind = match (tcp.syn(), tcp.ack(), tcp.rst()) {
            (_, _, true) => Kind::Reset,
            (true, false, false) => Kind::Syn,
            _ => Kind::Other,
        };
        let flow = Flow {
            local: SocketAddr::new(destination, tcp.dst_port()),
            remote: SocketAddr::new(source, tcp.src_port()),
        };
        Some(Self { flow, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet[12..20].copy_from_slice(&[100, 64, 0, 1, 100, 127, 0, 1]);
        packet.extend_from_slice(payload);
        packet
    }

    fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet[6] = next_header;
        packet[23] = 1;
        packet[39] = 2;
        packet.extend_from_slice(payload);
        packet
    }

    fn tcp(flags: u8) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[..4].copy_from_slice(&[0xc0, 0x00, 0x01, 0xbb]);
        segment[12] = 5 << 4;
        segment[13] = flags;
        segment
    }

    #[test]
    fn segments_of_both_families() {
        for (flags, kind) in [
            (0x02, Kind::Syn),
            (0x12, Kind::Other),
            (0x10, Kind::Other),
            (0x04, Kind::Reset),
            (0x06, Kind::Reset),
        ] {
            let segment = Segment::parse(&ipv4(6, 0, &tcp(flags))).unwrap();
            assert_eq!(segment.kind, kind);
            assert_eq!(segment.flow.remote, "100.64.0.1:49152".parse().unwrap());
            assert_eq!(segment.flow.local, "100.127.0.1:443".parse().unwrap());
            assert_eq!(Segment::parse(&ipv6(6, &tcp(flags))).unwrap().kind, kind);
        }
    }

    #[test]
    fn everything_else_is_nothing() {
        let good = ipv4(6, 0, &tcp(2));
        for packet in [
            ipv4(17, 0, &tcp(2)),
            ipv4(1, 0, &tcp(2)),
            ipv4(6, 0x2000, &tcp(2)),
            ipv4(6, 3, &tcp(2)),
            ipv4(6, 0, &tcp(2)[..19]),
            ipv6(0, &tcp(2)),
            ipv6(44, &tcp(2)),
            vec![0x50; 60],
        ] {
            assert_eq!(Segment::parse(&packet), None);
        }
        for len in 0..good.len() {
            assert_eq!(Segment::parse(&good[..len]), None);
        }
    }
}
