//! The machine owner's own HTTP proxy: its URL, its exceptions, and the `CONNECT` through it.
//!
//! The exceptions follow the rules of Go's `NO_PROXY`, because the child would apply the same list by them if it spoke
//! to the owner's proxy itself: `*`, `example.com` (it and its subdomains), `.example.com` (subdomains only), addresses,
//! networks in CIDR notation, each but `*` and networks with an optional port.

use std::fmt::Write as _;
use std::net::IpAddr;

use data_encoding::BASE64;
use orfe_tunnel_core::AllowedIp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::receive::{HeadError, buffered, read_head};
use super::refusal::Refusal;
use super::target::{Host, Target, TargetError, split_port};

/// An HTTP proxy that stands between this machine and the rest.
#[derive(Debug, Clone)]
pub struct UpstreamProxy {
    address: Target,
    /// The whole value of `Proxy-Authorization`.
    authorization: Option<SecretString>,
    exceptions: Vec<Exception>,
}

/// Why a proxy URL was not accepted. The text never repeats the URL, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamProxyError {
    /// Only `http://` proxies are spoken to.
    #[error("the upstream proxy's URL does not start with http://")]
    Scheme,
    /// The host or the port is not valid.
    #[error("the upstream proxy's URL names no valid host and port")]
    Address(#[source] TargetError),
    /// A percent escape that is none, or that gives a control character.
    #[error("the user name or password in the upstream proxy's URL is not validly escaped")]
    Credential,
    /// Something follows the host and port.
    #[error("the upstream proxy's URL has a path")]
    Path,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    /// `subdomains_only` for an entry with a leading dot.
    Domain {
        name: String,
        subdomains_only: bool,
        port: Option<u16>,
    },
    Address {
        address: IpAddr,
        port: Option<u16>,
    },
    Network(AllowedIp),
}

impl UpstreamProxy {
    /// Parses `http://[user[:password]@]host[:port][/]`, port 80 unless given, and a `NO_PROXY` list. An entry of the
    /// list that means nothing is left out, as Go does.
    pub fn parse(url: &SecretString, no_proxy: &str) -> Result<Self, UpstreamProxyError> {
        let url = url.expose_secret();
        let scheme = url.get(..7).ok_or(UpstreamProxyError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("http://") {
            return Err(UpstreamProxyError::Scheme);
        }
        let rest = &url[7..];
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(UpstreamProxyError::Path);
        }
        let (user_info, authority) = match rest.rsplit_once('@') {
            Some((user_info, authority)) => (Some(user_info), authority),
            None => (None, rest),
        };
        let address = Target::parse(authority, Some(80)).map_err(UpstreamProxyError::Address)?;
        let authorization = user_info.map(basic_authorization).transpose()?;
        let exceptions = no_proxy
            .split(',')
            .filter_map(|entry| Exception::parse(entry.trim()))
            .collect();
        Ok(Self {
            address,
            authorization,
            exceptions,
        })
    }

    /// Where the proxy listens.
    pub fn address(&self) -> &Target {
        &self.address
    }

    /// Whether its URL held a user name or a password.
    pub fn has_credential(&self) -> bool {
        self.authorization.is_some()
    }

    pub(super) fn authorization(&self) -> Option<&SecretString> {
        self.authorization.as_ref()
    }

    /// Whether the target is reached through this proxy: it is not among the exceptions.
    pub(crate) fn applies_to(&self, target: &Target) -> bool {
        !self.exceptions.iter().any(|exception| exception.matches(target))
    }

