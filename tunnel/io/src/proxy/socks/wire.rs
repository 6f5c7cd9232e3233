//! SOCKS version 5 as bytes (RFC 1928, and RFC 1929 for the credential): no I/O, nothing but slices.
//!
//! Every reader takes what has arrived so far and says how much of it is one whole message, or that more is needed. No
//! message is longer than [`MESSAGE_MAX`], so a buffer of that size always holds one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use secrecy::SecretString;

use crate::proxy::refusal::Refusal;
use crate::proxy::target::{Host, Target, TargetError};

/// First byte of every message but those of RFC 1929.
pub(in crate::proxy) const VERSION: u8 = 5;
/// First byte of the messages of RFC 1929.
const CREDENTIAL_VERSION: u8 = 1;
/// The one method that is offered: user name and password.
pub(super) const METHOD_PASSWORD: u8 = 2;
/// What is answered to a client that does not offer it; the client has to close.
const METHOD_NONE: u8 = 0xff;
/// The longest message: a credential with 255 bytes of user name and 255 of password.
pub(super) const MESSAGE_MAX: usize = 3 + 255 + 255;
/// The longest header of a datagram: a name of 255 bytes.
pub(super) const HEADER_MAX: usize = 3 + 1 + 1 + 255 + 2;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum WireError {
    /// It may become one.
    #[error("the message is not complete")]
    Incomplete,
    #[error("this is not SOCKS version 5")]
    Version,
    #[error("the address is of an unknown kind")]
    AddressKind,
    #[error("{0}")]
    Target(TargetError),
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Command {
    Connect,
    /// Datagrams. BIND (2) is not offered.
    Associate,
    Unknown(u8),
}

/// A request: what, and where to. `port` 0 and a host that is an unspecified address have a meaning for `Associate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct Request {
    pub(in crate::proxy) command: Command,
    pub(in crate::proxy) host: Host,
    pub(in crate::proxy) port: u16,
}

/// The header of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct DatagramHeader {
    pub(in crate::proxy) target: Target,
    /// Where the payload starts.
    pub(in crate::proxy) length: usize,
}

/// A reader over what has arrived.
struct Cursor<'b> {
    rest: &'b [u8],
    taken: usize,
}

impl<'b> Cursor<'b> {
    const fn new(bytes: &'b [u8]) -> Self {
        Self {
            rest: bytes,
            taken: 0,
        }
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(WireError::Incomplete)?;
        self.rest = rest;
        self.taken += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| WireError::Incomplete)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Bytes behind their own count.
    fn counted(&mut self) -> Result<&'b [u8], WireError> {
        let count = self.byte()?;
        self.take(count.into())
    }

    fn version(&mut self, expected: u8) -> Result<(), WireError> {
        if self.byte()? == expected {
            Ok(())
        } else {
            Err(WireError::Version)
        }
    }

    fn address(&mut self) -> Result<(Host, u16), WireError> {
        let host = match self.byte()? {
            IPV4 => Host::Ip(Ipv4Addr::from(self.array::<4>()?).into()),
            IPV6 => Host::Ip(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)).to_canonical()),
            NAME => {
                let name = self.counted()?;
                let port = u16::from_be_bytes(self.array()?);
                let name = std::str::from_utf8(name).map_err(|_| WireError::Target(TargetError::BadHost))?;
                return Ok((Host::parse(name).map_err(WireError::Target)?, port));
            }
            _ => return Err(WireError::AddressKind),
        };
        Ok((host, u16::from_be_bytes(self.array()?)))
    }
}

/// Reads the greeting: whether the client can show a credential, and the greeting's length.
pub(in crate::proxy) fn greeting(bytes: &[u8]) -> Result<(bool, usize), WireError> {
    let mut cursor = Cursor::new(bytes);
    cursor.version(VERSION)?;
    let methods = cursor.counted()?;
    Ok((methods.contains(&METHOD_PASSWORD), cursor.taken))
}

/// The answer to a greeting.
pub(super) const fn method(can_show_credential: bool) -> [u8; 2] {
    let method = if can_show_credential {
        METHOD_PASSWORD
    } else {
        METHOD_NONE
    };
    [VERSION, method]
}

