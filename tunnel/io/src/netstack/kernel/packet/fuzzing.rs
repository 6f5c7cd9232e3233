//! Packets between the tunnel and the kernel for the fuzz targets (`tests/fuzz`) and for the test that replays their corpus.

use std::net::SocketAddr;

use orfe_tunnel_core::packet::checksum::{fold, sum};

use super::{Checksum, End, Segment, reset};

const V4: ([u8; 4], u16) = ([240, 1, 2, 3], 443);
const V6: ([u16; 8], u16) = ([0x100, 0, 0, 0, 0, 0, 1, 2], 443);
const TCP: u64 = 6;

/// A packet from either side. An end of it is exchanged, and back.
pub fn packet(bytes: &[u8]) {
    let Some(segment) = Segment::parse(bytes) else {
        return;
    };
    let end = reset(segment.destination, segment.source, segment.next_sequence);
    let read = Segment::parse(&end).filter(|read| read.is_reset);
    assert_eq!(
        read.map(|read| (read.source, read.destination, read.next_sequence)),
        Some((segment.destination, segment.source, segment.next_sequence)),
        "the answer to it can be read"
    );
    let other = if segment.source.is_ipv4() {
        SocketAddr::from(V4)
    } else {
        SocketAddr::from(V6)
    };
    for end in [End::Source, End::Destination] {
        let own = match end {
            End::Source => segment.source,
            End::Destination => segment.destination,
        };
        for checksum in [Checksum::Whole, Checksum::PseudoHeader] {
            let mut changed = bytes.to_vec();
            segment.redirect(&mut changed, end, other, checksum);
            let read = Segment::parse(&changed);
            let expected = match end {
                End::Source => Segment {
                    source: other,
                    ..segment
                },
                End::Destination => Segment {
                    destination: other,
                    ..segment
                },
            };
            assert_eq!(read, Some(expected), "nothing but the end has changed");
            if checksum == Checksum::Whole {
                assert_eq!(
                    sums(&changed, segment.transport),
                    sums(bytes, segment.transport),
                    "checksums are as good as they were"
                );
            }
            expected.redirect(&mut changed, end, own, checksum);
            assert_eq!(Segment::parse(&changed), Some(segment), "and back");
        }
        // Of the other family there is nothing that could be put in.
        let mut changed = bytes.to_vec();
        let foreign = if other.is_ipv4() {
            SocketAddr::from(V6)
        } else {
            SocketAddr::from(V4)
        };
        segment.redirect(&mut changed, end, foreign, Checksum::Whole);
        assert_eq!(changed, bytes);
    }
}

/// What the checksums of IP and TCP add up to, the two zeros being one: with good ones, zero.
fn sums(packet: &[u8], transport: usize) -> (u16, u16) {
    let (ip, addresses) = if packet[0] >> 4 == 4 {
        (sum(&packet[..transport], 0), &packet[12..20])
    } else {
        (0, &packet[8..40])
    };
    let tcp = &packet[transport..];
    let all = sum(tcp, sum(addresses, TCP + tcp.len() as u64));
    (fold(ip) % 0xffff, fold(all) % 0xffff)
}
