//! The outer framing of a datagram: its kind and the index of its receiver.
//!
//! Layouts and sizes from the `WireGuard` paper, section 5.4: a little-endian u32 type, then for types 1 to 3 fixed lengths.

/// What a datagram claims to be. Nothing in it is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// Handshake initiation: names no receiver index, its sender is inside the encryption.
    Initiation,
    /// Handshake response to the session with this local index.
    Response(u32),
    /// Cookie reply to the session with this local index.
    Cookie(u32),
    /// Transport data for the session with this local index.
    Data(u32),
}

/// Length of a handshake initiation in bytes.
pub(crate) const INITIATION_LEN: usize = 148;
/// Length of a handshake response in bytes.
pub(crate) const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply in bytes.
pub(crate) const COOKIE_LEN: usize = 64;
/// What transport data adds to an inner packet: header 16, tag 16.
pub(crate) const DATA_OVERHEAD: usize = 32;

impl Message {
    /// Reads the framing; `None` for anything that is no `WireGuard` message.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        let kind = u32_at(datagram, 0)?;
        match (kind, datagram.len()) {
            (1, INITIATION_LEN) => Some(Self::Initiation),
            (2, RESPONSE_LEN) => Some(Self::Response(u32_at(datagram, 8)?)),
            (3, COOKIE_LEN) => Some(Self::Cookie(u32_at(datagram, 4)?)),
            (4, DATA_OVERHEAD..) => Some(Self::Data(u32_at(datagram, 4)?)),
            _ => None,
        }
    }
}

/// The local index of whoever wrote this initiation or response; `None` for any other message.
pub(crate) fn sender(datagram: &[u8]) -> Option<u32> {
    match Message::parse(datagram)? {
        Message::Initiation | Message::Response(_) => u32_at(datagram, 4),
        Message::Cookie(_) | Message::Data(_) => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_type_and_exact_length() {
        let with = |kind: u8, len: usize| {
            let mut bytes = vec![0; len];
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if len > 11 {
                bytes[4] = 7;
                bytes[8] = 9;
            }
            bytes
        };
        let cases = [
            (with(1, 148), Some(Message::Initiation)),
            (with(2, 92), Some(Message::Response(9))),
            (with(3, 64), Some(Message::Cookie(7))),
            (with(4, 32), Some(Message::Data(7))),
            (with(4, 1500), Some(Message::Data(7))),
            (with(1, 147), None),
            (with(2, 93), None),
            (with(3, 63), None),
            (with(4, 31), None),
            (with(5, 148), None),
            (with(0, 0), None),
            (with(1, 3), None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Message::parse(&bytes), expected, "{} bytes", bytes.len());
            let is_handshake = matches!(expected, Some(Message::Initiation | Message::Response(_)));
            assert_eq!(sender(&bytes), is_handshake.then_some(7), "{} bytes", bytes.len());
        }
        let mut reserved = with(1, 148);
        reserved[2] = 1;
        assert_eq!(Message::parse(&reserved), None, "reserved bytes must be zero");
    }
}