/// Reads user name and password, as `user:password` for a comparison; `None` where they are no text, and so are wrong.
pub(in crate::proxy) fn credential(bytes: &[u8]) -> Result<(Option<SecretString>, usize), WireError> {
    let mut cursor = Cursor::new(bytes);
    cursor.version(CREDENTIAL_VERSION)?;
    let (user, password) = (cursor.counted()?, cursor.counted()?);
    let texts = std::str::from_utf8(user)
        .ok()
        .zip(std::str::from_utf8(password).ok());
    let pair = texts.map(|(user, password)| SecretString::from(format!("{user}:{password}")));
    Ok((pair, cursor.taken))
}

/// The answer to a credential.
pub(super) const fn credential_answer(right: bool) -> [u8; 2] {
    [CREDENTIAL_VERSION, !right as u8]
}

/// Reads a request and its length.
pub(in crate::proxy) fn request(bytes: &[u8]) -> Result<(Request, usize), WireError> {
    let mut cursor = Cursor::new(bytes);
    cursor.version(VERSION)?;
    let command = match cursor.byte()? {
        1 => Command::Connect,
        3 => Command::Associate,
        other => Command::Unknown(other),
    };
    let _reserved = cursor.byte()?;
    let (host, port) = cursor.address()?;
    Ok((Request { command, host, port }, cursor.taken))
}

/// Reads the header of a client's datagram; `None` for one that is not carried: a fragment, no header, no valid target.
pub(in crate::proxy) fn datagram(bytes: &[u8]) -> Option<DatagramHeader> {
    let mut cursor = Cursor::new(bytes);
    let [_, _, fragment] = cursor.array().ok()?;
    if fragment != 0 {
        // RFC 1928 §7: an implementation that does not reassemble must drop fragments.
        return None;
    }
    let (host, port) = cursor.address().ok()?;
    let target = Target { host, port };
    (port != 0).then_some(DatagramHeader {
        target,
        length: cursor.taken,
    })
}

/// Appends the header of a datagram to a client.
pub(super) fn write_datagram_header(buffer: &mut Vec<u8>, source: SocketAddr) {
    buffer.extend_from_slice(&[0, 0, 0]);
    write_address(buffer, source);
}

/// A reply to a request: `code` 0 for success, with the address that the client is to use.
pub(in crate::proxy) fn reply(code: u8, bound: SocketAddr) -> Vec<u8> {
    let mut reply = vec![VERSION, code, 0];
    write_address(&mut reply, bound);
    reply
}

/// The code of a reply that says why not (RFC 1928 §6).
pub(in crate::proxy) const fn reply_code(refusal: Refusal) -> u8 {
    const FAILURE: u8 = 1;
    const NOT_ALLOWED: u8 = 2;
    const NETWORK_UNREACHABLE: u8 = 3;
    const HOST_UNREACHABLE: u8 = 4;
    const REFUSED: u8 = 5;
    const TIMED_OUT: u8 = 6;
    const COMMAND: u8 = 7;
    const ADDRESS_KIND: u8 = 8;
    match refusal {
        Refusal::PortNotInPolicy(_) | Refusal::AddressRefused(_) | Refusal::NoDatagramsThroughProxy => {
            NOT_ALLOWED
        }
        Refusal::TunnelDown(_) => NETWORK_UNREACHABLE,
        Refusal::NameNotResolved => HOST_UNREACHABLE,
        Refusal::DialFailed | Refusal::UpstreamProxyRefused(_) => REFUSED,
        Refusal::DialTimedOut => TIMED_OUT,
        Refusal::UnknownCommand => COMMAND,
        Refusal::BadTarget(_) => ADDRESS_KIND,
        Refusal::BadRequest(_)
        | Refusal::Foreign(_)
        | Refusal::Unauthenticated
        | Refusal::HeadTimeout
        | Refusal::HeadTooLarge
        | Refusal::TooManyConnections
        | Refusal::TunnelFull
        | Refusal::BadAnswer(_) => FAILURE,
    }
}

