//! What stands between this machine and the gateway, in words for people.

use std::time::Duration;

use orfe_protocol::observed::Carrier;
use orfe_tunnel::carrier::BridgeState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time for the question whether a captive portal answers.
const PATIENCE: Duration = Duration::from_secs(3);
/// As much of an answer's head as is read; in bytes.
const HEAD_MAX: usize = 4096;
/// How the obstacle of a portal begins, whoever it is.
const PORTAL: &str =
    "a captive portal answers in place of the registry; sign in to this network with a browser";

/// What is known when nothing was answered, or only further down the ladder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// The carrier in use; none while nothing answers.
    pub(super) settled: Option<Carrier>,
    /// Whole rounds over all rungs without an answer.
    pub(super) failed_rounds: u32,
    pub(super) offline: bool,
    /// What a web server in the registry's place said about itself.
    pub(super) portal: Option<&'a str>,
    /// Something that is not the registry answered for it.
    pub(super) foreign: bool,
    pub(super) bridge: Option<&'a BridgeState>,
}

/// What stands in the way; none while nothing does, or nothing is known yet.
pub(super) fn describe(known: &Known<'_>) -> Option<String> {
    match known.settled {
        Some(Carrier::Websocket) => {
            return Some("this network passes no UDP to the gateway; it goes over WebSocket".to_owned());
        }
        Some(_) => return None,
        None if known.offline => return Some("this machine has no network".to_owned()),
        None if known.failed_rounds == 0 => return None,
        None => {}
    }
    Some(match (known.portal, known.bridge) {
        (Some(portal), _) => format!("{PORTAL} ({portal})"),
        (None, _) if known.foreign => PORTAL.to_owned(),
        (None, Some(BridgeState::Failed(reason))) => {
            format!("the gateway answers on no UDP port, and the way over WebSocket fails: {reason}")
        }
        (None, Some(BridgeState::Open)) => {
            "the registry can be reached, but the gateway answers neither over UDP nor through it".to_owned()
        }
        (None, _) => "the gateway answers on none of its UDP ports".to_owned(),
    })
}

/// Asks the registry's host for a page in plain HTTP: a portal answers with a redirect to itself. Nothing is sent that is
/// worth reading. None when there is no such answer.
pub(super) async fn find_portal(host: String) -> Option<String> {
    // A portal takes over the port of plain HTTP, whatever the registry's is.
    find_portal_at(host, 80).await
}

async fn find_portal_at(host: String, port: u16) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
            .await
            .ok()?;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = Vec::new();
        let mut limited = stream.take(HEAD_MAX as u64);
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if limited.read_buf(&mut head).await.ok()? == 0 {
                break;
            }
        }
        foreign_redirect(&head, &host)
    };
    timeout(PATIENCE, ask).await.ok().flatten()
}

/// Where an answer redirects to, when that is another host than the one that was asked.
fn foreign_redirect(head: &[u8], host: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let status = lines.next()?.split(' ').nth(1)?;
    let is_redirect = matches!(status, "301" | "302" | "303" | "307" | "308" | "511");
    let location = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim())
    });
    let url: url::Url = location.filter(|_| is_redirect)?.parse().ok()?;
    let other = url.host_str()?;
    // Not the page's path, which may hold who asked.
    (!other.eq_ignore_ascii_case(host)).then(|| other.chars().filter(|c| !c.is_control()).take(100).collect())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_redirect_to_somebody_else_is_a_portal() {
        let answer = |status: &str, location: &str| {
            let head = format!("HTTP/1.1 {status} X\r\nServer: x\r\nLocation: {location}\r\n\r\n");
            foreign_redirect(head.as_bytes(), "orfe.example.com")
        };
        assert_eq!(
            answer("302", "http://login.hotel.test/?mac=1"),
            Some("login.hotel.test".into())
        );
        assert_eq!(
            answer("302", "https://orfe.example.com/"),
            None,
            "to its own HTTPS"
        );
        assert_eq!(answer("302", "/login"), None);
        assert_eq!(answer("200", "http://login.hotel.test/"), None);
        assert_eq!(foreign_redirect(b"\xff\x00 nonsense", "x"), None);
        assert_eq!(foreign_redirect(b"", "x"), None);
    }

    /// Asks a web server that answers `answer` whether it is a portal, and what `status` says then.
    async fn obstacle_of(answer: &'static str) -> Option<String> {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let portal = find_portal_at("localhost".to_owned(), port).await;
        let request = serving.await.unwrap();
        assert_eq!(
            request,
            "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        describe(&Known {
            settled: None,
            failed_rounds: 1,
            offline: false,
            portal: portal.as_deref(),
            foreign: false,
            bridge: None,
        })
    }

    #[tokio::test]
    async fn a_web_server_that_redirects_in_place_of_the_registry_is_named() {
        let text =
            obstacle_of("HTTP/1.1 302 Found\r\nLocation: http://login.hotel.test/?mac=1\r\n\r\n").await;
        let text = text.unwrap();
        assert!(
            text.contains("captive portal") && text.contains("login.hotel.test"),
            "{text}"
        );
        assert!(!text.contains("mac=1"), "{text}");
        for answer in [
            "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://localhost/\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            "",
        ] {
            let text = obstacle_of(answer).await.unwrap_or_default();
            assert!(!text.contains("portal"), "{answer}: {text}");
        }
    }

    #[test]
    fn the_obstacle_is_named() {
        let known = Known {
            settled: None,
            failed_rounds: 1,
            offline: false,
            portal: None,
            foreign: false,
            bridge: None,
        };
        let broken = BridgeState::Failed("refused".into());
        for (known, expected) in [
            (known, Some("on none of its UDP ports")),
            (
                Known {
                    offline: true,
                    ..known
                },
                Some("no network"),
            ),
            (
                Known {
                    failed_rounds: 0,
                    ..known
                },
                None,
            ),
            (
                Known {
                    foreign: true,
                    ..known
                },
                Some("captive portal"),
            ),
            (
                Known {
                    portal: Some("login.test"),
                    ..known
                },
                Some("(login.test)"),
            ),
            (
                Known {
                    bridge: Some(&broken),
                    ..known
                },
                Some("fails: refused"),
            ),
            (
                Known {
                    settled: Some(Carrier::Udp),
                    ..known
                },
                None,
            ),
            (
                Known {
                    settled: Some(Carrier::Websocket),
                    ..known
                },
                Some("no UDP"),
            ),
        ] {
            let text = describe(&known);
            match expected {
                Some(part) => assert!(
                    text.as_deref().unwrap_or_default().contains(part),
                    "{known:?}: {text:?}"
                ),
                None => assert_eq!(text, None, "{known:?}"),
            }
        }
    }
}
