//! The dashboard over real loopback sockets, spoken to as a browser would and as an attacker could.

pub(super) mod example_fleet;
mod site;

use std::time::Duration;

use tokio::time::timeout;

pub(super) use self::site::FixedFleet;
use self::site::Site;
use super::*;
use crate::fleet::Link;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn without_a_session_a_page_says_how_to_get_one() {
    let site = Site::start(example_fleet::rows()).await;
    for path in ["/", "/events"] {
        for cookie in [
            None,
            Some("orfe_session=x".to_owned()),
            Some(format!("orfe_session_{}=x", site.address.port())),
        ] {
            let answer = site.get(path, cookie.as_deref()).await;
            assert_eq!(answer.status, 401, "{path}");
            assert!(
                answer.body.contains("orfe-registry dashboard link"),
                "{}",
                answer.body
            );
            assert!(!answer.body.contains("gpu-box-01"));
        }
    }
}

#[tokio::test]
async fn a_link_lets_one_browser_in_and_no_second() {
    let site = Site::start(example_fleet::rows()).await;
    let path = site.link();
    let looked_at = site.request(&format!("HEAD {path}"), &[]).await;
    assert_eq!(looked_at.status, 204);

    let first = site.get(&path, None).await;
    assert_eq!((first.status, first.header("location")), (303, Some("/")));
    let cookie = first.header("set-cookie").expect("a cookie").to_owned();
    assert!(
        cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200"),
        "{cookie}"
    );
    let second = site.get(&path, None).await;
    assert_eq!((second.status, second.header("set-cookie")), (401, None));
    assert!(second.body.contains("no longer good") && second.body.contains("orfe-registry dashboard link"));

    let pair = cookie.split(';').next().expect("a pair");
    let page = site.get("/", Some(pair)).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("gpu-box-01"));
}

