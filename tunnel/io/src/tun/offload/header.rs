//! The header in front of each packet of a device with `IFF_VNET_HDR` (`linux/virtio_net.h`, `struct virtio_net_hdr`).

/// Its length in bytes.
pub(crate) const HEADER_LEN: usize = 10;

/// The transport checksum is not complete: it is the sum of the pseudo header, and the rest is to be added.
const NEEDS_CHECKSUM: u8 = 1;

const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
/// A bit beside the kind: segments carry congestion marks.
const GSO_ECN: u8 = 0x80;

/// What a large packet consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is one packet.
    Single,
    TcpV4,
    TcpV6,
    /// Datagrams of UDP (Linux 6.2).
    Udp,
}

/// Whether the packet behind this header has the sum of the pseudo header alone for a checksum.
pub(crate) fn needs_checksum(header: &[u8]) -> bool {
    header.first().is_some_and(|flags| flags & NEEDS_CHECKSUM != 0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) needs_checksum: bool,
    pub(super) kind: Kind,
    /// Length of all headers in bytes.
    pub(super) headers: u16,
    /// Payload of each segment in bytes.
    pub(super) segment: u16,
    /// Where the transport header starts in the packet.
    pub(super) checksum_start: u16,
    /// Where the checksum is in the transport header.
    pub(super) checksum_offset: u16,
}

impl Header {
    /// Reads the header in front of `bytes`; `None` when it is cut or of a kind that was not asked for.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let kind = match bytes[1] & !GSO_ECN {
            0 => Kind::Single,
            GSO_TCP_V4 => Kind::TcpV4,
            GSO_TCP_V6 => Kind::TcpV6,
            GSO_UDP => Kind::Udp,
            _ => return None,
        };
        // Native byte order: that is what the kernel uses unless it is told otherwise.
        let at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            needs_checksum: needs_checksum(bytes),
            kind,
            headers: at(2),
            segment: at(4),
            checksum_start: at(6),
            checksum_offset: at(8),
        })
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let kind = match self.kind {
            Kind::Single => 0,
            Kind::TcpV4 => GSO_TCP_V4,
            Kind::TcpV6 => GSO_TCP_V6,
            Kind::Udp => GSO_UDP,
        };
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = if self.needs_checksum { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = kind;
        bytes[2..4].copy_from_slice(&self.headers.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }
}
