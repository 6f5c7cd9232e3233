//! Sequence numbers of bare acknowledgements.
//!
//! After a retransmission timeout smoltcp starts over from the first unacknowledged byte, and until it has caught up it
//! gives its bare acknowledgements the sequence number of that earlier place. The other end may have those bytes
//! already; then such a segment lies before its window, and it throws away the acknowledgement with it (RFC 9293,
//! section 3.10.7.4). When both ends are in that state, neither hears the other, for ever.
//! A bare acknowledgement belongs at the end of what was ever sent (`SND.NXT`), so that is where it is moved to.
//!
//! Since every packet passes here, the round trip is measured here, too: from the first time that a byte is sent to its
//! acknowledgement.

use std::time::{Duration, Instant};

use smoltcp::wire::{IpAddress, TcpPacket, TcpSeqNumber};

use super::flow::Header;

/// The end of what was ever sent on a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SentEnd {
    end: Option<TcpSeqNumber>,
    /// What was sent, and when, whose acknowledgement tells the round trip. One at a time.
    measured: Option<(TcpSeqNumber, Instant)>,
}

impl SentEnd {
    /// Looks at a packet that smoltcp made, and moves it if it is a bare acknowledgement that lies too early.
    pub(super) fn correct(&mut self, packet: &mut [u8], header: &Header, now: Instant) {
        let Ok(mut segment) = TcpPacket::new_checked(&mut packet[header.offset..]) else {
            return;
        };
        if segment.rst() {
            return;
        }
        let (start, end) = (segment.seq_number(), segment.seq_number() + segment.segment_len());
        match self.end {
            Some(sent_end) if end < sent_end => {
                if segment.segment_len() == 0 {
                    segment.set_seq_number(sent_end);
                    segment.fill_checksum(
                        &IpAddress::from(header.source.ip()),
                        &IpAddress::from(header.destination.ip()),
                    );
                } else {
                    // Sent again: an acknowledgement would not tell which of the two it is for (Karn's algorithm).
                    self.measured = None;
                }
            }
            _ => {
                if end > start && self.measured.is_none() {
                    self.measured = Some((end, now));
                }
                self.end = Some(end);
            }
        }
    }

    /// Looks at a packet for smoltcp. The round trip, when it tells one.
    pub(super) fn acknowledged(&mut self, packet: &[u8], header: &Header, now: Instant) -> Option<Duration> {
        let (end, at) = self.measured?;
        let segment = TcpPacket::new_checked(packet.get(header.offset..)?).ok()?;
        if !segment.ack() || segment.ack_number() < end {
            return None;
        }
        self.measured = None;
        Some(now.saturating_duration_since(at))
    }
}
