//! The head of a request: read strictly, and written again for the next hop.
//!
//! Two forms are taken: `CONNECT host:port` and absolute-form (`GET http://host/path`). The origin-form (`GET /path`),
//! which a browser would send that a web page or a rebound DNS name has sent here, is no request for a proxy. Whatever
//! two parsers could read in two ways is refused: bare LF or CR, folded lines, two lengths, a `Host` that names another
//! host than the target.
//!
//! Everything hop-by-hop is dropped before forwarding and the next hop is told to close, so that one connection carries
//! one request. The exception is a request for an upgrade: its `Connection` and `Upgrade` go on as they came, because
//! the WebSocket of a child whose access URL is `http://` depends on them.

use std::mem::MaybeUninit;

use secrecy::{ExposeSecret as _, SecretString};

use super::body::Body;
use super::refusal::Refusal;
use super::target::{Host, Target};

/// As many headers as Go's and most servers' defaults make likely; more is refused.
pub(super) const MAX_HEADERS: usize = 100;

/// A request, with the credential that came with it.
pub(super) struct Request {
    pub(super) target: Target,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<SecretString>,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Connect,
    Forward(ForwardedRequest),
}

/// A request in absolute-form, ready to be written for the next hop.
pub(super) struct ForwardedRequest {
    method: String,
    /// Scheme and authority as they came, for a next hop that is a proxy.
    origin: String,
    /// Path and query, starting with `/`.
    path: String,
    minor_version: u8,
    /// The authority as it came: what `Host` has to say (RFC 9112 §3.2.2).
    authority: String,
    /// What is forwarded of the headers, `Host` left out.
    headers: Vec<(String, Vec<u8>)>,
    /// Whether the request asks to switch to another protocol.
    pub(super) upgrade: bool,
    /// How long the body is.
    pub(super) body: Body,
}

/// Reads a complete head, its empty line included.
pub(super) fn parse(head: &[u8]) -> Result<Request, Refusal> {
    check_lines(head)?;
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Refusal::BadRequest("the request head is not complete")),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::BadRequest("the request head is not valid HTTP/1.1")),
    }
    let (Some(method), Some(uri), Some(minor_version)) = (request.method, request.path, request.version)
    else {
        return Err(Refusal::BadRequest("the request head is not complete"));
    };
    let fields = Fields::collect(request.headers)?;
    let host = fields.host(minor_version)?;
    if uri.starts_with(['/', '*']) {
        return Err(fields.not_for_a_proxy(host));
    }
    if method == "CONNECT" {
        let target = Target::parse(uri, None).map_err(Refusal::BadTarget)?;
        // Some clients leave the port out of `Host` here; another port is refused.
        check_host(host, &target, target.port)?;
        if !matches!(fields.body, Body::Length(0)) {
            return Err(Refusal::BadRequest("CONNECT has no body"));
        }
        return Ok(Request {
            target,
            authorization: fields.authorization,
            kind: Kind::Connect,
        });
    }
    let (origin, authority, path) = split_uri(uri)?;
    let target = Target::parse(authority, Some(80)).map_err(Refusal::BadTarget)?;
    check_host(host, &target, 80)?;
    let upgrade = fields.upgrade();
    if upgrade && !matches!(fields.body, Body::Length(0)) {
        return Err(Refusal::BadRequest("a request for an upgrade has no body"));
    }
    let forward = ForwardedRequest {
        method: method.to_owned(),
        origin: origin.to_owned(),
        path,
        minor_version,
        authority: authority.to_owned(),
        headers: fields.forwarded(upgrade),
        upgrade,
        body: fields.body,
    };
    Ok(Request {
        target,
        authorization: fields.authorization,
        kind: Kind::Forward(forward),
    })
}

impl ForwardedRequest {
    /// The head for the destination itself.
    pub(super) fn origin_form(&self) -> Vec<u8> {
        self.written("", None)
    }

    /// The head for another proxy, with the credential for it.
    pub(super) fn absolute_form(&self, authorization: Option<&SecretString>) -> Vec<u8> {
        self.written(&self.origin, authorization)
    }

