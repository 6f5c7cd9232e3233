//! A TCP segment of a connection, how one of its ends is exchanged for another, and the segment that ends one.
//!
//! Checksums are not computed anew but brought up to date (RFC 1624): one that was wrong stays wrong. Layouts: RFC 791, 8200
//! (IP).

pub(crate) mod fuzzing;

use std::net::{IpAddr, SocketAddr};

use orfe_tunnel_core::packet;
use orfe_tunnel_core::packet::checksum::{fold, sum};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use crate::tun::offload::{ACK, FIN, RST, TcpHeaders};

/// Hop limit of what is made here, as RFC 1700 recommends.
const HOPS: u8 = 64;

/// One of the two ends that a packet names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// What the checksum field of TCP has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// The checksum.
    Whole,
    /// The sum of the pseudo header; somebody else adds the rest.
    PseudoHeader,
}

/// What is known of a segment, which may be a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// The sequence number behind it, FIN included.
    pub(super) next_sequence: u32,
    /// What it acknowledges.
    pub(super) acknowledged: Option<u32>,
    pub(super) is_fin: bool,
    pub(super) is_reset: bool,
    /// Where TCP's header starts.
    transport: usize,
}

impl Segment {
    /// `None` for what is no TCP, for fragments, for IPv6 with extension headers, and for what is cut.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let (source, destination) = (packet::source(packet)?, packet::destination(packet)?);
        let headers = TcpHeaders::parse(packet)?;
        let is_fin = headers.flags & FIN != 0;
        // The kernel's own length counts, not that of the IP header, which a large packet may leave out.
        let payload = (packet.len() - headers.headers) as u32;
        Some(Self {
            source: SocketAddr::new(source, headers.source_port),
            destination: SocketAddr::new(destination, headers.destination_port),
            next_sequence: (headers.sequence.wrapping_add(payload)).wrapping_add(u32::from(is_fin)),
            acknowledged: (headers.flags & ACK != 0).then_some(headers.acknowledged),
            is_fin,
            is_reset: headers.flags & RST != 0,
            transport: headers.transport,
        })
    }

    /// Exchanges an end of `packet`, which this was read from, for one of the same family.
    pub(super) fn redirect(&self, packet: &mut [u8], end: End, to: SocketAddr, checksum: Checksum) {
        let from = match end {
            End::Source => self.source,
            End::Destination => self.destination,
        };
        let (old, new) = (Octets::of(from.ip()), Octets::of(to.ip()));
        if old.len != new.len {
            return;
        }
        let is_v4 = old.len == 4;
        let at = match (is_v4, end) {
            (true, End::Source) => 12,
            (true, End::Destination) => 16,
            (false, End::Source) => 8,
            (false, End::Destination) => 24,
        };
        packet[at..at + new.len].copy_from_slice(new.bytes());
        let port_at = self.transport + if end == End::Source { 0 } else { 2 };
        packet[port_at..port_at + 2].copy_from_slice(&to.port().to_be_bytes());

        let addresses = new.sum() + old.complement();
        if is_v4 {
            update(packet, 10, addresses);
        }
        let field = self.transport + 16;
        match checksum {
            Checksum::Whole => {
                let ports = u64::from(to.port()) + u64::from(!from.port());
                update(packet, field, addresses + ports);
            }
            Checksum::PseudoHeader => {
                let old = u16::from_be_bytes([packet[field], packet[field + 1]]);
                let sum = fold(u64::from(old) + addresses);
                packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }
}

/// The packet that resets a connection at `to`. It counts where the sequence number is the one that `to` expects next, which is
/// what it acknowledges (RFC 9293, section 3.5.2; RFC 5961, section 3.2).
pub(super) fn reset(from: SocketAddr, to: SocketAddr, sequence: u32) -> Vec<u8> {
    let tcp = TcpRepr {
        src_port: from.port(),
        dst_port: to.port(),
        control: TcpControl::Rst,
        seq_number: TcpSeqNumber(sequence.cast_signed()),
        ack_number: None,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (source, destination) = (from.ip().into(), to.ip().into());
    let ip = IpRepr::new(source, destination, IpProtocol::Tcp, tcp.buffer_len(), HOPS);
    let mut packet = vec![0; ip.buffer_len()];
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut packet[..], &checksums);
    let mut segment = TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
    tcp.emit(&mut segment, &source, &destination, &checksums);
    packet
}

/// Brings the checksum at `field` up to date after what it covers changed by `change`.
fn update(packet: &mut [u8], field: usize, change: u64) {
    let old = u16::from_be_bytes([packet[field], packet[field + 1]]);
    let sum = !fold(u64::from(!old) + change);
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// An address as it stands in a packet.
struct Octets {
    octets: [u8; 16],
    len: usize,
}

impl Octets {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&v4.octets());
                Self { octets, len: 4 }
            }
            IpAddr::V6(v6) => Self {
                octets: v6.octets(),
                len: 16,
            },
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    fn sum(&self) -> u64 {
        sum(self.bytes(), 0)
    }

    /// The sum of its words, each turned into its complement.
    fn complement(&self) -> u64 {
        u64::from(!fold(self.sum()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tun::offload::{TCP, TCP_HEADER};

    /// A segment with good checksums.
    fn segment(from: SocketAddr, to: SocketAddr, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; TCP_HEADER];
        tcp[..2].copy_from_slice(&from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&1000_u32.to_be_bytes());
        tcp[8..12].copy_from_slice(&2000_u32.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = flags;
        tcp.extend_from_slice(payload);
        let (source, destination) = (Octets::of(from.ip()), Octets::of(to.ip()));
        let pseudo = source.sum() + destination.sum() + u64::from(TCP) + tcp.len() as u64;
        let checksum = !fold(sum(&tcp, pseudo));
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        let mut packet = if from.is_ipv4() {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0];
            header[2..4].copy_from_slice(&((20 + tcp.len()) as u16).to_be_bytes());
            header
        } else {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, TCP, 64];
            header[4..6].copy_from_slice(&(tcp.len() as u16).to_be_bytes());
            header
        };
        packet.extend_from_slice(source.bytes());
        packet.extend_from_slice(destination.bytes());
        if from.is_ipv4() {
            let checksum = !fold(sum(&packet, 0));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        packet.extend_from_slice(&tcp);
        packet
    }

    fn pair() -> impl Strategy<Value = (SocketAddr, SocketAddr, SocketAddr)> {
        prop_oneof![
            any::<[([u8; 4], u16); 3]>().prop_map(|[a, b, c]| (a.into(), b.into(), c.into())),
            any::<[([u8; 16], u16); 3]>().prop_map(|[a, b, c]| (a.into(), b.into(), c.into())),
        ]
    }

    /// Both zeros are the same number to a checksum, so receivers sum up and compare with all ones.
    fn is_good(packet: &[u8]) -> bool {
        let (header, addresses) = if packet[0] >> 4 == 4 {
            (20, 12..20)
        } else {
            (40, 8..40)
        };
        let tcp = &packet[header..];
        let pseudo = sum(&packet[addresses], u64::from(TCP) + tcp.len() as u64);
        let ip = header == 40 || fold(sum(&packet[..20], 0)) == 0xffff;
        ip && fold(sum(tcp, pseudo)) == 0xffff
    }

    proptest! {
        #[test]
        fn an_end_is_exchanged_and_the_checksums_stay_good(
            (from, to, other) in pair(),
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let packet = segment(from, to, 0x10, &payload);
            prop_assert!(is_good(&packet));
            for end in [End::Source, End::Destination] {
                let mut changed = packet.clone();
                Segment::parse(&packet).unwrap().redirect(&mut changed, end, other, Checksum::Whole);
                prop_assert!(is_good(&changed));
                let read = Segment::parse(&changed).unwrap();
                let expected = if end == End::Source { (other, to) } else { (from, other) };
                prop_assert_eq!((read.source, read.destination), expected);
                // And back, to the last bit but for the two zeros.
                read.redirect(&mut changed, end, if end == End::Source { from } else { to }, Checksum::Whole);
                prop_assert!(is_good(&changed));
                prop_assert_eq!(Segment::parse(&changed), Segment::parse(&packet));
            }
        }

        #[test]
        fn the_sum_of_a_pseudo_header_follows((from, to, other) in pair()) {
            let mut packet = segment(from, to, 0x10, b"");
            let transport = if from.is_ipv4() { 20 } else { 40 };
            let pseudo = |a: SocketAddr, b: SocketAddr| {
                fold(Octets::of(a.ip()).sum() + Octets::of(b.ip()).sum() + u64::from(TCP) + 20)
            };
            packet[transport + 16..transport + 18].copy_from_slice(&pseudo(from, to).to_be_bytes());
            Segment::parse(&packet).unwrap().redirect(&mut packet, End::Source, other, Checksum::PseudoHeader);
            let field = u16::from_be_bytes([packet[transport + 16], packet[transport + 17]]);
            prop_assert_eq!(field % 0xffff, pseudo(other, to) % 0xffff);
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Segment::parse(&bytes);
        }
    }

    #[test]
    fn a_reset_is_made() {
        for (from, to) in [("10.0.0.1:1", "240.0.0.2:2"), ("[fd00::1]:1", "[100::1:0:0:2]:2")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = reset(from, to, u32::MAX);
            assert!(is_good(&packet));
            let read = Segment::parse(&packet).unwrap();
            assert_eq!((read.source, read.destination), (from, to));
            assert_eq!(
                (read.is_reset, read.next_sequence, read.acknowledged),
                (true, u32::MAX, None)
            );
        }
    }

    #[test]
    fn what_ends_a_connection_is_seen() {
        let (from, to) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let fin = Segment::parse(&segment(from, to, 0x11, b"abc")).unwrap();
        assert_eq!(
            (fin.is_fin, fin.next_sequence, fin.acknowledged),
            (true, 1004, Some(2000))
        );
        let reset = Segment::parse(&segment(from, to, 0x04, b"")).unwrap();
        assert_eq!(
            (reset.is_reset, reset.next_sequence, reset.acknowledged),
            (true, 1000, None)
        );
        let whole = segment(from, to, 0x02, b"");
        for len in 0..whole.len() {
            assert_eq!(Segment::parse(&whole[..len]), None);
        }
        for (at, byte) in [(9, 17), (6, 0x20), (7, 1), (0, 0x44)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert_eq!(Segment::parse(&other), None, "byte {at}");
        }
    }
}
