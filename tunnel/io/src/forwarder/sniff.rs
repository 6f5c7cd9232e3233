//! Which host a connection is meant for, read from its first bytes: the server name of a TLS client hello, or the `Host` of
//! a plain HTTP request. Nothing is decrypted and nothing is answered.
//!
//! Sans-IO: [`sniff`] is called with all the bytes so far and says whether it needs more. What it reads is written by whoever is
//! at the other end, so every length is checked against what is there.

pub(crate) mod fuzzing;

/// As many first bytes are read at most. A client hello with post-quantum keys takes about 2 KiB, a request head of Coder's
/// clients less; Go's server takes heads up to 1 MiB, which nobody sends.
pub(super) const MAX_FIRST_BYTES: usize = 32 * 1024;

/// As many headers as the local proxy takes.
const MAX_HEADERS: usize = 100;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// How the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Tls,
    Http,
}

/// What the first bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sniff {
    /// Not enough yet.
    More,
    /// The host as the client wrote it, without a port; whether it may be reached is decided elsewhere.
    Host { name: String, speech: Speech },
    /// No host will come of it.
    Nothing(&'static str),
}

/// Reads the first bytes of a connection.
pub(super) fn sniff(bytes: &[u8]) -> Sniff {
    let found = match bytes.first() {
        None => return Sniff::More,
        Some(&HANDSHAKE_RECORD) => hello(bytes).and_then(|hello| Ok((server_name(&hello)?, Speech::Tls))),
        Some(first) if first.is_ascii_alphabetic() => host(bytes).map(|name| (name, Speech::Http)),
        Some(_) => Err(Stop::Nothing("neither TLS nor HTTP")),
    };
    match found {
        Ok((name, speech)) => Sniff::Host { name, speech },
        Err(Stop::More) if bytes.len() >= MAX_FIRST_BYTES => Sniff::Nothing("its first message is too long"),
        Err(Stop::More) => Sniff::More,
        Err(Stop::Nothing(reason)) => Sniff::Nothing(reason),
    }
}

enum Stop {
    More,
    Nothing(&'static str),
}

/// The client hello's body, put together from as many records as it came in.
fn hello(mut bytes: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut message = Vec::new();
    loop {
        // RFC 8446 §5.1: type, version, length of the fragment.
        let Some((header, rest)) = bytes.split_first_chunk::<5>() else {
            return Err(Stop::More);
        };
        if header[0] != HANDSHAKE_RECORD {
            return Err(Stop::Nothing("the client hello is broken off by another record"));
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let fragment = rest.get(..length).ok_or(Stop::More)?;
        message.extend_from_slice(fragment);
        bytes = &rest[length..];
        // RFC 8446 §4: type, length of the message.
        if let Some((head, body)) = message.split_first_chunk::<4>() {
            if head[0] != CLIENT_HELLO {
                return Err(Stop::Nothing("the first message is no client hello"));
            }
            let length = usize::try_from(u32::from_be_bytes([0, head[1], head[2], head[3]]))
                .map_err(|_| Stop::Nothing("the client hello is too long"))?;
            if length > MAX_FIRST_BYTES {
                return Err(Stop::Nothing("the client hello is too long"));
            }
            if body.len() >= length {
                return Ok(body[..length].to_vec());
            }
        }
    }
}

/// The host name in a client hello's body (RFC 8446 §4.1.2, RFC 6066 §3).
fn server_name(hello: &[u8]) -> Result<String, Stop> {
    let broken = Stop::Nothing("the client hello is broken");
    // Version and random.
    let rest = hello.get(34..).ok_or(broken)?;
    let (_session, rest) = short(rest)?;
    let (_suites, rest) = long(rest)?;
    let (_compression, rest) = short(rest)?;
    let (mut extensions, _) = long(rest)?;
    while let Some((kind, rest)) = extensions.split_first_chunk::<2>() {
        let (body, rest) = long(rest)?;
        extensions = rest;
        if u16::from_be_bytes(*kind) != SERVER_NAME {
            continue;
        }
        let (mut names, _) = long(body)?;
        while let Some((&kind, rest)) = names.split_first() {
            let (name, rest) = long(rest)?;
            names = rest;
            if kind == HOST_NAME {
                return text(name);
            }
        }
    }
    Err(Stop::Nothing("the client hello names no server"))
}

/// The host in a plain request's head, without its port.
fn host(bytes: &[u8]) -> Result<String, Stop> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return Err(Stop::More),
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Err(Stop::Nothing("the request is not valid HTTP/1.1")),
    }
    let mut hosts = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Stop::Nothing("the request names no host, or two"));
    };
    let host = text(host.value)?;
    // An address in brackets is no name of any policy.
    Ok(match host.rsplit_once(':') {
        Some((name, _port)) => name.to_owned(),
        None => host,
    })
}

/// What may stand in a DNS name and nothing else: it goes into the head of a request to the agent.
fn text(name: &[u8]) -> Result<String, Stop> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'_');
    if name.is_empty() || name.len() > 255 || !name.iter().all(plain) {
        return Err(Stop::Nothing("the host is not a DNS name"));
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// A vector with a length of one byte, and what follows it.
fn short(bytes: &[u8]) -> Result<(&[u8], &[u8]), Stop> {
    let (&length, rest) = bytes
        .split_first()
        .ok_or(Stop::Nothing("the client hello is broken"))?;
    rest.split_at_checked(usize::from(length))
        .ok_or(Stop::Nothing("the client hello is broken"))
}

/// A vector with a length of two bytes, and what follows it.
fn long(bytes: &[u8]) -> Result<(&[u8], &[u8]), Stop> {
    let (length, rest) = bytes
        .split_first_chunk::<2>()
        .ok_or(Stop::Nothing("the client hello is broken"))?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or(Stop::Nothing("the client hello is broken"))
}

#[cfg(test)]
mod tests;