    /// Asks the proxy at the other end of `stream` for a connection to `target`.
    ///
    /// The stream comes back inside its reader, which may hold the first bytes of the destination.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        target: &Target,
    ) -> Result<BufReader<TcpStream>, Refusal> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(value) = &self.authorization {
            // Writing to a String cannot fail.
            let _ = write!(request, "Proxy-Authorization: {}\r\n", value.expose_secret());
        }
        request.push_str("\r\n");
        let mut stream = buffered(stream);
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|_| Refusal::DialFailed)?;
        let head = read_head(&mut stream).await.map_err(|error| match error {
            HeadError::Closed | HeadError::Io(_) => Refusal::DialFailed,
            HeadError::TooLarge | HeadError::Invalid(_) => Refusal::BadAnswer("the upstream proxy"),
        })?;
        match status_of(&head) {
            Some(200..=299) => Ok(stream),
            // The status is passed on in words, not as it is: a 403 must not reach the child.
            Some(status) => Err(Refusal::UpstreamProxyRefused(status)),
            None => Err(Refusal::BadAnswer("the upstream proxy")),
        }
    }
}

/// The status in a complete response head.
pub(super) fn status_of(head: &[u8]) -> Option<u16> {
    let mut headers = [httparse::EMPTY_HEADER; super::head::MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => response.code,
        Ok(httparse::Status::Partial) | Err(_) => None,
    }
}

fn basic_authorization(user_info: &str) -> Result<SecretString, UpstreamProxyError> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let mut plain = percent_decoded(user)?;
    if plain.contains(&b':') {
        // RFC 7617 §2: a user name with a colon cannot be told from its password.
        return Err(UpstreamProxyError::Credential);
    }
    plain.push(b':');
    plain.extend(percent_decoded(password)?);
    Ok(SecretString::from(format!("Basic {}", BASE64.encode(&plain))))
}