    fn written(&self, origin: &str, authorization: Option<&SecretString>) -> Vec<u8> {
        let Self {
            method,
            path,
            minor_version,
            authority,
            ..
        } = self;
        let mut head =
            format!("{method} {origin}{path} HTTP/1.{minor_version}\r\nHost: {authority}\r\n").into_bytes();
        let mut field = |name: &str, value: &[u8]| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        for (name, value) in &self.headers {
            field(name, value);
        }
        if let Some(value) = authorization {
            field("Proxy-Authorization", value.expose_secret().as_bytes());
        }
        if !self.upgrade {
            field("Connection", b"close");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// The first line is not empty, every line ends in CRLF, and none starts with a blank.
fn check_lines(head: &[u8]) -> Result<(), Refusal> {
    if head.starts_with(b"\r") {
        return Err(Refusal::BadRequest("an empty line stands before the request"));
    }
    let mut previous = b'\n';
    for &byte in head {
        match (previous, byte) {
            (b'\r', b'\n') => {}
            (b'\r', _) | (_, b'\n') => return Err(Refusal::BadRequest("a line does not end in CR LF")),
            (b'\n', b' ' | b'\t') => return Err(Refusal::BadRequest("a header is folded")),
            _ => {}
        }
        previous = byte;
    }
    Ok(())
}

/// Splits an absolute-form URI into scheme and authority, the authority alone, and the path.
fn split_uri(uri: &str) -> Result<(&str, &str, String), Refusal> {
    const SCHEME: &str = "http://";
    let scheme = uri.get(..SCHEME.len());
    if !scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME)) {
        return Err(Refusal::BadRequest(
            "this is a proxy: CONNECT or a URL that starts with http:// is expected",
        ));
    }
    if uri.contains('#') || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::BadRequest(
            "the URL holds a character that does not belong there",
        ));
    }
    let end = uri[SCHEME.len()..]
        .find(['/', '?'])
        .map_or(uri.len(), |index| index + SCHEME.len());
    let (origin, path) = uri.split_at(end);
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    Ok((origin, &origin[SCHEME.len()..], path))
}

/// `Host` names the host of the target, and its port or, by leaving it out, `default_port`.
fn check_host(host: Option<&str>, target: &Target, default_port: u16) -> Result<(), Refusal> {
    match host.map(|host| Target::parse(host, Some(default_port))) {
        None => Ok(()),
        Some(Ok(host)) if host == *target => Ok(()),
        Some(Ok(_)) => Err(Refusal::Foreign(
            "the Host header names another host than the target",
        )),
        Some(Err(error)) => Err(Refusal::BadTarget(error)),
    }
}

/// Whether a `Host` is what this machine calls itself: a page that gets here by DNS rebinding has its own name there.
fn is_this_machine(host: &str) -> bool {
    match Target::parse(host, Some(80)).map(|target| target.host) {
        Ok(Host::Ip(address)) => address.is_loopback(),
        Ok(Host::Name(name)) => name == "localhost",
        Err(_) => false,
    }
}

/// What stands in the headers, sorted by what it means to a proxy.
struct Fields<'h> {
    all: &'h [httparse::Header<'h>],
    hosts: Vec<&'h str>,
    authorization: Option<SecretString>,
    /// The options of `Connection`, in lower case.
    options: Vec<String>,
    body: Body,
}

