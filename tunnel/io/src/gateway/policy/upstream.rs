//! Where the gateway connects for a peer.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Where the gateway connects for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// An explicit address; any, this host's own included.
    Address(SocketAddr),
    /// A name for the gateway's resolver. What it resolves to must not be this host or its link: a name is under the
    /// control of whoever serves it, and must not open the way to the gateway's own services.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// The text is no upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an upstream such as coder.internal:443, 10.0.0.5:443 or [fd00::5]:443")]
pub struct ParseUpstreamError {
    text: String,
}

impl FromStr for Upstream {
    type Err = ParseUpstreamError;

    /// `ADDRESS:PORT`, `[IPV6]:PORT` or `HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, ParseUpstreamError> {
        let error = || ParseUpstreamError {
            text: text.to_owned(),
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(error())
            } else {
                Ok(Self::Address(address))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        if host.is_empty() || host.len() > 253 || !host.chars().all(is_name) {
            return Err(error());
        }
        Ok(Self::Name {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_as_text() {
        for text in ["127.0.0.1:36123", "[::1]:443", "coder.internal:443", "a_b-c:1"] {
            assert_eq!(text.parse::<Upstream>().unwrap().to_string(), text);
        }
        assert!(matches!("10.0.0.5:80".parse(), Ok(Upstream::Address(_))));
        for text in [
            "",
            "coder",
            "coder:",
            ":443",
            "coder:0",
            "10.0.0.1:0",
            "coder:65536",
            "::1:80",
            "a b:1",
            "http://a:1",
        ] {
            assert!(text.parse::<Upstream>().is_err(), "{text}");
        }
    }
}
