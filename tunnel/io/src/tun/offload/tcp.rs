//! Where the headers of a TCP segment lie, and what decides about it. Layouts: RFC 791, 8200 (IP), 9293 (TCP).

/// The number of TCP in an IP header.
pub(crate) const TCP: u8 = 6;
/// TCP's header without options, in bytes.
pub(crate) const TCP_HEADER: usize = 20;
#[cfg(target_os = "linux")]
pub(crate) const FIN: u8 = 0x01;
#[cfg(target_os = "linux")]
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// What is known of a segment, which may be a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpHeaders {
    pub(crate) is_v4: bool,
    /// Length of the packet as its IP header has it, which a large packet may leave out.
    pub(crate) told_len: usize,
    /// Where TCP's header starts.
    pub(crate) transport: usize,
    /// Where the payload starts: at most at the end of the packet.
    pub(crate) headers: usize,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
}

impl TcpHeaders {
    /// `None` for what is no TCP, for fragments, for IPv6 with extension headers, and for what is cut.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let (is_v4, told_len, transport) = match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let transport = usize::from(header[0] & 0x0f) * 4;
                // More fragments to come, or not the first.
                let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                if header[9] != TCP || is_fragment || transport < 20 {
                    return None;
                }
                let len = u16::from_be_bytes([header[2], header[3]]);
                (true, usize::from(len), transport)
            }
            6 => {
                let header: &[u8; 40] = packet.first_chunk()?;
                if header[6] != TCP {
                    return None;
                }
                let len = u16::from_be_bytes([header[4], header[5]]);
                (false, usize::from(len) + 40, 40)
            }
            _ => return None,
        };
        let tcp: &[u8; TCP_HEADER] = packet.get(transport..)?.first_chunk()?;
        let headers = transport + usize::from(tcp[12] >> 4) * 4;
        if headers < transport + TCP_HEADER || headers > packet.len() {
            return None;
        }
        let number = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        Some(Self {
            is_v4,
            told_len,
            transport,
            headers,
            source_port: u16::from_be_bytes([tcp[0], tcp[1]]),
            destination_port: u16::from_be_bytes([tcp[2], tcp[3]]),
            sequence: number(4),
            acknowledged: number(8),
            flags: tcp[13],
        })
    }
}
