//! What stands before every handler: loopback names only, a session where one is needed, and headers that
//! keep a page to itself.
//!
//! The listener is on loopback, so whoever reaches it is a program on this machine, above all a browser that
//! some foreign page is trying to use. A foreign page can send requests here, but it cannot make the browser
//! name loopback as `Host` when it came by a name of its own (DNS rebinding), cannot send our `Strict` cookie,
//! and cannot forge `Origin`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Dashboard;
use super::access::SESSION_LIFE;
use super::pages::{self, Notice};

/// Everything from here, nothing inline, no frames around the page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The value of `Set-Cookie` for a new session. No `Secure`: the listener speaks plain http on loopback.
pub(super) fn session_cookie(port: u16, secret: &str) -> String {
    let age = SESSION_LIFE.as_secs();
    format!(
        "{}={secret}; HttpOnly; SameSite=Strict; Path=/; Max-Age={age}",
        cookie_name(port)
    )
}

/// Refuses requests that do not name this listener (421) and writes from elsewhere (403).
pub(super) async fn require_loopback(
    State(dashboard): State<Dashboard>,
    request: Request,
    next: Next,
) -> Response {
    let Some(host) = loopback_host(&request, dashboard.port) else {
        return pages::respond(
            StatusCode::MISDIRECTED_REQUEST,
            &Notice::misdirected(&dashboard.assets),
        );
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && !comes_from(request.headers(), &host) {
        return (
            StatusCode::FORBIDDEN,
            "The request does not come from this page.\n",
        )
            .into_response();
    }
    next.run(request).await
}

/// Refuses requests without a session (401); hands the session on to the handler.
pub(super) async fn require_session(
    State(dashboard): State<Dashboard>,
    mut request: Request,
    next: Next,
) -> Response {
    let session = cookies(request.headers(), &cookie_name(dashboard.port))
        .find_map(|secret| dashboard.access.session(secret));
    let Some(session) = session else {
        return pages::respond(StatusCode::UNAUTHORIZED, &Notice::no_session(&dashboard.assets));
    };
    request.extensions_mut().insert(session);
    next.run(request).await
}

/// Adds to every answer what keeps it to itself. Nothing is stored unless the handler said so.
pub(super) async fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let rows: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in rows {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Cookies know no ports, so two registries on one machine would overwrite each other's without it.
fn cookie_name(port: u16) -> String {
    format!("orfe_session_{port}")
}

/// The values of all cookies of one name.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// Whom the request names, when it is this listener.
fn loopback_host(request: &Request, port: u16) -> Option<String> {
    let mut hosts = request.headers().get_all(header::HOST).into_iter();
    let host = hosts.next()?.to_str().ok()?;
    let single = hosts.next().is_none();
    // An absolute request line names the host a second time, and has to mean the same.
    let agrees = request
        .uri()
        .authority()
        .is_none_or(|authority| authority.as_str() == host);
    (single && agrees && is_loopback(host, port)).then(|| host.to_owned())
}

/// Whether `host` is a loopback name or address with this port (80 goes without saying).
fn is_loopback(host: &str, port: u16) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if host.contains('@') || authority.port_u16().unwrap_or(80) != port {
        return false;
    }
    let name = authority.host();
    let address = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether `Origin` is this very listener.
fn comes_from(headers: &HeaderMap, host: &str) -> bool {
    headers
        .get(header::ORIGIN)
        .is_some_and(|origin| origin.as_bytes() == format!("http://{host}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_with_the_right_port_is_meant() {
        for host in [
            "127.0.0.1:7480",
            "127.9.9.9:7480",
            "localhost:7480",
            "LOCALHOST:7480",
            "[::1]:7480",
        ] {
            assert!(is_loopback(host, 7480), "{host}");
        }
        let foreign = [
            "127.0.0.1",
            "127.0.0.1:7481",
            "localhost.:7480",
            "localhost.evil.example:7480",
            "127.0.0.1.nip.io:7480",
            "evil.example:7480",
            "evil@127.0.0.1:7480",
            "10.0.0.1:7480",
            "0.0.0.0:7480",
            "[::ffff:127.0.0.1%25eth0]:7480",
            "127.0.0.1:7480,evil.example",
            "",
        ];
        for host in foreign {
            assert!(!is_loopback(host, 7480), "{host}");
        }
        assert!(is_loopback("localhost", 80));
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("orfe_session_1=a; orfe_session_12=b"),
        );
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("x; =; orfe_session_1=c=d"),
        );
        assert_eq!(
            cookies(&headers, "orfe_session_1").collect::<Vec<_>>(),
            ["a", "c=d"]
        );
        assert_eq!(cookies(&headers, "orfe_session").count(), 0);
    }
}
