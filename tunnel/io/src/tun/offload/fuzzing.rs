//! Large packets for the fuzz targets (`tests/fuzz`) and for the test that replays their corpus.

use orfe_tunnel_core::Batch;

use super::header::{HEADER_LEN, Header, Kind};
use super::join::{MAX_JOINED, groups};
use super::split::{SPARE, split};

/// What lies behind a packet in its buffer.
const BEHIND: u8 = 0xee;

/// What a device gives, or what the tunnel brings; the first byte says which.
pub fn offload(bytes: &[u8]) {
    match bytes.split_first() {
        Some((mode, rest)) if mode & 2 == 0 => from_device(rest, mode & 1 == 0),
        Some((_, rest)) => to_device(rest),
        None => {}
    }
}

/// A read of a device, with the header in front or without.
fn from_device(read: &[u8], has_header: bool) {
    let Some(packets) = split_all(read, has_header) else {
        return;
    };
    if !has_header {
        assert_eq!(packets, [read]);
        return;
    }
    let (Some(header), packet) = (Header::parse(read), &read[HEADER_LEN..]) else {
        return;
    };
    if header.kind == Kind::Single {
        assert!(packets.len() == 1 && packets[0].len() == packet.len());
        return;
    }
    let transport = usize::from(header.checksum_start);
    let headers = transport
        + if header.kind == Kind::Udp {
            8
        } else {
            usize::from(packet[transport + 12] >> 4) * 4
        };
    let together: Vec<u8> = packets.iter().flat_map(|part| part[headers..].to_vec()).collect();
    assert_eq!(together, packet[headers..], "payload in order, each byte once");
    let segment = usize::from(header.segment);
    for (number, part) in packets.iter().enumerate() {
        let is_last = number + 1 == packets.len();
        let len = part.len() - headers;
        assert!(len == segment || (is_last && len <= segment));
        let told = match part[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([part[2], part[3]])),
            _ => usize::from(u16::from_be_bytes([part[4], part[5]])) + 40,
        };
        assert_eq!(told, part.len(), "a packet has the length that it tells");
    }
}

/// Packets of the tunnel, each behind its length in a byte, in units of four.
fn to_device(mut bytes: &[u8]) {
    let mut batch = Batch::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let (packet, rest) = rest.split_at(rest.len().min(usize::from(length) * 4));
        batch.push(packet, ());
        bytes = rest;
    }
    let before: Vec<Vec<u8>> = batch.iter().map(|(packet, ())| packet.to_vec()).collect();
    let mut joined = Vec::new();
    groups(&mut batch, &mut joined);
    let mut next = 0;
    for group in &joined {
        assert_eq!(group.first, next, "in order, none twice");
        assert!((1..=MAX_JOINED).contains(&group.packets));
        next += group.packets;
        let mut read = group.header.to_vec();
        for number in 0..group.packets {
            let from = if number == 0 { 0 } else { group.headers };
            if let Some((packet, ())) = batch.get(group.first + number) {
                read.extend_from_slice(&packet[from..]);
            }
        }
        let own = &before[group.first..next];
        if group.packets == 1 {
            assert_eq!(read[HEADER_LEN..], own[0], "a single one is as it was");
            continue;
        }
        let again = split_all(&read, true);
        assert_eq!(again.map(|packets| masked(&packets)), Some(masked(own)));
    }
    assert_eq!(next, before.len(), "none is left out");
}

/// Packets without what may differ once they were joined: the number of an IPv4 packet and, for it, the checksum of the
/// header; and the two zeros of TCP's.
fn masked(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut packets = packets.to_vec();
    for packet in &mut packets {
        let transport = match packet[0] >> 4 {
            4 => {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
                20
            }
            _ => 40,
        };
        let checksum = &mut packet[transport + 16..transport + 18];
        if *checksum == [0xff; 2] {
            checksum.fill(0);
        }
    }
    packets
}

/// All packets of a read; `None` where it contradicts its header. What lies behind it is as it was.
fn split_all(read: &[u8], has_header: bool) -> Option<Vec<Vec<u8>>> {
    let mut buffer = read.to_vec();
    buffer.extend([BEHIND; SPARE]);
    let mut packets = Vec::new();
    let result = split(&mut buffer, read.len(), has_header, |padded, len| {
        assert!(padded.len() == len + SPARE && padded[len..].iter().all(|byte| *byte == 0));
        packets.push(padded[..len].to_vec());
    });
    assert!(buffer[read.len()..].iter().all(|byte| *byte == BEHIND));
    result.is_ok().then_some(packets)
}
