//! Where a request wants to go: a host and a port, parsed strictly.
//!
//! A host is either an IP literal or a DNS name in lower case without its trailing dot, so that two spellings of one
//! name can never take two routes. What an address parser of some operating system would read as an address
//! (`127.1`, `0x7f.1`, `2130706433`) is refused outright: it would be a name for the policy and an address for the
//! resolver.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A DNS name or an IP literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// Lower case, no trailing dot, 1 to 253 bytes of letters, digits, `-`, `_` and dots.
    Name(String),
    /// An IP literal; an IPv4-mapped IPv6 address is held as the IPv4 address that it means.
    Ip(IpAddr),
}

/// A host and a port (1 to 65535). Its `Display` is `host:port`, with brackets around an IPv6 address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Where to.
    pub host: Host,
    /// Which port; never 0.
    pub port: u16,
}

/// Why a host or an authority was not accepted. The text is fit for a one-line answer: it repeats nothing of what
/// was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No host at all.
    #[error("the target names no host")]
    NoHost,
    /// `user:password@` in front of the host.
    #[error("the target carries a user name")]
    UserInfo,
    /// Not a DNS name and not an address.
    #[error("the host is neither a DNS name nor an IP address")]
    BadHost,
    /// Brackets that hold no IPv6 address.
    #[error("the brackets hold no IPv6 address")]
    BadIpv6,
    /// A name that ends in a number but is no dotted IPv4 address.
    #[error("the host is an address in an ambiguous spelling")]
    AmbiguousAddress,
    /// Not a decimal number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
    /// A port has to be given here.
    #[error("the target names no port")]
    NoPort,
}

impl Host {
    /// Parses a host as it stands in a URL: a name, an IPv4 address, or an IPv6 address in brackets.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.is_empty() {
            return Err(TargetError::NoHost);
        }
        if text.contains('@') {
            return Err(TargetError::UserInfo);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let inside = rest.strip_suffix(']').ok_or(TargetError::BadIpv6)?;
            let address: Ipv6Addr = inside.parse().map_err(|_| TargetError::BadIpv6)?;
            return Ok(Self::Ip(IpAddr::V6(address).to_canonical()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(IpAddr::V4(address)));
        }
        Self::parse_name(text)
    }

    fn parse_name(text: &str) -> Result<Self, TargetError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > 253 {
            return Err(TargetError::BadHost);
        }
        let valid = name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
        if !valid {
            return Err(TargetError::BadHost);
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(TargetError::AmbiguousAddress);
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

/// Whether a system's address parser could take the label as a number: all digits, or hexadecimal with `0x`.
fn is_number(label: &str) -> bool {
    let bytes = label.as_bytes();
    bytes.iter().all(u8::is_ascii_digit)
        || (bytes.len() >= 2
            && bytes[0] == b'0'
            && bytes[1].eq_ignore_ascii_case(&b'x')
            && bytes[2..].iter().all(u8::is_ascii_hexdigit))
}

impl Target {
    /// Parses `host[:port]`. Without a port `default_port` is taken; `None` makes the port mandatory.
    pub fn parse(authority: &str, default_port: Option<u16>) -> Result<Self, TargetError> {
        let (host, port) = split_port(authority)?;
        let host = Host::parse(host)?;
        let port = match port {
            Some(port) => parse_port(port)?,
            None => default_port.ok_or(TargetError::NoPort)?,
        };
        Ok(Self { host, port })
    }
}

/// Splits the port off an authority; a colon inside brackets belongs to the address.
pub(super) fn split_port(authority: &str) -> Result<(&str, Option<&str>), TargetError> {
    if authority.contains('@') {
        return Err(TargetError::UserInfo);
    }
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or(TargetError::BadIpv6)?;
        let (host, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(TargetError::BadIpv6),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(TargetError::BadHost),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

/// A port in plain decimal digits: no sign, no space, not 0.
pub(super) fn parse_port(text: &str) -> Result<u16, TargetError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TargetError::BadPort);
    }
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(TargetError::BadPort),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_target_are_one_target() {
        for (text, default, want) in [
            ("coder.demo.internal:443", None, "coder.demo.internal:443"),
            ("CODER.Demo.Internal.:443", None, "coder.demo.internal:443"),
            ("coder.demo.internal", Some(80), "coder.demo.internal:80"),
            ("coder.demo.internal:8080", Some(80), "coder.demo.internal:8080"),
            ("10.1.2.3:1", None, "10.1.2.3:1"),
            ("[2001:DB8::1]:443", None, "[2001:db8::1]:443"),
            ("[::1]", Some(80), "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", None, "127.0.0.1:80"),
            ("under_score.example:00443", None, "under_score.example:443"),
        ] {
            assert_eq!(
                Target::parse(text, default).expect(text).to_string(),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_a_target_is_refused_with_its_reason() {
        use TargetError as E;
        let long_label = format!("{}.example:1", "a".repeat(64));
        let long_name = format!("{}example:1", "a.".repeat(124));
        for (text, want) in [
            ("", E::NoHost),
            (":443", E::NoHost),
            ("coder", E::NoPort),
            ("coder:", E::BadPort),
            ("coder:0", E::BadPort),
            ("coder:+1", E::BadPort),
            ("coder: 1", E::BadPort),
            ("coder:65536", E::BadPort),
            ("coder:443x", E::BadPort),
            ("user@coder:443", E::UserInfo),
            ("user:secret@coder:443", E::UserInfo),
            ("::1:443", E::BadHost),
            ("[::1:443", E::BadIpv6),
            ("[::1]443", E::BadIpv6),
            ("[fe80::1%eth0]:443", E::BadIpv6),
            ("[coder]:443", E::BadIpv6),
            (".:443", E::BadHost),
            ("a..b:443", E::BadHost),
            ("coder..:443", E::BadHost),
            ("co der:443", E::BadHost),
            ("co/der:443", E::BadHost),
            ("müller.example:443", E::BadHost),
            ("127.1:80", E::AmbiguousAddress),
            ("2130706433:80", E::AmbiguousAddress),
            ("0x7f.1:80", E::AmbiguousAddress),
            ("0x7f000001:80", E::AmbiguousAddress),
            ("127.0.0.1.:80", E::AmbiguousAddress),
            ("0177.0.0.1:80", E::AmbiguousAddress),
            (long_label.as_str(), E::BadHost),
            (long_name.as_str(), E::BadHost),
        ] {
            assert_eq!(Target::parse(text, None), Err(want), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_what_it_accepts_reads_back_as_itself(text in "\\PC{0,40}", port in any::<u16>()) {
            for authority in [text.clone(), format!("{text}:{port}")] {
                if let Ok(target) = Target::parse(&authority, Some(80)) {
                    prop_assert_eq!(Target::parse(&target.to_string(), None), Ok(target));
                }
            }
        }

        #[test]
        fn names_are_compared_without_case(name in "[a-zA-Z][a-zA-Z0-9-]{0,20}(\\.[a-zA-Z]{1,9}){0,3}") {
            let upper = Host::parse(&name.to_ascii_uppercase());
            prop_assert_eq!(upper, Host::parse(&name.to_ascii_lowercase()));
        }
    }
}
