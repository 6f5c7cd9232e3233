//! The answer to a packet that does not fit: ICMP "fragmentation needed" (RFC 1191) and ICMPv6 "packet too big" (RFC 8201).

use super::checksum::{fold, sum};

/// Largest answer for IPv4 (RFC 1812, section 4.3.2.3) and for IPv6 (its minimum MTU).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
const ICMP_HEADER: usize = 8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOPS: u8 = 64;

/// What to tell the sender of `packet`, of which only `mtu` bytes pass. `None` for what must not be answered (RFC 1122,
/// section 3.2.2): ICMP errors, fragments behind the first, and what does not go to or come from a single host.
///
/// The answer comes from the packet's own destination: this end may have no address, and a router on the way would not
/// be believed more.
#[must_use]
pub fn too_big(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 if packet.len() >= HEADER_V4 => too_big_v4(packet, mtu),
        6 if packet.len() >= HEADER_V6 => too_big_v6(packet, mtu),
        _ => None,
    }
}

fn too_big_v4(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let header = usize::from(packet[0] & 0x0f) * 4;
    let is_later_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
    // Echo request and reply are questions; every other ICMP message may be an error.
    let is_error = packet[9] == ICMP && !matches!(packet.get(header)?, 0 | 8);
    let [source, destination] = [12, 16].map(|at| packet[at..at + 4].first_chunk::<4>().copied());
    let (source, destination) = (source?, destination?);
    if is_later_fragment || is_error || !is_single_v4(source) || !is_single_v4(destination) {
        return None;
    }
    let quoted = packet.len().min(MAX_V4 - HEADER_V4 - ICMP_HEADER);
    let mut answer = vec![0; HEADER_V4 + ICMP_HEADER];
    answer.extend_from_slice(&packet[..quoted]);
    let total = u16::try_from(answer.len()).ok()?;
    answer[0] = 0x45;
    answer[2..4].copy_from_slice(&total.to_be_bytes());
    answer[8] = HOPS;
    answer[9] = ICMP;
    answer[12..16].copy_from_slice(&destination);
    answer[16..20].copy_from_slice(&source);
    let checksum = !fold(sum(&answer[..HEADER_V4], 0));
    answer[10..12].copy_from_slice(&checksum.to_be_bytes());
    answer[HEADER_V4] = 3;
    answer[HEADER_V4 + 1] = 4;
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    answer[HEADER_V4 + 6..HEADER_V4 + 8].copy_from_slice(&mtu.to_be_bytes());
    let checksum = !fold(sum(&answer[HEADER_V4..], 0));
    answer[HEADER_V4 + 2..HEADER_V4 + 4].copy_from_slice(&checksum.to_be_bytes());
    Some(answer)
}

fn too_big_v6(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    // Types below 128 are errors (RFC 4443, section 2.1). Multicast may be answered here (section 2.4 e.3), but not a
    // packet from nobody.
    let is_error = packet[6] == ICMPV6 && packet.get(HEADER_V6).is_none_or(|kind| *kind < 128);
    let source = *packet[8..24].first_chunk::<16>()?;
    let destination = *packet[24..40].first_chunk::<16>()?;
    if is_error || source == [0; 16] || source[0] == 0xff || destination[0] == 0xff {
        return None;
    }
    let quoted = packet.len().min(MAX_V6 - HEADER_V6 - ICMP_HEADER);
    let payload = u16::try_from(ICMP_HEADER + quoted).ok()?;
    let mut answer = vec![0; HEADER_V6 + ICMP_HEADER];
    answer.extend_from_slice(&packet[..quoted]);
    answer[0] = 0x60;
    answer[4..6].copy_from_slice(&payload.to_be_bytes());
    answer[6] = ICMPV6;
    answer[7] = HOPS;
    answer[8..24].copy_from_slice(&destination);
    answer[24..40].copy_from_slice(&source);
    answer[HEADER_V6] = 2;
    let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
    answer[HEADER_V6 + 4..HEADER_V6 + 8].copy_from_slice(&mtu.to_be_bytes());
    // Both addresses, the length and the protocol are part of the sum (RFC 8200, section 8.1).
    let pseudo = sum(&answer[8..40], u64::from(payload) + u64::from(ICMPV6));
    let checksum = !fold(sum(&answer[HEADER_V6..], pseudo));
    answer[HEADER_V6 + 2..HEADER_V6 + 4].copy_from_slice(&checksum.to_be_bytes());
    Some(answer)
}

/// Neither nobody, nor loopback, nor a group, nor everybody.
fn is_single_v4(address: [u8; 4]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_v4(len: usize) -> Vec<u8> {
        let mut packet = vec![7; len];
        packet[..20].copy_from_slice(&[
            0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        packet
    }

    fn udp_v6(len: usize) -> Vec<u8> {
        let mut packet = vec![7; len];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 5, 0xb4, 17, 64]);
        packet[8] = 0xfd;
        packet[24] = 0xfd;
        packet
    }

    #[test]
    fn the_answer_names_the_size_that_passes_and_quotes_the_packet() {
        let packet = udp_v4(1500);
        let answer = too_big(&packet, 1280).unwrap();
        assert_eq!(answer.len(), 576);
        assert_eq!(answer[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!((answer[20], answer[21], &answer[26..28]), (3, 4, &[5, 0][..]));
        assert_eq!(answer[28..], packet[..548]);
        assert_eq!(fold(sum(&answer[..20], 0)), 0xffff);
        assert_eq!(fold(sum(&answer[20..], 0)), 0xffff);

        let packet = udp_v6(1500);
        let answer = too_big(&packet, 1300).unwrap();
        assert_eq!(answer.len(), 1280);
        assert_eq!(
            (answer[40], answer[41], &answer[44..48]),
            (2, 0, &[0, 0, 5, 0x14][..])
        );
        assert_eq!(answer[48..], packet[..1232]);
        let pseudo = sum(&answer[8..40], 1240 + 58);
        assert_eq!(fold(sum(&answer[40..], pseudo)), 0xffff);
    }

    #[test]
    fn errors_fragments_and_groups_get_no_answer() {
        let mut error = udp_v4(1500);
        error[9] = ICMP;
        error[20] = 3;
        let mut fragment = udp_v4(1500);
        fragment[7] = 9;
        let mut group = udp_v4(1500);
        group[16] = 224;
        let mut error_v6 = udp_v6(1500);
        error_v6[6] = ICMPV6;
        error_v6[40] = 2;
        let mut group_v6 = udp_v6(1500);
        group_v6[24] = 0xff;
        for packet in [error, fragment, group, error_v6, group_v6, vec![0x45; 19], vec![]] {
            assert_eq!(too_big(&packet, 1280), None);
        }
    }
}
