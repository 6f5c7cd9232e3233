//! Why the proxy itself says no, and the answer that says so.
//!
//! No answer of the proxy has status 403: `coder provisionerd` takes a 403 from whoever stands in between as "not
//! entitled", stays alive and never dials again. Every other status is an ordinary failed dial to it, tried again.
//!
//! The reason stands in the status line too: Go's HTTP client shows the reason phrase of a refused `CONNECT` and nothing
//! else of the answer.

use std::fmt::Write as _;
use std::time::Duration;

use super::target::TargetError;

/// The header that carries [`Refusal::code`], so that a program can tell the proxy's own answers from an upstream's.
pub(super) const CODE_HEADER: &str = "Orfe-Proxy-Error";

/// A request that the proxy answers by itself. The texts hold nothing of what the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request is not one for a proxy, or is not strict HTTP/1.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The request is one that a web page made a browser send here. It gets no answer.
    #[error("{0}")]
    Foreign(&'static str),
    /// A SOCKS command other than CONNECT and UDP ASSOCIATE.
    #[error("the command is neither CONNECT nor UDP ASSOCIATE")]
    UnknownCommand,
    /// The target of the request is not a host and a port.
    #[error("{0}")]
    BadTarget(TargetError),
    /// The credential is missing or wrong.
    #[error("the proxy credential is missing or wrong")]
    Unauthenticated,
    /// The head of the request did not come in time.
    #[error("the request head did not arrive in time")]
    HeadTimeout,
    /// The head of the request, or the number of its headers, is over the limit.
    #[error("the request head is too large")]
    HeadTooLarge,
    /// Every connection slot is taken.
    #[error("the proxy has too many connections")]
    TooManyConnections,
    /// Policy names this host, but not with this port.
    #[error("policy does not name port {0} of this host")]
    PortNotInPolicy(u16),
    /// The destination is an address that the proxy never dials directly.
    #[error("the destination is {0}")]
    AddressRefused(&'static str),
    /// The owner's HTTP proxy is the way there, and it carries no datagrams.
    #[error("the way there is the owner's HTTP proxy, which carries no datagrams")]
    NoDatagramsThroughProxy,
    /// The name has no address.
    #[error("the name does not resolve")]
    NameNotResolved,
    /// The destination refused the connection or is unreachable.
    #[error("the destination refused the connection or is unreachable")]
    DialFailed,
    /// The destination did not answer in time.
    #[error("the destination did not answer in time")]
    DialTimedOut,
    /// The tunnel did not come up while the request was held.
    #[error("the tunnel is down (waited {} s)", .0.as_secs())]
    TunnelDown(Duration),
    /// The tunnel carries as many connections as it can.
    #[error("the tunnel has too many connections")]
    TunnelFull,
    /// The owner's proxy refused `CONNECT` with this status.
    #[error("the upstream proxy answered {}{}", .0, meaning(*.0))]
    UpstreamProxyRefused(u16),
    /// The owner's proxy or the destination did not speak HTTP.
    #[error("{0} gave no valid HTTP answer")]
    BadAnswer(&'static str),
}

/// What the owner of the machine can do about an answer of the proxy.
const fn meaning(status: u16) -> &'static str {
    match status {
        407 => {
            ": it wants a user name and a password, or others than those in `http_proxy.url` or HTTPS_PROXY"
        }
        _ => "",
    }
}

impl Refusal {
    /// The HTTP status: 400, 407, 408, 431, 502, 503 or 504, never 403.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest(_) | Self::Foreign(_) | Self::UnknownCommand | Self::BadTarget(_) => 400,
            Self::Unauthenticated => 407,
            Self::HeadTimeout => 408,
            Self::HeadTooLarge => 431,
            Self::TooManyConnections | Self::TunnelFull => 503,
            Self::DialTimedOut | Self::TunnelDown(_) => 504,
            Self::PortNotInPolicy(_)
            | Self::AddressRefused(_)
            | Self::NoDatagramsThroughProxy
            | Self::NameNotResolved
            | Self::DialFailed
            | Self::UpstreamProxyRefused(_)
            | Self::BadAnswer(_) => 502,
        }
    }

    /// A stable word for programs and logs.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad-request",
            Self::Foreign(_) => "foreign-request",
            Self::UnknownCommand => "unknown-command",
            Self::BadTarget(_) => "bad-target",
            Self::Unauthenticated => "credential",
            Self::HeadTimeout => "head-timeout",
            Self::HeadTooLarge => "head-too-large",
            Self::TooManyConnections => "too-many-connections",
            Self::PortNotInPolicy(_) => "port-not-in-policy",
            Self::AddressRefused(_) => "address-refused",
            Self::NoDatagramsThroughProxy => "no-datagrams-through-proxy",
            Self::NameNotResolved => "name-not-resolved",
            Self::DialFailed => "dial-failed",
            Self::DialTimedOut => "dial-timed-out",
            Self::TunnelDown(_) => "tunnel-down",
            Self::TunnelFull => "tunnel-full",
            Self::UpstreamProxyRefused(_) => "upstream-proxy-refused",
            Self::BadAnswer(_) => "bad-answer",
        }
    }

    /// The whole HTTP answer, head and body; empty for what gets none.
    pub(crate) fn answer(self) -> Vec<u8> {
        if matches!(self, Self::Foreign(_)) {
            return Vec::new();
        }
        let reason = self.to_string();
        let mut text = format!("HTTP/1.1 {} Orfe proxy: {reason}\r\n", self.status());
        if self == Self::Unauthenticated {
            text.push_str("Proxy-Authenticate: Basic realm=\"orfe\", charset=\"UTF-8\"\r\n");
        }
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{CODE_HEADER}: {}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{reason}\n",
            self.code(),
            reason.len() + 1,
        );
        text.into_bytes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One of each kind. The match makes a new kind a compile error here, so that none escapes the tests below.
    pub(in crate::proxy) fn one_of_each() -> Vec<Refusal> {
        fn known(refusal: Refusal) -> Refusal {
            match refusal {
                Refusal::BadRequest(_)
                | Refusal::Foreign(_)
                | Refusal::UnknownCommand
                | Refusal::BadTarget(_)
                | Refusal::Unauthenticated
                | Refusal::HeadTimeout
                | Refusal::HeadTooLarge
                | Refusal::TooManyConnections
                | Refusal::PortNotInPolicy(_)
                | Refusal::AddressRefused(_)
                | Refusal::NoDatagramsThroughProxy
                | Refusal::NameNotResolved
                | Refusal::DialFailed
                | Refusal::DialTimedOut
                | Refusal::TunnelDown(_)
                | Refusal::TunnelFull
                | Refusal::UpstreamProxyRefused(_)
                | Refusal::BadAnswer(_) => refusal,
            }
        }
        [
            Refusal::BadRequest("this is a proxy"),
            Refusal::Foreign("a web page's request"),
            Refusal::UnknownCommand,
            Refusal::BadTarget(TargetError::NoPort),
            Refusal::Unauthenticated,
            Refusal::HeadTimeout,
            Refusal::HeadTooLarge,
            Refusal::TooManyConnections,
            Refusal::PortNotInPolicy(22),
            Refusal::AddressRefused("a loopback address"),
            Refusal::NoDatagramsThroughProxy,
            Refusal::NameNotResolved,
            Refusal::DialFailed,
            Refusal::DialTimedOut,
            Refusal::TunnelDown(Duration::from_secs(20)),
            Refusal::TunnelFull,
            Refusal::UpstreamProxyRefused(403),
            Refusal::BadAnswer("the upstream proxy"),
        ]
        .map(known)
        .to_vec()
    }

    #[test]
    fn no_refusal_is_a_403() {
        for refusal in one_of_each() {
            assert!(
                matches!(refusal.status(), 400 | 407 | 408 | 431 | 502..=504),
                "{refusal:?}"
            );
            let answer = String::from_utf8(refusal.answer()).expect("text");
            assert!(!answer.starts_with("HTTP/1.1 403"), "{answer}");
        }
    }

    #[test]
    fn an_answer_is_one_valid_http_message_that_closes() {
        let answered = one_of_each();
        for refusal in answered
            .into_iter()
            .filter(|refusal| !matches!(refusal, Refusal::Foreign(_)))
        {
            let answer = refusal.answer();
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(head) = response.parse(&answer).expect("valid") else {
                panic!("partial: {refusal:?}")
            };
            let header = |name: &str| {
                let found = response.headers.iter().find(|header| header.name == name);
                found.map(|header| String::from_utf8(header.value.to_vec()).expect("text"))
            };
            assert_eq!(response.code, Some(refusal.status()));
            assert_eq!(header(CODE_HEADER).as_deref(), Some(refusal.code()));
            assert_eq!(header("Connection").as_deref(), Some("close"));
            assert_eq!(header("Content-Length"), Some((answer.len() - head).to_string()));
            assert_eq!(header("Proxy-Authenticate").is_some(), refusal.status() == 407);
            let body = std::str::from_utf8(&answer[head..]).expect("text");
            assert_eq!(body.lines().count(), 1, "one line: {body:?}");
        }
    }

    #[test]
    fn a_foreign_request_gets_not_one_byte() {
        assert_eq!(Refusal::Foreign("a web page's request").answer(), b"");
    }

    #[test]
    fn codes_are_distinct() {
        let codes: std::collections::BTreeSet<_> = one_of_each().into_iter().map(Refusal::code).collect();
        assert_eq!(codes.len(), one_of_each().len());
    }
}
