//! The maximum segment size that TCP announces in its SYN, lowered to what passes through the tunnel.

use super::checksum::updated;

const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
/// Header of TCP without options.
const TCP_HEADER: usize = 20;

/// Whether `packet` is a TCP SYN that announces segments which do not fit into packets of `mtu` bytes.
#[must_use]
pub fn exceeds_mss(packet: &[u8], mtu: usize) -> bool {
    find(packet).is_some_and(|found| found.value > found.limit(mtu))
}

/// Lowers the segment size that a TCP SYN announces to what fits into packets of `mtu` bytes. False when there was nothing
/// to lower.
pub fn clamp_mss(packet: &mut [u8], mtu: usize) -> bool {
    let Some(found) = find(packet).filter(|found| found.value > found.limit(mtu)) else {
        return false;
    };
    let limit = found.limit(mtu);
    let Some(value) = packet.get_mut(found.at..found.at + 2) else {
        return false;
    };
    value.copy_from_slice(&limit.to_be_bytes());
    // The words of the sum start at even offsets of the TCP header; an option at an odd one straddles two of them,
    // which comes to the same as swapping its bytes.
    let (from, to) = if (found.at - found.tcp).is_multiple_of(2) {
        (found.value, limit)
    } else {
        (found.value.swap_bytes(), limit.swap_bytes())
    };
    if let Some(field) = packet
        .get_mut(found.tcp + 16..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    {
        *field = updated(u16::from_be_bytes(*field), from, to).to_be_bytes();
    }
    true
}

struct Found {
    /// Offset of the TCP header.
    tcp: usize,
    /// Offset of the announced value.
    at: usize,
    value: u16,
}

impl Found {
    fn limit(&self, mtu: usize) -> u16 {
        u16::try_from(mtu.saturating_sub(self.tcp + TCP_HEADER)).unwrap_or(u16::MAX)
    }
}

/// The announced segment size of a SYN. Behind IPv6 extension headers it is not looked for.
fn find(packet: &[u8]) -> Option<Found> {
    let tcp = tcp_header(packet)?;
    if *packet.get(tcp + 13)? & SYN == 0 {
        return None;
    }
    let end = tcp + usize::from(*packet.get(tcp + 12)? >> 4) * 4;
    let mut at = tcp + TCP_HEADER;
    while at < end {
        match *packet.get(at)? {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            OPTION_MSS => {
                let value = u16::from_be_bytes(*packet.get(at + 2..)?.first_chunk()?);
                return (*packet.get(at + 1)? == 4 && at + 4 <= end).then_some(Found {
                    tcp,
                    at: at + 2,
                    value,
                });
            }
            _ => at += usize::from(*packet.get(at + 1)?).max(2),
        }
    }
    None
}

/// Offset of the TCP header of a packet that has one.
fn tcp_header(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => {
            let is_first = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff == 0;
            let len = usize::from(packet[0] & 0x0f) * 4;
            (*packet.get(9)? == 6 && is_first && len >= 20).then_some(len)
        }
        6 => (*packet.get(6)? == 6).then_some(40),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::{fold, sum};
    use super::*;

    /// A SYN with these options, and a checksum over its TCP header alone, which serves as well here.
    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        let mut packet = if v6 { vec![0; 40] } else { vec![0; 20] };
        if v6 {
            packet[0] = 0x60;
            packet[6] = 6;
        } else {
            packet[0] = 0x45;
            packet[9] = 6;
        }
        let tcp = packet.len();
        packet.extend([0; TCP_HEADER]);
        packet.extend(options);
        packet[tcp + 12] = ((TCP_HEADER + options.len()) / 4 << 4) as u8;
        packet[tcp + 13] = SYN;
        let checksum = !fold(sum(&packet[tcp..], 0));
        packet[tcp + 16..tcp + 18].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn a_segment_size_that_does_not_fit_is_lowered_and_the_sum_stays_right() {
        let aligned = [2, 4, 0x05, 0xb4, 1, 1, 4, 2];
        let odd = [1, 2, 4, 0x05, 0xb4, 1, 4, 2];
        for (v6, options, at, expected) in [
            (false, aligned, 2, 1240u16),
            (false, odd, 3, 1240),
            (true, aligned, 2, 1220),
            (true, odd, 3, 1220),
        ] {
            let mut packet = syn(v6, &options);
            let tcp = if v6 { 40 } else { 20 };
            assert!(exceeds_mss(&packet, 1280));
            assert!(clamp_mss(&mut packet, 1280));
            let at = tcp + TCP_HEADER + at;
            assert_eq!(packet[at..at + 2], expected.to_be_bytes());
            assert_eq!(fold(sum(&packet[tcp..], 0)), 0xffff);
            assert!(!clamp_mss(&mut packet, 1280), "once is enough");
        }
    }

    #[test]
    fn what_is_no_syn_or_fits_or_is_malformed_stays() {
        let mss = [2, 4, 0x05, 0xb4];
        let mut no_syn = syn(false, &mss);
        no_syn[33] = 0x10;
        let mut udp = syn(false, &mss);
        udp[9] = 17;
        let mut later_fragment = syn(false, &mss);
        later_fragment[7] = 1;
        let mut cut = syn(false, &mss);
        cut.truncate(42);
        let cases = [
            no_syn,
            udp,
            later_fragment,
            cut,
            syn(false, &[0, 2, 4, 5]),
            syn(false, &[3, 0, 0, 0]),
            syn(false, &[8, 200, 2, 4]),
            syn(true, &[]),
            vec![],
            vec![0x45],
        ];
        for packet in cases {
            let mut changed = packet.clone();
            assert!(!clamp_mss(&mut changed, 1280));
            assert_eq!(changed, packet);
        }
        assert!(!clamp_mss(&mut syn(false, &mss), 1500));
    }
}
