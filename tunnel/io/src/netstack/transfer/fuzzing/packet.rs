//! Segments as anybody could make them.

/// Flags of TCP.
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

#[derive(Debug, Default)]
pub(super) struct Packet<'p> {
    /// Which end sends it.
    pub(super) from: usize,
    pub(super) number: i32,
    pub(super) acknowledgement: i32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// Cut to what a header has room for.
    pub(super) options: &'p [u8],
    pub(super) payload: &'p [u8],
}

impl Packet<'_> {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut options = self.options[..self.options.len().min(40)].to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        let total = 40 + options.len() + self.payload.len();
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        let addresses = [[10, 0, 0, 1], [10, 0, 0, 2]];
        packet.extend(addresses[self.from]);
        packet.extend(addresses[1 - self.from]);
        packet.extend([0, 80, 0, 80]);
        packet.extend(self.number.to_be_bytes());
        packet.extend(self.acknowledgement.to_be_bytes());
        packet.extend([(((20 + options.len()) / 4) << 4) as u8, self.flags]);
        packet.extend(self.window.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(options);
        packet.extend(self.payload);
        packet
    }
}

/// Options of a SYN, of those that the bits name: the size of a segment, selective acknowledgements, a shift of the window.
pub(super) fn options(bits: u8, segment: u16) -> Vec<u8> {
    let mut options = Vec::new();
    if bits & 1 != 0 {
        options.extend([2, 4]);
        options.extend(segment.to_be_bytes());
    }
    if bits & 2 != 0 {
        options.extend([4, 2]);
    }
    if bits & 4 != 0 {
        options.extend([3, 3, super::super::SCALE]);
    }
    options
}

/// An option with these ranges of what came out of order.
pub(super) fn ranges(ranges: &[(i32, i32)]) -> Vec<u8> {
    let mut option = vec![1, 1, 5, 2 + 8 * ranges.len() as u8];
    for (left, right) in ranges {
        option.extend(left.to_be_bytes());
        option.extend(right.to_be_bytes());
    }
    option
}