fn write_address(buffer: &mut Vec<u8>, address: SocketAddr) {
    match address.ip().to_canonical() {
        IpAddr::V4(address) => {
            buffer.push(IPV4);
            buffer.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            buffer.push(IPV6);
            buffer.extend_from_slice(&address.octets());
        }
    }
    buffer.extend_from_slice(&address.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_greeting_is_whole_or_waits() {
        assert_eq!(greeting(&[5, 2, 0, 2, 9]), Ok((true, 4)));
        assert_eq!(greeting(&[5, 1, 0]), Ok((false, 3)));
        assert_eq!(greeting(&[5, 0]), Ok((false, 2)));
        assert_eq!(greeting(&[5, 2, 0]), Err(WireError::Incomplete));
        assert_eq!(greeting(&[]), Err(WireError::Incomplete));
        assert_eq!(greeting(&[4, 1, 0]), Err(WireError::Version));
    }

    #[test]
    fn a_credential_is_read_as_a_pair() {
        let (pair, length) = credential(b"\x01\x04orfe\x03abcrest").expect("whole");
        assert_eq!(pair.expect("text").expose_secret(), "orfe:abc");
        assert_eq!(length, 10);
        assert!(credential(b"\x01\x01\xff\x01a").expect("whole").0.is_none());
        assert_eq!(
            credential(b"\x01\x04orfe\x03ab").err(),
            Some(WireError::Incomplete)
        );
        assert_eq!(credential(b"\x05\x00\x00").err(), Some(WireError::Version));
        let longest = [&[1, 255][..], &[b'u'; 255], &[255], &[b'p'; 255]].concat();
        assert_eq!(credential(&longest).expect("whole").1, MESSAGE_MAX);
    }

    #[test]
    fn a_request_names_a_host_of_each_kind() {
        for (bytes, command, host, port) in [
            (
                &b"\x05\x01\x00\x01\x0a\x00\x00\x01\x01\xbb"[..],
                Command::Connect,
                "10.0.0.1",
                443,
            ),
            (
                b"\x05\x01\x00\x03\x05CODER\x00\x50",
                Command::Connect,
                "coder",
                80,
            ),
            (
                b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
                Command::Associate,
                "0.0.0.0",
                0,
            ),
            (b"\x05\x02\x00\x03\x01a\x00\x01", Command::Unknown(2), "a", 1),
            (
                b"\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x50",
                Command::Connect,
                "127.0.0.1",
                80,
            ),
        ] {
            let (got, length) = request(bytes).expect(host);
            let want = Request {
                command,
                host: Host::parse(host).expect(host),
                port,
            };
            assert_eq!((got, length), (want, bytes.len()));
            for cut in 0..bytes.len() {
                assert_eq!(request(&bytes[..cut]), Err(WireError::Incomplete), "{host} {cut}");
            }
        }
        assert_eq!(
            request(b"\x05\x01\x00\x02abcd\x00\x50"),
            Err(WireError::AddressKind)
        );
        assert!(matches!(
            request(b"\x05\x01\x00\x03\x03a b\x00\x50"),
            Err(WireError::Target(_))
        ));
        assert!(matches!(
            request(b"\x05\x01\x00\x03\x05127.1\x00\x50"),
            Err(WireError::Target(_))
        ));
    }

    #[test]
    fn a_fragment_is_no_datagram_and_neither_is_port_0() {
        let whole = b"\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x35query";
        let header = datagram(whole).expect("header");
        assert_eq!(header.target.to_string(), "10.0.0.1:53");
        assert_eq!(&whole[header.length..], b"query");
        assert!(datagram(b"\x00\x00\x01\x01\x0a\x00\x00\x01\x00\x35query").is_none());
        assert!(datagram(b"\x00\x00\x80\x01\x0a\x00\x00\x01\x00\x35query").is_none());
        assert!(datagram(b"\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x00query").is_none());
        assert!(datagram(b"\x00\x00\x00\x01\x0a\x00").is_none());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_a_message_is_no_longer_than_it_may_be(bytes: Vec<u8>) {
            for taken in [
                greeting(&bytes).map(|(_, taken)| taken),
                credential(&bytes).map(|(_, taken)| taken),
                request(&bytes).map(|(_, taken)| taken),
            ].into_iter().flatten() {
                prop_assert!(taken <= bytes.len() && taken <= MESSAGE_MAX);
            }
            if let Some(header) = datagram(&bytes) {
                prop_assert!(header.length <= bytes.len() && header.length <= HEADER_MAX);
            }
        }

        #[test]
        fn a_header_reads_back(address: std::net::SocketAddr, payload: Vec<u8>) {
            prop_assume!(address.port() != 0);
            let mut bytes = Vec::new();
            write_datagram_header(&mut bytes, address);
            let length = bytes.len();
            bytes.extend_from_slice(&payload);
            let header = datagram(&bytes).expect("header");
            prop_assert_eq!(header.length, length);
            prop_assert_eq!(header.target, Target { host: Host::Ip(address.ip().to_canonical()), port: address.port() });
        }
    }
}
