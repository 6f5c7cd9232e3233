//! Which proxy a request goes through, by the rules of Go's `net/http`: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, upper
//! case before lower; `localhost` and loopback addresses never; `ALL_PROXY` is not looked at.

use std::net::IpAddr;

use data_encoding::BASE64;
use url::{Host, Url};

use super::Environment;

/// The proxy variables, read once.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    except: Vec<Exception>,
}

#[derive(Debug, PartialEq)]
enum Exception {
    Everything,
    Address(IpAddr, Option<u16>),
    Network {
        network: IpAddr,
        prefix: u32,
    },
    /// Matches the domain's subdomains, and itself unless it was written with a leading dot.
    Domain {
        suffix: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    pub(super) fn from_environment(environment: &Environment) -> Self {
        let variable = |name: &str| {
            let found = environment.get(name).filter(|value| !value.is_empty());
            found
                .or_else(|| environment.get(&name.to_lowercase()))
                .filter(|value| !value.is_empty())
        };
        // Inside a CGI program a request header could set HTTP_PROXY; Go ignores it there.
        let http = variable("HTTP_PROXY").filter(|_| !environment.contains_key("REQUEST_METHOD"));
        Self {
            http: http.and_then(|text| parse_proxy(text)),
            https: variable("HTTPS_PROXY").and_then(|text| parse_proxy(text)),
            except: variable("NO_PROXY")
                .map(|list| list.split(',').filter_map(parse_exception).collect())
                .unwrap_or_default(),
        }
    }

    /// The proxy for `url`, or none for a direct dial.
    pub(super) fn for_url(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        let port = url.port_or_known_default();
        let host = url.host()?;
        let excepted = is_local(&host) || self.except.iter().any(|exception| exception.matches(&host, port));
        (!excepted).then_some(proxy)
    }
}

fn is_local(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

fn parse_proxy(text: &str) -> Option<Url> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") => Some(url),
        _ => Url::parse(&format!("http://{text}")).ok(),
    }
}

fn parse_exception(entry: &str) -> Option<Exception> {
    let entry = entry.trim().to_lowercase();
    if entry.is_empty() {
        return None;
    }
    if entry == "*" {
        return Some(Exception::Everything);
    }
    if let Some((network, prefix)) = entry.split_once('/') {
        return Some(Exception::Network {
            network: network.parse().ok()?,
            prefix: prefix.parse().ok()?,
        });
    }
    if let Ok(address) = entry.parse() {
        return Some(Exception::Address(address, None));
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (entry.as_str(), None),
    };
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Some(Exception::Address(address, port));
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    Some(match name.strip_prefix('.') {
        Some(suffix) => Exception::Domain {
            suffix: suffix.to_owned(),
            itself: false,
            port,
        },
        None => Exception::Domain {
            suffix: name.to_owned(),
            itself: true,
            port,
        },
    })
}

impl Exception {
    fn matches(&self, host: &Host<&str>, port: Option<u16>) -> bool {
        let address = match host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(IpAddr::V4(*address)),
            Host::Ipv6(address) => Some(IpAddr::V6(*address)),
        };
        match self {
            Self::Everything => true,
            Self::Address(excepted, at) => address == Some(*excepted) && (at.is_none() || *at == port),
            Self::Network { network, prefix } => {
                address.is_some_and(|address| in_network(address, *network, *prefix))
            }
            Self::Domain {
                suffix,
                itself,
                port: at,
            } => {
                let Host::Domain(name) = host else { return false };
                let name = name.to_lowercase();
                let below = name
                    .strip_suffix(suffix.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                (below || (*itself && name == *suffix)) && (at.is_none() || *at == port)
            }
        }
    }
}

fn in_network(address: IpAddr, network: IpAddr, prefix: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if prefix <= 32 => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            (u32::from(address) ^ u32::from(network)) & mask == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if prefix <= 128 => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            (u128::from(address) ^ u128::from(network)) & mask == 0
        }
        _ => false,
    }
}

/// The header for a proxy whose address bears a credential.
pub(super) fn authorization(proxy: &Url) -> Option<String> {
    if proxy.username().is_empty() && proxy.password().is_none() {
        return None;
    }
    let credential = format!(
        "{}:{}",
        percent_decoded(proxy.username()),
        percent_decoded(proxy.password().unwrap_or_default())
    );
    Some(format!(
        "Proxy-Authorization: Basic {}",
        BASE64.encode(credential.as_bytes())
    ))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        let pair = text
            .get(position + 1..position + 3)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (bytes[position], pair) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                position += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                position += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_credential_is_decoded_first() {
        let proxy = Url::parse("http://orfe:p%40ss%2F@127.0.0.1:1").unwrap();
        let expected = format!("Proxy-Authorization: Basic {}", BASE64.encode(b"orfe:p@ss/"));
        assert_eq!(authorization(&proxy), Some(expected));
        assert_eq!(authorization(&Url::parse("http://127.0.0.1:1").unwrap()), None);
    }

    fn chosen(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let environment = variables
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let proxies = Proxies::from_environment(&environment);
        proxies.for_url(&Url::parse(url).unwrap()).map(Url::to_string)
    }

    #[test]
    fn schemes_choose_their_own_variable() {
        let both = [
            ("HTTP_PROXY", "plain:1"),
            ("https_proxy", "http://user:pw@secure:2"),
        ];
        assert_eq!(chosen(&both, "http://a.test").as_deref(), Some("http://plain:1/"));
        assert_eq!(
            chosen(&both, "https://a.test").as_deref(),
            Some("http://user:pw@secure:2/")
        );
        assert_eq!(chosen(&[("ALL_PROXY", "x:1")], "http://a.test"), None);
    }

    #[test]
    fn loopback_never_goes_through_a_proxy() {
        for url in [
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://127.9.9.9",
            "http://[::1]:80",
        ] {
            assert_eq!(chosen(&[("HTTP_PROXY", "p:1")], url), None, "{url}");
        }
    }

    #[test]
    fn no_proxy_excepts() {
        let direct = |list: &str, url: &str| {
            chosen(
                &[("HTTP_PROXY", "p:1"), ("HTTPS_PROXY", "p:1"), ("NO_PROXY", list)],
                url,
            )
            .is_none()
        };
        assert!(direct("example.test", "http://example.test"));
        assert!(direct("example.test", "http://coder.example.test"));
        assert!(!direct("example.test", "http://notexample.test"));
        assert!(direct(".example.test", "http://coder.example.test"));
        assert!(!direct(".example.test", "http://example.test"));
        assert!(direct("10.0.0.0/8", "http://10.1.2.3") && !direct("10.0.0.0/8", "http://11.1.2.3"));
        assert!(direct("a.test:443", "https://a.test") && !direct("a.test:443", "http://a.test"));
        assert!(direct("*", "http://anything.test") && direct("10.0.0.9", "http://10.0.0.9:80"));
    }
}
