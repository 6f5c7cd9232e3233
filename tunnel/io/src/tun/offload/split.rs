//! A large packet of the kernel's, segment by segment, without moving its payload.
//!
//! The header of each segment is written in place, directly in front of its payload: over the end of the segment before it,
//! which has been encrypted by then. The bytes behind a segment are made zero for its padding while it is looked at, and
//! put back afterwards.

use orfe_tunnel_core::packet::checksum::{fold, sum};

use super::header::{HEADER_LEN, Header, Kind};

/// Writable bytes that must follow a packet in its buffer: `WireGuard`'s padding.
pub(crate) const SPARE: usize = 16;

/// Longest headers of a large packet: IP and TCP with all options, and room for IPv6 extension headers.
const MAX_HEADERS: usize = 256;

const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The packet contradicts its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Calls `each` with every packet of what was read: with `has_header` the `virtio_net_hdr` and one packet, which may be
/// large, else the packet alone. It lies in the first `len` bytes of `buffer`, with [`SPARE`] bytes behind it.
///
/// `each` gets the packet with zeros behind it, and its length without them.
pub(crate) fn split(
    buffer: &mut [u8],
    len: usize,
    has_header: bool,
    mut each: impl FnMut(&[u8], usize),
) -> Result<(), Malformed> {
    if buffer.len() < len + SPARE {
        return Err(Malformed);
    }
    if !has_header {
        padded(buffer, 0, len, &mut each);
        return Ok(());
    }
    let header = Header::parse(&buffer[..len]).ok_or(Malformed)?;
    let (buffer, len) = (&mut buffer[HEADER_LEN..], len - HEADER_LEN);
    if header.kind == Kind::Single {
        if header.needs_checksum {
            complete_checksum(&mut buffer[..len], &header)?;
        }
        padded(buffer, 0, len, &mut each);
        return Ok(());
    }
    Segments::new(buffer, len, &header)?.run(buffer, len, &mut each);
    Ok(())
}

fn padded(buffer: &mut [u8], start: usize, end: usize, each: &mut impl FnMut(&[u8], usize)) {
    let mut behind = [0; SPARE];
    behind.copy_from_slice(&buffer[end..end + SPARE]);
    buffer[end..end + SPARE].fill(0);
    each(&buffer[start..end + SPARE], end - start);
    buffer[end..end + SPARE].copy_from_slice(&behind);
}

/// Adds what the kernel left out: the checksum field holds the sum of the pseudo header.
fn complete_checksum(packet: &mut [u8], header: &Header) -> Result<(), Malformed> {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    if at + 2 > packet.len() {
        return Err(Malformed);
    }
    let checksum = match !fold(sum(&packet[start..], 0)) {
        // Zero would say that there is no checksum in UDP; the other zero is the same number.
        0 => 0xffff,
        checksum => checksum,
    };
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// How a large packet is cut.
struct Segments {
    headers: [u8; MAX_HEADERS],
    headers_len: usize,
    transport: usize,
    segment: usize,
    is_v4: bool,
    is_tcp: bool,
    /// Sum of the addresses and the protocol.
    pseudo: u64,
}

impl Segments {
    fn new(packet: &[u8], len: usize, header: &Header) -> Result<Self, Malformed> {
        let packet = packet.get(..len).ok_or(Malformed)?;
        let is_v4 = match packet.first().ok_or(Malformed)? >> 4 {
            4 => true,
            6 => false,
            _ => return Err(Malformed),
        };
        let transport = usize::from(header.checksum_start);
        let is_tcp = header.kind != Kind::Udp;
        let ip_len = if is_v4 { 20 } else { 40 };
        let transport_len = if is_tcp {
            usize::from(packet.get(transport + 12).ok_or(Malformed)? >> 4) * 4
        } else {
            UDP_HEADER
        };
        let headers_len = transport + transport_len;
        let segment = usize::from(header.segment);
        let is_sound = transport >= ip_len
            && transport_len >= if is_tcp { 20 } else { UDP_HEADER }
            && headers_len <= MAX_HEADERS.min(len)
            && segment > 0
            && (header.kind == Kind::Udp || is_v4 == (header.kind == Kind::TcpV4));
        if !is_sound {
            return Err(Malformed);
        }
        let mut headers = [0; MAX_HEADERS];
        headers[..headers_len].copy_from_slice(&packet[..headers_len]);
        let addresses = if is_v4 { &packet[12..20] } else { &packet[8..40] };
        Ok(Self {
            headers,
            headers_len,
            transport,
            segment,
            is_v4,
            is_tcp,
            pseudo: sum(addresses, u64::from(if is_tcp { TCP } else { UDP })),
        })
    }

    fn run(&self, packet: &mut [u8], len: usize, each: &mut impl FnMut(&[u8], usize)) {
        let mut payload = self.headers_len;
        let mut number = 0;
        loop {
            let end = (payload + self.segment).min(len);
            let start = payload - self.headers_len;
            if number > 0 {
                packet[start..payload].copy_from_slice(&self.headers[..self.headers_len]);
            }
            self.write_headers(&mut packet[start..end], number, end == len);
            padded(packet, start, end, each);
            if end == len {
                break;
            }
            payload = end;
            number += 1;
        }
    }

    /// Makes `packet`, which has the headers of the large one, the segment with this number.
    fn write_headers(&self, packet: &mut [u8], number: usize, is_last: bool) {
        let len = packet.len();
        if self.is_v4 {
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(number as u16);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[10..12].fill(0);
            let checksum = !fold(sum(&packet[..self.transport], 0));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        let (at, transport) = (self.transport, len - self.transport);
        let field = if self.is_tcp {
            let sequence =
                u32::from_be_bytes([packet[at + 4], packet[at + 5], packet[at + 6], packet[at + 7]])
                    .wrapping_add((number * self.segment) as u32);
            packet[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            // Only the last segment ends something, and only the first reports a reduced window.
            if !is_last {
                packet[at + 13] &= !(FIN | PSH);
            }
            if number > 0 {
                packet[at + 13] &= !CWR;
            }
            at + 16
        } else {
            packet[at + 4..at + 6].copy_from_slice(&(transport as u16).to_be_bytes());
            at + 6
        };
        packet[field..field + 2].fill(0);
        let checksum = match !fold(sum(&packet[at..], self.pseudo + transport as u64)) {
            0 if !self.is_tcp => 0xffff,
            checksum => checksum,
        };
        packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}
