//! Whose packet it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Protocol numbers (IANA).
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// A connection's two ends, as seen from the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) protocol: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Where the transport's header starts.
    pub(super) offset: usize,
}

impl Header {
    /// `None` for what has no ports where they are expected: garbage, fragments, and packets with extension headers.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let (protocol, source, destination, offset) = match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let offset = usize::from(header[0] & 0xf) * 4;
                let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                if is_fragment || offset < header.len() {
                    return None;
                }
                let source: [u8; 4] = *header[12..].first_chunk()?;
                let destination: [u8; 4] = *header[16..].first_chunk()?;
                (
                    header[9],
                    IpAddr::V4(Ipv4Addr::from(source)),
                    IpAddr::V4(Ipv4Addr::from(destination)),
                    offset,
                )
            }
            6 => {
                let header: &[u8; 40] = packet.first_chunk()?;
                let source: [u8; 16] = *header[8..].first_chunk()?;
                let destination: [u8; 16] = *header[24..].first_chunk()?;
                (
                    header[6],
                    IpAddr::V6(Ipv6Addr::from(source)),
                    IpAddr::V6(Ipv6Addr::from(destination)),
                    header.len(),
                )
            }
            _ => return None,
        };
        let ports: &[u8; 4] = packet.get(offset..)?.first_chunk()?;
        (protocol == TCP || protocol == UDP).then(|| Self {
            protocol,
            source: SocketAddr::new(source, u16::from_be_bytes([ports[0], ports[1]])),
            destination: SocketAddr::new(destination, u16::from_be_bytes([ports[2], ports[3]])),
            offset,
        })
    }

    /// The connection of a packet that came in.
    pub(super) fn incoming(&self) -> Flow {
        Flow {
            local: self.destination,
            remote: self.source,
        }
    }
}
