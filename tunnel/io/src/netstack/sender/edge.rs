//! Acknowledgements that lie beyond the window.
//!
//! A receiver must take a valid acknowledgement even where it can take no data (RFC 9293, section 3.10.7.4: "special
//! allowance should be made"). smoltcp makes none: it throws away every segment that begins behind its window. And
//! its window's right edge may move back by less than the unit of its scale, because it is rounded down, so the other end may have
//! sent a few bytes beyond it in good faith; from then on all its acknowledgements begin there. When the application of this
//! end waits for room to send, and therefore reads nothing, neither side would ever go on. So a bare acknowledgement that
//! begins behind the window is moved to the window's begin, where smoltcp takes it.

use smoltcp::wire::{TcpPacket, TcpSeqNumber};

/// Largest shift (RFC 7323, section 2.3).
const MAX_SHIFT: u8 = 14;

/// What smoltcp told the other end about its window.
#[derive(Debug, Default)]
pub(super) struct Edge {
    shift: u8,
    /// Begin and end.
    window: Option<(TcpSeqNumber, TcpSeqNumber)>,
}

impl Edge {
    /// smoltcp sends a SYN that offers this window scale.
    pub(super) fn sent_syn(&mut self, shift: Option<u8>) {
        self.shift = shift.map_or(0, |shift| shift.min(MAX_SHIFT));
    }

    /// The other end sent a SYN: without a scale in it none is used.
    pub(super) fn heard_syn(&mut self, shift: Option<u8>) {
        if shift.is_none() {
            self.shift = 0;
        }
    }

    /// smoltcp sends this segment.
    pub(super) fn note<T: AsRef<[u8]>>(&mut self, segment: &TcpPacket<T>) {
        if segment.ack() {
            // The window in a SYN is never scaled.
            let shift = if segment.syn() { 0 } else { self.shift };
            let begin = segment.ack_number();
            let end = begin + (usize::from(segment.window_len()) << shift);
            self.window = Some((begin, end));
        }
    }

    /// Moves a bare acknowledgement that begins behind the window to its begin.
    pub(super) fn admit(&self, segment: &mut TcpPacket<&mut [u8]>) {
        let Some((begin, end)) = self.window else { return };
        if segment.segment_len() == 0 && segment.seq_number() >= end {
            segment.set_seq_number(begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(bytes: &mut [u8; 24], seq: i32, ack: i32, window: u16) {
        let mut segment = TcpPacket::new_unchecked(&mut bytes[..]);
        segment.set_header_len(20);
        segment.clear_flags();
        segment.set_seq_number(TcpSeqNumber(seq));
        segment.set_ack(true);
        segment.set_ack_number(TcpSeqNumber(ack));
        segment.set_window_len(window);
    }

    fn syn(shift: u8) -> Edge {
        let mut edge = Edge::default();
        edge.sent_syn(Some(shift));
        edge
    }

    /// The sequence number with which a bare acknowledgement reaches smoltcp.
    fn admitted(edge: &Edge, seq: i32) -> i32 {
        let mut bytes = [0; 24];
        segment(&mut bytes, seq, 9, 100);
        let (header, _) = bytes.split_at_mut(20);
        let mut packet = TcpPacket::new_unchecked(header);
        edge.admit(&mut packet);
        packet.seq_number().0
    }

    fn told(edge: &mut Edge, ack: i32, window: u16) {
        let mut bytes = [0; 24];
        segment(&mut bytes, 5, ack, window);
        edge.note(&TcpPacket::new_unchecked(&bytes[..20]));
    }

    #[test]
    fn an_acknowledgement_behind_the_window_is_moved_to_its_begin_and_no_other() {
        let mut edge = syn(7);
        told(&mut edge, 1_000, 0);
        assert_eq!(admitted(&edge, 1_004), 1_000, "beyond a closed window");
        assert_eq!(admitted(&edge, 1_000), 1_000);
        assert_eq!(admitted(&edge, 999), 999, "a probe of a closed window");
        told(&mut edge, 1_000, 2);
        assert_eq!(admitted(&edge, 1_255), 1_255, "inside");
        assert_eq!(admitted(&edge, 1_256), 1_000);
    }

    #[test]
    fn the_edge_wraps_with_the_sequence_numbers() {
        let mut edge = syn(0);
        told(&mut edge, i32::MAX - 1, 4);
        assert_eq!(admitted(&edge, i32::MAX), i32::MAX);
        assert_eq!(admitted(&edge, i32::MIN + 8), i32::MAX - 1);
    }

    #[test]
    fn segments_with_data_are_let_be() {
        let mut edge = syn(0);
        told(&mut edge, 1_000, 0);
        let mut bytes = [0; 24];
        segment(&mut bytes, 1_000, 9, 100);
        let mut packet = TcpPacket::new_unchecked(&mut bytes[..]);
        edge.admit(&mut packet);
        packet.set_seq_number(TcpSeqNumber(1_004));
        edge.admit(&mut packet);
        assert_eq!(packet.seq_number().0, 1_004);
    }

    #[test]
    fn without_a_scale_from_the_other_end_none_counts() {
        let mut edge = syn(7);
        edge.heard_syn(None);
        told(&mut edge, 1_000, 2);
        assert_eq!(admitted(&edge, 1_001), 1_001);
        assert_eq!(admitted(&edge, 1_002), 1_000);
    }
}