impl<'h> Fields<'h> {
    fn collect(all: &'h [httparse::Header<'h>]) -> Result<Self, Refusal> {
        let mut fields = Self {
            all,
            hosts: Vec::new(),
            authorization: None,
            options: Vec::new(),
            body: Body::Length(0),
        };
        let mut length = None;
        let mut chunked = false;
        for header in all {
            let text = || {
                std::str::from_utf8(header.value)
                    .map_err(|_| Refusal::BadRequest("a header is not plain text"))
            };
            match header.name.to_ascii_lowercase().as_str() {
                "host" => fields.hosts.push(text()?),
                "proxy-authorization" => once(
                    &mut fields.authorization,
                    SecretString::from(text()?),
                    "two credentials",
                )?,
                "content-length" => once(&mut length, parse_length(text()?)?, "two content lengths")?,
                "transfer-encoding" => {
                    if chunked || !text()?.eq_ignore_ascii_case("chunked") {
                        return Err(Refusal::BadRequest("a transfer encoding other than chunked"));
                    }
                    chunked = true;
                }
                "connection" => fields.add_options(text()?)?,
                _ => {}
            }
        }
        fields.body = match (length, chunked) {
            (Some(_), true) => {
                return Err(Refusal::BadRequest(
                    "both a content length and a transfer encoding",
                ));
            }
            (Some(length), false) => Body::Length(length),
            (None, true) => Body::chunked(),
            (None, false) => Body::Length(0),
        };
        Ok(fields)
    }

    /// Why a request in origin-form is refused. A person who tries the port out is told; what a browser was made to send,
    /// by a page of another origin or by one whose name was bound to this address, gets no answer.
    fn not_for_a_proxy(&self, host: Option<&str>) -> Refusal {
        let made_by_a_page = self.all.iter().any(|header| {
            let name = header.name.to_ascii_lowercase();
            matches!(name.as_str(), "origin" | "referer" | "cookie") || name.starts_with("sec-fetch-")
        });
        if made_by_a_page || host.is_some_and(|host| !is_this_machine(host)) {
            Refusal::Foreign("a web page's request")
        } else {
            Refusal::BadRequest("this is a proxy: CONNECT or a URL that starts with http:// is expected")
        }
    }

    fn add_options(&mut self, value: &str) -> Result<(), Refusal> {
        for option in value.split(',').map(|option| option.trim().to_ascii_lowercase()) {
            // Dropping one of these would change what the message is, not how it travels.
            if matches!(
                option.as_str(),
                "host" | "content-length" | "transfer-encoding" | "authorization"
            ) {
                return Err(Refusal::BadRequest(
                    "the Connection header names a header that is not hop-by-hop",
                ));
            }
            self.options.push(option);
        }
        Ok(())
    }

    /// The one `Host`. HTTP/1.0 did not know it.
    fn host(&self, minor_version: u8) -> Result<Option<&'h str>, Refusal> {
        match self.hosts.as_slice() {
            [] if minor_version == 0 => Ok(None),
            [] => Err(Refusal::BadRequest("no Host header")),
            [host] => Ok(Some(host)),
            _ => Err(Refusal::BadRequest("two Host headers")),
        }
    }

    fn upgrade(&self) -> bool {
        self.options.iter().any(|option| option == "upgrade")
            && self
                .all
                .iter()
                .any(|header| header.name.eq_ignore_ascii_case("upgrade"))
    }

    fn forwarded(&self, upgrade: bool) -> Vec<(String, Vec<u8>)> {
        let forwarded = |name: &str| match name {
            // `Host` is written anew from the target.
            "host" | "proxy-authorization" | "proxy-connection" | "keep-alive" | "te" => false,
            "connection" | "upgrade" => upgrade,
            name => upgrade || !self.options.iter().any(|option| option == name),
        };
        self.all
            .iter()
            .filter(|header| forwarded(&header.name.to_ascii_lowercase()))
            .map(|header| (header.name.to_owned(), header.value.to_vec()))
            .collect()
    }
}

/// Fills a slot that may be filled once.
fn once<T>(slot: &mut Option<T>, value: T, twice: &'static str) -> Result<(), Refusal> {
    if slot.replace(value).is_some() {
        Err(Refusal::BadRequest(twice))
    } else {
        Ok(())
    }
}

/// Plain decimal digits; a list of equal lengths, which RFC 9110 would let pass, is not taken.
fn parse_length(text: &str) -> Result<u64, Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let length = if digits { text.parse().ok() } else { None };
    length.ok_or(Refusal::BadRequest("the content length is not a number"))
}

#[cfg(test)]
mod tests;
