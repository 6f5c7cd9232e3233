//! Segments as they are made here.

use orfe_tunnel_core::Batch;
use smoltcp::wire::{IPV6_HEADER_LEN, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

use super::super::flow::Header;

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Ranges that fit into an acknowledgement (RFC 2018, section 3), with room for a further option left.
pub(super) const MAX_RANGES: usize = 3;

/// A range as it stands in an acknowledgement.
pub(super) type Range = (TcpSeqNumber, TcpSeqNumber);

/// What all segments of a connection begin with.
#[derive(Debug)]
pub(super) struct Heading {
    bytes: Vec<u8>,
    header: Header,
}

/// What a segment says apart from its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub(super) sequence: TcpSeqNumber,
    pub(super) acknowledgement: TcpSeqNumber,
    pub(super) window: u16,
    pub(super) push: bool,
    pub(super) fin: bool,
    pub(super) reset: bool,
}

impl Heading {
    /// Takes the addresses from `packet`, one that this end sent earlier.
    pub(super) fn new(packet: &[u8]) -> Option<Self> {
        let header = Header::parse(packet)?;
        let bytes = packet.get(..header.offset + TCP_HEADER)?.to_vec();
        Some(Self { bytes, header })
    }

    /// Makes a segment with `len` bytes, which `fill` puts in, and with the ranges that arrived out of order.
    pub(super) fn put(
        &self,
        fields: Fields,
        ranges: &[Range],
        len: usize,
        fill: impl FnOnce(&mut [u8]),
        out: &mut Batch<()>,
    ) {
        let ranges = &ranges[..ranges.len().min(MAX_RANGES)];
        // Two paddings, kind and length, and eight bytes for each range.
        let options = if ranges.is_empty() {
            0
        } else {
            4 + 8 * ranges.len()
        };
        let data = self.bytes.len() + options;
        let total = data + len;
        let packet = &mut out.reserve(total)[..total];
        packet[..self.bytes.len()].copy_from_slice(&self.bytes);
        if !ranges.is_empty() {
            let option = &mut packet[self.bytes.len()..data];
            option[..4].copy_from_slice(&[1, 1, 5, 2 + 8 * ranges.len() as u8]);
            for (place, (left, right)) in option[4..].chunks_exact_mut(8).zip(ranges) {
                place[..4].copy_from_slice(&left.0.to_be_bytes());
                place[4..].copy_from_slice(&right.0.to_be_bytes());
            }
        }
        fill(&mut packet[data..]);
        set_length(packet, total);
        let mut segment = TcpPacket::new_unchecked(&mut packet[self.header.offset..]);
        segment.clear_flags();
        segment.set_header_len((TCP_HEADER + options) as u8);
        segment.set_seq_number(fields.sequence);
        segment.set_ack(true);
        segment.set_ack_number(fields.acknowledgement);
        segment.set_window_len(fields.window);
        segment.set_urgent_at(0);
        segment.set_psh(fields.push);
        segment.set_fin(fields.fin);
        segment.set_rst(fields.reset);
        fill_checksum(&mut segment, &self.header);
        out.commit(total, ());
    }
}

/// Corrects the length in the IP header.
fn set_length(packet: &mut [u8], len: usize) {
    if packet[0] >> 4 == 4 {
        let mut ip = Ipv4Packet::new_unchecked(packet);
        ip.set_total_len(len as u16);
        ip.fill_checksum();
    } else {
        let mut ip = Ipv6Packet::new_unchecked(packet);
        ip.set_payload_len((len - IPV6_HEADER_LEN) as u16);
    }
}

pub(super) fn fill_checksum(segment: &mut TcpPacket<&mut [u8]>, header: &Header) {
    segment.fill_checksum(
        &IpAddress::from(header.source.ip()),
        &IpAddress::from(header.destination.ip()),
    );
}

/// Puts a window and, where there is a place for it, its scale into the SYN that smoltcp made.
pub(super) fn set_window(packet: &mut [u8], header: &Header, window: u16, scale: u8) {
    const WINDOW_SCALE: u8 = 3;
    let segment = &mut packet[header.offset..];
    let end = usize::from(segment[12] >> 4) * 4;
    let mut at = TCP_HEADER;
    while at + 1 < end {
        let len = match segment[at] {
            0 => break,
            1 => 1,
            _ => usize::from(segment[at + 1]).max(1),
        };
        if segment[at] == WINDOW_SCALE && at + 2 < end {
            segment[at + 2] = scale;
        }
        at += len;
    }
    let mut segment = TcpPacket::new_unchecked(segment);
    segment.set_window_len(window);
    fill_checksum(&mut segment, header);
}
