//! Sequence numbers of bare acknowledgements.
//!
//! After a retransmission timeout smoltcp starts over from the first unacknowledged byte, and until it has caught up it
//! gives its bare acknowledgements the sequence number of that earlier place. The other end may have those bytes
//! already; then such a segment lies before its window, and it throws away the acknowledgement with it (RFC 9293,
//! section 3.10.7.4). When both ends are in that state, neither hears the other, for ever.
//! A bare acknowledgement belongs at the end of what was ever sent (`SND.NXT`), so that is where it is moved to.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

use super::stack::Flow;

/// The end of what was ever sent on a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SentEnd(Option<TcpSeqNumber>);

/// Looks at a packet that smoltcp made, and moves it if it is a bare acknowledgement that lies too early. `sent` finds the
/// connection that the packet belongs to.
pub(super) fn correct<'a>(packet: &mut [u8], sent: impl FnOnce(&Flow) -> Option<&'a mut SentEnd>) {
    let Some((source, destination, offset)) = addresses(packet) else {
        return;
    };
    let Ok(mut segment) = TcpPacket::new_checked(&mut packet[offset..]) else {
        return;
    };
    let flow = Flow {
        local: SocketAddr::new(source, segment.src_port()),
        remote: SocketAddr::new(destination, segment.dst_port()),
    };
    if segment.rst() {
        return;
    }
    let Some(sent) = sent(&flow) else { return };
    let end = segment.seq_number() + segment.segment_len();
    match sent.0 {
        Some(sent_end) if end < sent_end => {
            if segment.segment_len() == 0 {
                segment.set_seq_number(sent_end);
                segment.fill_checksum(&IpAddress::from(source), &IpAddress::from(destination));
            }
        }
        _ => sent.0 = Some(end),
    }
}

/// Source, destination, and where TCP starts.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet)
                .ok()
                .filter(|ip| ip.next_header() == IpProtocol::Tcp)?;
            Some((
                ip.src_addr().into(),
                ip.dst_addr().into(),
                usize::from(ip.header_len()),
            ))
        }
        6 => {
            let ip = Ipv6Packet::new_checked(packet)
                .ok()
                .filter(|ip| ip.next_header() == IpProtocol::Tcp)?;
            Some((ip.src_addr().into(), ip.dst_addr().into(), ip.header_len()))
        }
        _ => None,
    }
}
