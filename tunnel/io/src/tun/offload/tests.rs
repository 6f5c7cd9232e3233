//! What one end splits, the other must be able to join again: both against packets that are built here byte by byte.

use orfe_tunnel_core::Batch;
use orfe_tunnel_core::packet::checksum::{fold, sum};
use proptest::prelude::*;

use super::header::{HEADER_LEN, Header, Kind};
use super::join::groups;
use super::{Group, SPARE, split};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;
/// Bytes of TCP options in the packets here: a timestamp.
const OPTIONS: usize = 12;

#[derive(Debug, Clone, Copy)]
struct Shape {
    v6: bool,
    sequence: u32,
    flags: u8,
    port: u16,
}

impl Shape {
    fn headers(self) -> usize {
        if self.v6 {
            40 + 20 + OPTIONS
        } else {
            20 + 20 + OPTIONS
        }
    }

    fn transport(self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn header(self, kind: Kind, segment: usize) -> [u8; HEADER_LEN] {
        Header {
            needs_checksum: true,
            kind,
            headers: self.headers() as u16,
            segment: segment as u16,
            checksum_start: self.transport() as u16,
            checksum_offset: 16,
        }
        .to_bytes()
    }

    /// A TCP packet with all checksums right.
    fn packet(self, payload: &[u8]) -> Vec<u8> {
        let at = self.transport();
        let mut packet = vec![0; self.headers()];
        packet.extend_from_slice(payload);
        let len = packet.len();
        if self.v6 {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            packet[6] = 6;
            packet[7] = 64;
            packet[8] = 0xfd;
            packet[24] = 0xfd;
            packet[39] = 2;
        } else {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[6] = 0x40;
            packet[8] = 64;
            packet[9] = 6;
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            let checksum = !fold(sum(&packet[..20], 0));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        packet[at..at + 2].copy_from_slice(&self.port.to_be_bytes());
        packet[at + 4..at + 8].copy_from_slice(&self.sequence.to_be_bytes());
        packet[at + 12] = (((20 + OPTIONS) / 4) << 4) as u8;
        packet[at + 13] = self.flags;
        let checksum = !fold(sum(&packet[at..], pseudo(&packet, 6)));
        packet[at + 16..at + 18].copy_from_slice(&checksum.to_be_bytes());
        packet
    }
}

/// Sum of the pseudo header of a whole packet.
fn pseudo(packet: &[u8], protocol: u64) -> u64 {
    if packet[0] >> 4 == 4 {
        sum(&packet[12..20], protocol + (packet.len() - 20) as u64)
    } else {
        sum(&packet[8..40], protocol + (packet.len() - 40) as u64)
    }
}

fn is_intact(packet: &[u8], protocol: u64) -> bool {
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let ip = at == 40 || fold(sum(&packet[..20], 0)) == 0xffff;
    ip && fold(sum(&packet[at..], pseudo(packet, protocol))) == 0xffff
}

/// The packets that come out of one read.
fn split_all(read: &[u8], has_header: bool) -> Option<Vec<Vec<u8>>> {
    // What lies behind the packet is rubbish on purpose.
    let mut buffer = read.to_vec();
    buffer.extend([0xee; SPARE]);
    let mut packets = Vec::new();
    split(&mut buffer, read.len(), has_header, |padded, len| {
        assert!(padded.len() >= len + SPARE.min(15) && padded[len..].iter().all(|byte| *byte == 0));
        packets.push(padded[..len].to_vec());
    })
    .ok()?;
    Some(packets)
}

/// What the kernel would be given for these packets.
fn joined(packets: &[Vec<u8>]) -> Vec<(Group, Vec<u8>)> {
    let mut batch = Batch::new();
    for packet in packets {
        batch.push(packet, ());
    }
    let mut found = Vec::new();
    groups(&mut batch, &mut found);
    found
        .into_iter()
        .map(|group| {
            let mut whole = Vec::new();
            for number in 0..group.packets {
                let packet = batch.get(group.first + number).unwrap().0;
                whole.extend_from_slice(&packet[if number == 0 { 0 } else { group.headers }..]);
            }
            (group, whole)
        })
        .collect()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|number| (number * 7 + number / 251) as u8).collect()
}

pub(super) fn in_a_row(v6: bool, lens: &[usize]) -> Vec<Vec<u8>> {
    let mut sequence = 0xffff_ff00u32;
    lens.iter()
        .map(|len| {
            let shape = Shape {
                v6,
                sequence,
                flags: ACK,
                port: 1,
            };
            sequence = sequence.wrapping_add(*len as u32);
            shape.packet(&bytes(*len))
        })
        .collect()
}

proptest! {
    #[test]
    fn a_large_packet_becomes_segments_and_those_become_it_again(
        v6: bool,
        segment in 1usize..1500,
        len in 1usize..40_000,
        sequence: u32,
    ) {
        let len = len.min(segment * 60);
        let shape = Shape { v6, sequence, flags: ACK | PSH | FIN, port: 7 };
        let payload = bytes(len);
        let kind = if v6 { Kind::TcpV6 } else { Kind::TcpV4 };
        let mut read = shape.header(kind, segment).to_vec();
        read.extend(shape.packet(&payload));
        let packets = split_all(&read, true).unwrap();
        prop_assert_eq!(packets.len(), len.div_ceil(segment));
        let at = shape.transport();
        let mut together = Vec::new();
        for (number, packet) in packets.iter().enumerate() {
            prop_assert!(is_intact(packet, 6));
            let expected = sequence.wrapping_add((number * segment) as u32);
            prop_assert_eq!(&packet[at + 4..at + 8], &expected.to_be_bytes()[..]);
            let is_last = number + 1 == packets.len();
            prop_assert_eq!(packet[at + 13], if is_last { ACK | PSH | FIN } else { ACK });
            together.extend_from_slice(&packet[shape.headers()..]);
        }
        prop_assert_eq!(together, payload);

        // FIN ends a row, so the last one stays alone; the others come together.
        let found = joined(&packets[..packets.len() - 1]);
        if packets.len() > 2 {
            prop_assert_eq!(found.len(), 1);
            let (group, whole) = &found[0];
            let mut read = group.header.to_vec();
            read.extend_from_slice(whole);
            let again = split_all(&read, true).unwrap();
            for (one, other) in again.iter().zip(&packets) {
                prop_assert!(is_intact(one, 6));
                prop_assert_eq!(&one[at..], &other[at..]);
            }
        }
    }

    #[test]
    fn rubbish_in_front_of_a_packet_never_panics(read in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
        let mut read = read;
        if read.len() > 1 {
            read[1] = kind;
        }
        let _ = split_all(&read, true);
        let mut batch = Batch::new();
        batch.push(&read, ());
        batch.push(&read, ());
        groups(&mut batch, &mut Vec::new());
    }
}

#[test]
fn an_unfinished_checksum_is_completed() {
    for v6 in [false, true] {
        let shape = Shape {
            v6,
            sequence: 1,
            flags: ACK,
            port: 1,
        };
        let whole = shape.packet(&bytes(101));
        let at = shape.transport() + 16;
        let mut partial = whole.clone();
        let start = fold(pseudo(&whole, 6));
        partial[at..at + 2].copy_from_slice(&start.to_be_bytes());
        let mut read = shape.header(Kind::Single, 0).to_vec();
        read.extend(partial);
        assert_eq!(split_all(&read, true).unwrap(), [whole]);
    }
}

#[test]
fn a_row_of_datagrams_is_split() {
    let payload = bytes(250);
    let mut packet = vec![0; 28];
    packet[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 9, 0, 0, 64, 17]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend_from_slice(&payload);
    let header = Header {
        needs_checksum: true,
        kind: Kind::Udp,
        headers: 28,
        segment: 100,
        checksum_start: 20,
        checksum_offset: 6,
    };
    let read = [&header.to_bytes()[..], &packet].concat();
    let packets = split_all(&read, true).unwrap();
    let lens: Vec<usize> = packets.iter().map(Vec::len).collect();
    assert_eq!(lens, [128, 128, 78]);
    for (number, packet) in packets.iter().enumerate() {
        assert!(is_intact(packet, 17));
        assert_eq!(packet[5], 9 + number as u8, "identification");
        assert_eq!(packet[24..26], ((packet.len() - 20) as u16).to_be_bytes());
    }
}

#[test]
fn without_a_header_a_packet_is_taken_as_it_stands() {
    let packet = in_a_row(false, &[33]).remove(0);
    assert_eq!(split_all(&packet, false).unwrap(), [packet]);
}

#[test]
fn contradictions_are_refused() {
    let shape = Shape {
        v6: false,
        sequence: 1,
        flags: ACK,
        port: 1,
    };
    let packet = shape.packet(&bytes(100));
    let with = |header: Header| [&header.to_bytes()[..], &packet].concat();
    let good = Header {
        needs_checksum: true,
        kind: Kind::TcpV4,
        headers: 52,
        segment: 50,
        checksum_start: 20,
        checksum_offset: 16,
    };
    assert_eq!(split_all(&with(good), true).map(|packets| packets.len()), Some(2));
    let bad = [
        Header { segment: 0, ..good },
        Header {
            kind: Kind::TcpV6,
            ..good
        },
        Header {
            checksum_start: 4,
            ..good
        },
        Header {
            checksum_start: 60_000,
            ..good
        },
        Header {
            kind: Kind::Single,
            checksum_offset: 60_000,
            ..good
        },
    ];
    for header in bad {
        assert_eq!(split_all(&with(header), true), None, "{header:?}");
    }
    assert_eq!(split_all(&[0; 9], true), None);
}

#[test]
fn only_what_follows_in_one_connection_and_is_whole_is_joined() {
    let sizes = |packets: &[Vec<u8>]| -> Vec<usize> {
        joined(packets).iter().map(|(group, _)| group.packets).collect()
    };
    for v6 in [false, true] {
        assert_eq!(
            sizes(&in_a_row(v6, &[100, 100, 60, 100, 100])),
            [3, 2],
            "a short one is the last"
        );
        assert_eq!(
            sizes(&in_a_row(v6, &[60, 100, 100])),
            [1, 2],
            "a longer one starts anew"
        );
        let mut damaged = in_a_row(v6, &[100, 100, 100, 100]);
        *damaged[1].last_mut().unwrap() ^= 1;
        assert_eq!(sizes(&damaged), [1, 1, 2], "a wrong checksum stays to be seen");
        let mut swapped = in_a_row(v6, &[100, 100, 100]);
        swapped.swap(1, 2);
        assert_eq!(sizes(&swapped), [1, 1, 1]);
        let base = Shape {
            v6,
            sequence: 0,
            flags: ACK,
            port: 1,
        };
        let next = Shape {
            sequence: 100,
            ..base
        };
        let others = [
            Shape { port: 2, ..next },
            Shape {
                flags: ACK | FIN,
                ..next
            },
            Shape { flags: 0x02, ..next },
            Shape { v6: !v6, ..next },
        ];
        for other in others {
            assert_eq!(
                sizes(&[base.packet(&bytes(100)), other.packet(&bytes(100))]),
                [1, 1],
                "{other:?}"
            );
        }
        let pushed = Shape {
            flags: ACK | PSH,
            ..base
        };
        assert_eq!(
            sizes(&[pushed.packet(&bytes(100)), next.packet(&bytes(100))]),
            [1, 1]
        );
        assert_eq!(
            sizes(&[base.packet(&[]), base.packet(&[])]),
            [1, 1],
            "acknowledgements stay"
        );
    }
}

#[test]
fn a_group_stays_within_the_length_of_a_packet() {
    let found = joined(&in_a_row(true, &[1400; 100]));
    let lens: Vec<usize> = found.iter().map(|(group, _)| group.packets).collect();
    assert_eq!(lens, [46, 46, 8]);
    assert!(found.iter().all(|(_, whole)| whole.len() <= 65_535));
}