#[tokio::test]
async fn a_link_from_another_site_leads_on_with_a_page() {
    let site = Site::start(vec![]).await;
    let path = site.link();
    let answer = site
        .request(&format!("GET {path}"), &["sec-fetch-site: cross-site"])
        .await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("set-cookie").is_some());
    assert!(
        answer
            .body
            .contains(r#"<meta http-equiv="refresh" content="0; url=/">"#),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn links_and_sessions_expire() {
    let site = Site::start(vec![]).await;
    let path = site.link();
    site.pass(LINK_LIFE);
    assert_eq!(site.get(&path, None).await.status, 401);

    let cookie = site.enter().await;
    assert_eq!(site.get("/", Some(&cookie)).await.status, 200);
    site.pass(SESSION_LIFE);
    assert_eq!(site.get("/", Some(&cookie)).await.status, 401);
}

#[tokio::test]
async fn only_this_listener_is_meant() {
    let site = Site::start(vec![]).await;
    let cookie = site.enter().await;
    let port = site.address.port();
    for host in [
        "evil.example",
        "127.0.0.1",
        "localhost:1",
        &format!("evil.example:{port}"),
    ] {
        let request =
            format!("GET / HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n");
        let answer = site.exchange(&request).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.header("content-security-policy").is_some());
    }
    let twice = format!(
        "GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
    );
    assert!(matches!(site.exchange(&twice).await.status, 400 | 421));
    let two_minds = format!(
        "GET http://evil.example:{port}/ HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(site.exchange(&two_minds).await.status, 421);
}

#[tokio::test]
async fn writes_are_taken_from_this_page_only() {
    let site = Site::start(vec![]).await;
    let cookie = format!("cookie: {}", site.enter().await);
    let own = format!("origin: http://{}", site.address);
    for (origin, expected) in [
        ("x-no-origin: 1", 403),
        ("origin: http://evil.example", 403),
        (&own, 405),
    ] {
        let answer = site
            .request("POST /", &[&cookie, origin, "content-length: 0"])
            .await;
        assert_eq!(answer.status, expected, "{origin}");
    }
}

#[tokio::test]
async fn every_answer_keeps_to_itself() {
    let site = Site::start(example_fleet::rows()).await;
    let cookie = site.enter().await;
    for (path, cookie) in [
        ("/", Some(cookie.as_str())),
        ("/", None),
        ("/nothing", None),
        ("/enter/x", None),
    ] {
        let answer = site.get(path, cookie).await;
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        // What the policy would block anyway must not be there to begin with.
        for inline in [
            "<style",
            "style=",
            "<script>",
            " onclick=",
            "javascript:",
            "https://",
            "//cdn",
        ] {
            assert!(!answer.body.contains(inline), "{path} holds {inline}");
        }
    }
}

#[tokio::test]
async fn assets_are_typed_and_cached_for_ever() {
    let site = Site::start(vec![]).await;
    let cookie = site.enter().await;
    let page = site.get("/", Some(&cookie)).await.body;
    for (name, content_type) in [
        ("dashboard.css", "text/css; charset=utf-8"),
        ("dashboard.js", "text/javascript; charset=utf-8"),
        ("live.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ] {
        let path = asset_in(&page, name).expect("the page names it");
        let answer = site.get(path, None).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(
            answer.header("cache-control"),
            Some("public, max-age=31536000, immutable")
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(!answer.body.is_empty());
    }
    assert_eq!(
        site.get("/assets/0000000000000000/dashboard.css", None)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn without_node_the_page_is_whole_and_says_reload() {
    let site = Site::start_with(example_fleet::rows(), Assets::with_live(b"")).await;
    let cookie = site.enter().await;
    let page = site.get("/", Some(&cookie)).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("gpu-box-01") && page.body.contains("Reload to update"));
    for absent in ["live.js", "hx-", r#"id="live""#] {
        assert!(!page.body.contains(absent), "{absent}");
    }
    assert!(asset_in(&page.body, "dashboard.css").is_some());
}

#[tokio::test]
async fn what_the_build_embedded_is_htmx_or_nothing() {
    let Some(live) = Assets::embedded().live else {
        return;
    };
    let body = axum::body::to_bytes(live.into_response().into_body(), usize::MAX)
        .await
        .expect("bytes");
    let script = std::str::from_utf8(&body).expect("text");
    for expected in ["htmx", "innerMorph", "text/event-stream"] {
        assert!(script.contains(expected), "{expected}");
    }
    assert!(!script.contains("sourceMappingURL"));
}

#[tokio::test]
async fn a_change_of_the_fleet_reaches_the_page() {
    let site = Site::start(example_fleet::rows()).await;
    let cookie = site.enter().await;
    let mut stream = site.events(&cookie).await;
    let first = stream.list().await;
    assert!(
        first.contains("gpu-box-01") && first.contains("<b>7</b> devices"),
        "{first}"
    );
    assert!(!first.contains("<html"), "a fragment, not a page");

    let mut rows = example_fleet::rows();
    rows.truncate(1);
    rows[0].link = Link::Offline;
    site.fleet.set(rows);
    let second = stream.list().await;
    assert!(
        second.contains("<b>1</b> device<") || second.contains("<b>1</b> device\n"),
        "{second}"
    );
    assert!(second.contains("was 2/2 connected"), "{second}");
}

#[tokio::test]
async fn streams_end_with_their_registry_and_with_their_session() {
    let site = Site::start(vec![]).await;
    let cookie = site.enter().await;
    let mut stream = site.events(&cookie).await;
    stream.list().await;
    site.pass(SESSION_LIFE);
    site.fleet.set(example_fleet::rows());
    stream.end().await;

    let cookie = site.enter().await;
    let mut stream = site.events(&cookie).await;
    stream.list().await;
    site.dashboard.shutdown.cancel();
    stream.end().await;
    timeout(PATIENCE, site.server)
        .await
        .expect("a graceful shutdown")
        .expect("no panic");
}

#[tokio::test]
async fn no_more_streams_than_there_is_room_for() {
    let site = Site::start(vec![]).await;
    let cookie = site.enter().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = site.events(&cookie).await;
        stream.list().await;
        streams.push(stream);
    }
    let refused = site.get("/events", Some(&cookie)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("60")));
    drop(streams);
    let permit = timeout(PATIENCE, site.dashboard.streams.acquire_many(STREAMS_MAX as u32))
        .await
        .expect("all came back");
    drop(permit);
    site.events(&cookie).await.list().await;
}

#[test]
fn hostile_words_stay_words() {
    let evil = "</td><script>alert(1)</script>\"' onmouseover=x <!--\r\ndata: y\u{202e}";
    let mut observed = example_fleet::observed();
    observed.agent_version = evil.into();
    observed.facts.os = evil.into();
    observed.facts.arch = evil.into();
    observed.facts.hostname = evil.into();
    observed.facts.cpu_model = evil.into();
    observed.facts.gpus = vec![orfe_protocol::observed::Gpu {
        vendor: evil.into(),
        model: evil.into(),
        tag: evil.into(),
        evidence: evil.into(),
    }];
    observed.facts.docker = orfe_protocol::observed::Docker::Absent { reason: evil.into() };
    observed.provisioners[0].name = evil.into();
    observed.provisioners[0].reason = Some(evil.into());
    observed.checks[0].outcome = orfe_protocol::observed::CheckOutcome::Failed;
    observed.checks[0].message = evil.into();
    observed.checks[0].hint = Some(evil.into());
    if let Some(tunnel) = &mut observed.tunnel {
        tunnel.tcp_stack = evil.into();
    }
    let mut rows = example_fleet::rows();
    rows.truncate(1);
    rows[0].observed = Some(Arc::new(observed));

    let html = page(rows);
    assert!(html.matches("alert(1)").count() >= 12, "{html}");
    assert!(!html.contains("<script>") && !html.contains("<!--"), "{html}");
    assert!(
        !html.contains("\"'") && !html.contains(['\r', '\u{202e}']),
        "{html}"
    );
    assert_eq!(html.matches("<td").count(), html.matches("</td>").count());
    // A tag with such characters cannot be made in the first place, nor a name.
    assert!("gpu=<b>".parse::<orfe_protocol::tag::Tag>().is_err());
    assert!("<b>".parse::<orfe_protocol::name::DeviceName>().is_err());
}

#[test]
fn the_page_of_the_example_fleet() {
    insta::assert_snapshot!("fleet", page(example_fleet::rows()));
}

#[test]
fn the_page_of_an_empty_fleet() {
    insta::assert_snapshot!("no_devices", page(vec![]));
}

/// The list of devices at the example's moment.
fn page(rows: Vec<DeviceRow>) -> String {
    let assets = Assets::with_live(b"live");
    let fleet = FleetPage::new(rows, example_fleet::now());
    let html = pages::render(&DevicesPage {
        assets: &assets,
        fleet,
    })
    .expect("a page");
    // Digests change with every touch of the style; what they stand for is tested elsewhere.
    let mut lines = Vec::new();
    for line in html.lines() {
        let mut line = line.to_owned();
        for asset in [
            Some(&assets.style),
            Some(&assets.icon),
            Some(&assets.script),
            assets.live.as_ref(),
        ] {
            let path = &asset.expect("with live updates").path;
            line = line.replace(
                path,
                &format!("/assets/DIGEST/{}", path.rsplit('/').next().unwrap_or_default()),
            );
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The address of an asset as the page writes it.
fn asset_in<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    page.split('"')
        .find(|part| part.starts_with("/assets/") && part.ends_with(&format!("/{name}")))
}