fn percent_decoded(text: &str) -> Result<Vec<u8>, UpstreamProxyError> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let digits = bytes
                .next()
                .and_then(hex_digit)
                .zip(bytes.next().and_then(hex_digit));
            let (high, low) = digits.ok_or(UpstreamProxyError::Credential)?;
            (high << 4) | low
        } else {
            byte
        };
        if byte.is_ascii_control() {
            return Err(UpstreamProxyError::Credential);
        }
        decoded.push(byte);
    }
    Ok(decoded)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::All);
        }
        if entry.contains('/') {
            return entry.parse().ok().map(Self::Network);
        }
        // A bare IPv6 address has no brackets in this list, so that its colons are no port's.
        if let Ok(address) = entry.parse::<IpAddr>() {
            return Some(Self::Address {
                address: address.to_canonical(),
                port: None,
            });
        }
        let (host, port) = split_port(entry).ok()?;
        let port = port.map(super::target::parse_port).transpose().ok()?;
        let subdomains_only = host.starts_with('.');
        // `*.example.com` is a common way to write `.example.com`.
        let (host, subdomains_only) = match host.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (host.strip_prefix('.').unwrap_or(host), subdomains_only),
        };
        match Host::parse(host).ok()? {
            Host::Name(name) => Some(Self::Domain {
                name,
                subdomains_only,
                port,
            }),
            Host::Ip(address) => Some(Self::Address { address, port }),
        }
    }

    fn matches(&self, target: &Target) -> bool {
        let same_port = |port: &Option<u16>| port.is_none_or(|port| port == target.port);
        match (self, &target.host) {
            (Self::All, _) => true,
            (
                Self::Domain {
                    name,
                    subdomains_only,
                    port,
                },
                Host::Name(host),
            ) => {
                let subdomain = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|front| front.ends_with('.'));
                same_port(port) && (subdomain || (!subdomains_only && host == name))
            }
            (Self::Address { address, port }, Host::Ip(host)) => same_port(port) && address == host,
            (Self::Network(network), Host::Ip(host)) => network.contains(*host),
            (Self::Domain { .. }, Host::Ip(_)) | (Self::Address { .. } | Self::Network(_), Host::Name(_)) => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str, no_proxy: &str) -> Result<UpstreamProxy, UpstreamProxyError> {
        UpstreamProxy::parse(&SecretString::from(url), no_proxy)
    }

    #[test]
    fn a_url_is_read_with_its_credential() {
        for (url, address, credential) in [
            ("http://proxy.lan", "proxy.lan:80", None),
            ("HTTP://Proxy.LAN:3128/", "proxy.lan:3128", None),
            ("http://[fd00::1]:8080", "[fd00::1]:8080", None),
            ("http://user@proxy.lan", "proxy.lan:80", Some("Basic dXNlcjo=")),
            (
                "http://user:p%40ss%3A@127.0.0.1:1",
                "127.0.0.1:1",
                Some("Basic dXNlcjpwQHNzOg=="),
            ),
            (
                "http://user:p@ss:@127.0.0.1:1",
                "127.0.0.1:1",
                Some("Basic dXNlcjpwQHNzOg=="),
            ),
        ] {
            let proxy = proxy(url, "").expect(url);
            assert_eq!(proxy.address().to_string(), address);
            assert_eq!(
                proxy.authorization().map(secrecy::ExposeSecret::expose_secret),
                credential
            );
        }
    }

    #[test]
    fn a_bad_url_is_refused_and_not_repeated() {
        use UpstreamProxyError as E;
        for (url, want) in [
            ("", E::Scheme),
            ("proxy.lan:3128", E::Scheme),
            ("https://proxy.lan", E::Scheme),
            ("socks5://proxy.lan", E::Scheme),
            ("ünïcöde://x", E::Scheme),
            ("http://", E::Address(TargetError::NoHost)),
            ("http://proxy.lan:0", E::Address(TargetError::BadPort)),
            ("http://proxy.lan/path", E::Path),
            ("http://proxy.lan?x", E::Path),
            ("http://user:%zz@proxy.lan", E::Credential),
            ("http://user:%0d%0aX@proxy.lan", E::Credential),
            ("http://us%3aer:secret@proxy.lan", E::Credential),
        ] {
            assert_eq!(proxy(url, "").err(), Some(want), "{url}");
        }
        let shown = format!("{:?}", proxy("http://user:secret@proxy.lan", "").expect("url"));
        assert!(!shown.contains("secret") && !shown.contains("dXNlcj"), "{shown}");
    }

    #[test]
    fn exceptions_follow_gos_rules() {
        let list = "example.com, .only.example.net ,*.star.test,10.0.0.0/8,192.0.2.1,[2001:db8::1]:443,2001:db8::2,\
                    port.example:8080,fd00::/8,not a name,300.0.0.0/8,1.2.3.4/33,,:80";
        let proxy = proxy("http://proxy.lan", list).expect("url");
        for (target, direct) in [
            ("example.com:443", true),
            ("www.example.com:443", true),
            ("notexample.com:443", false),
            ("only.example.net:443", false),
            ("a.only.example.net:443", true),
            ("star.test:1", false),
            ("a.b.star.test:1", true),
            ("10.200.0.1:22", true),
            ("11.0.0.1:22", false),
            ("192.0.2.1:1", true),
            ("192.0.2.2:1", false),
            ("[2001:db8::1]:443", true),
            ("[2001:db8::1]:80", false),
            ("[2001:db8::2]:80", true),
            ("port.example:8080", true),
            ("port.example:80", false),
            ("[fd12::1]:80", true),
        ] {
            let target = Target::parse(target, None).expect(target);
            assert_eq!(proxy.applies_to(&target), !direct, "{target}");
        }
    }

    #[test]
    fn a_star_excepts_everything_and_an_empty_list_nothing() {
        let target = Target::parse("example.com:443", None).expect("target");
        assert!(!proxy("http://proxy.lan", "a,*").expect("url").applies_to(&target));
        assert!(proxy("http://proxy.lan", "").expect("url").applies_to(&target));
        let v4 = Target::parse("203.0.113.9:443", None).expect("target");
        assert!(
            !proxy("http://proxy.lan", "0.0.0.0/0")
                .expect("url")
                .applies_to(&v4)
        );
    }
}
