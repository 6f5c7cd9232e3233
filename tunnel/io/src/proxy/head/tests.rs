//! Tables of requests that are taken, rewritten and refused.

use proptest::prelude::*;

use super::super::body::Body;
use super::super::receive::MAX_HEAD;
use super::*;

fn lines(lines: &[&str]) -> Vec<u8> {
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

fn forward(head: &[&str]) -> ForwardedRequest {
    match parse(&lines(head)).expect("valid").kind {
        Kind::Forward(forward) => forward,
        Kind::Connect => panic!("CONNECT"),
    }
}

#[track_caller]
fn refused(head: &[u8]) -> Refusal {
    match parse(head) {
        Ok(request) => panic!("taken, for {}: {}", request.target, String::from_utf8_lossy(head)),
        Err(refusal) => refusal,
    }
}

#[test]
fn connect_names_its_target() {
    for (head, want) in [
        (
            vec![
                "CONNECT coder.demo.internal:443 HTTP/1.1",
                "Host: coder.demo.internal:443",
            ],
            "coder.demo.internal:443",
        ),
        (
            vec![
                "CONNECT Coder.Demo.Internal.:443 HTTP/1.1",
                "Host: coder.demo.internal",
            ],
            "coder.demo.internal:443",
        ),
        (
            vec![
                "CONNECT [fd00::1]:8443 HTTP/1.1",
                "Host: [FD00::1]:8443",
                "Content-Length: 0",
            ],
            "[fd00::1]:8443",
        ),
        (vec!["CONNECT 192.0.2.1:443 HTTP/1.0"], "192.0.2.1:443"),
    ] {
        let request = parse(&lines(&head)).expect("valid");
        assert!(matches!(request.kind, Kind::Connect));
        assert_eq!(request.target.to_string(), want);
        assert!(request.authorization.is_none());
    }
}

#[test]
fn the_credential_is_taken_out_whatever_its_case() {
    let request = parse(&lines(&[
        "CONNECT a:1 HTTP/1.1",
        "Host: a:1",
        "proxy-AUTHORIZATION: Basic eDp5",
    ]));
    let credential = request.expect("valid").authorization.expect("credential");
    assert_eq!(credential.expose_secret(), "Basic eDp5");
}

#[test]
fn an_upgrade_goes_on_as_it_came() {
    // The head that `coder provisionerd` sends to a proxy for an http:// access URL, with an access header.
    let forward = forward(&[
        "GET http://coder.example.test/api/v2/organizations/default/provisionerdaemons/serve?name=a&tag=x%3Dy HTTP/1.1",
        "Host: coder.example.test",
        "User-Agent: Go-http-client/1.1",
        "Coder-Provisioner-Daemon-Psk: psk",
        "Connection: Upgrade",
        "Proxy-Authorization: Basic eDp5",
        "Proxy-Connection: keep-alive",
        "Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-Websocket-Version: 13",
        "Upgrade: websocket",
        "Accept-Encoding: gzip",
    ]);
    assert!(forward.upgrade);
    let head = String::from_utf8(forward.origin_form()).expect("text");
    assert_eq!(
        head.split("\r\n").collect::<Vec<_>>(),
        [
            "GET /api/v2/organizations/default/provisionerdaemons/serve?name=a&tag=x%3Dy HTTP/1.1",
            "Host: coder.example.test",
            "User-Agent: Go-http-client/1.1",
            "Coder-Provisioner-Daemon-Psk: psk",
            "Connection: Upgrade",
            "Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-Websocket-Version: 13",
            "Upgrade: websocket",
            "Accept-Encoding: gzip",
            "",
            "",
        ]
    );
}

#[test]
fn without_an_upgrade_hop_by_hop_headers_end_here() {
    let forward = forward(&[
        "POST HTTP://Example.com:8080/a//b?c=/d HTTP/1.1",
        "Host: example.com:8080",
        "Connection: keep-alive, X-Hop",
        "Keep-Alive: timeout=5",
        "X-Hop: 1",
        "X-End: 2",
        "TE: trailers",
        "Upgrade: h2c",
        "Proxy-Authorization: Basic eDp5",
        "Proxy-Connection: keep-alive",
        "Content-Length: 3",
    ]);
    assert!(!forward.upgrade);
    assert_eq!(forward.body, Body::Length(3));
    let origin = String::from_utf8(forward.origin_form()).expect("text");
    assert_eq!(
        origin,
        "POST /a//b?c=/d HTTP/1.1\r\nHost: Example.com:8080\r\nX-End: 2\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    );
    let credential = SecretString::from("Basic b3duZXI6cHc=");
    let absolute = String::from_utf8(forward.absolute_form(Some(&credential))).expect("text");
    assert_eq!(
        absolute,
        "POST HTTP://Example.com:8080/a//b?c=/d HTTP/1.1\r\nHost: Example.com:8080\r\nX-End: 2\r\n\
         Content-Length: 3\r\nProxy-Authorization: Basic b3duZXI6cHc=\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn the_path_and_the_default_port_are_filled_in() {
    for (uri, host, target, line) in [
        ("http://a", "a", "a:80", "GET / HTTP/1.1"),
        ("http://a/", "a:80", "a:80", "GET / HTTP/1.1"),
        ("http://a?q=1", "A.", "a:80", "GET /?q=1 HTTP/1.1"),
        ("http://a.:81/x", "a:81", "a:81", "GET /x HTTP/1.1"),
        (
            "http://[fd00::1]/x",
            "[fd00::1]",
            "[fd00::1]:80",
            "GET /x HTTP/1.1",
        ),
        (
            "http://192.0.2.1:8080/",
            "192.0.2.1:8080",
            "192.0.2.1:8080",
            "GET / HTTP/1.1",
        ),
    ] {
        let request = parse(&lines(&[
            &format!("GET {uri} HTTP/1.1"),
            &format!("Host: {host}"),
        ]))
        .expect(uri);
        assert_eq!(request.target.to_string(), target);
        let Kind::Forward(forward) = request.kind else {
            panic!("CONNECT")
        };
        assert!(forward.origin_form().starts_with(line.as_bytes()), "{uri}");
    }
}

#[test]
fn what_is_no_request_for_a_proxy_is_refused_and_a_page_gets_no_answer() {
    let get = "GET / HTTP/1.1";
    for (head, foreign) in [
        (vec![get, "Host: 127.0.0.1:1080"], false),
        (vec![get, "Host: [::1]:1080"], false),
        (vec!["OPTIONS * HTTP/1.1", "Host: localhost:1080"], false),
        (
            vec!["GET //evil.example/ HTTP/1.1", "Host: localhost:1080"],
            false,
        ),
        (vec!["GET / HTTP/1.0"], false),
        (vec![get, "Host: rebound.example"], true),
        (vec![get, "Host: 192.0.2.1:1080"], true),
        (vec![get, "Host: 127.1:1080"], true),
        (
            vec![get, "Host: localhost:1080", "Origin: https://evil.example"],
            true,
        ),
        (vec![get, "Host: localhost:1080", "ORIGIN: null"], true),
        (vec![get, "Host: localhost:1080", "Sec-Fetch-Mode: no-cors"], true),
        (
            vec![get, "Host: localhost:1080", "Referer: http://evil.example/"],
            true,
        ),
        (vec![get, "Host: localhost:1080", "Cookie: a=b"], true),
        (
            vec!["GET http://coder.demo.internal/ HTTP/1.1", "Host: 127.0.0.1:1080"],
            true,
        ),
        (
            vec![
                "CONNECT coder.demo.internal:443 HTTP/1.1",
                "Host: evil.example:443",
            ],
            true,
        ),
        (
            vec![
                "CONNECT coder.demo.internal:443 HTTP/1.1",
                "Host: coder.demo.internal:444",
            ],
            true,
        ),
        (vec!["GET http://a:8080/ HTTP/1.1", "Host: a"], true),
        (
            vec![
                "GET https://coder.demo.internal/ HTTP/1.1",
                "Host: coder.demo.internal",
            ],
            false,
        ),
        (
            vec![
                "GET ws://coder.demo.internal/ HTTP/1.1",
                "Host: coder.demo.internal",
            ],
            false,
        ),
    ] {
        match refused(&lines(&head)) {
            Refusal::Foreign(_) => assert!(foreign, "{head:?}"),
            Refusal::BadRequest(_) => assert!(!foreign, "{head:?}"),
            other => panic!("{other:?} for {head:?}"),
        }
    }
}

#[test]
fn a_browser_that_was_told_to_use_the_proxy_may() {
    let head = [
        "GET http://coder.demo.internal/ HTTP/1.1",
        "Host: coder.demo.internal",
        "Origin: http://page.example",
        "Sec-Fetch-Site: cross-site",
    ];
    assert!(parse(&lines(&head)).is_ok());
}

#[test]
fn bad_targets_are_refused() {
    for head in [
        vec![
            "CONNECT coder.demo.internal HTTP/1.1",
            "Host: coder.demo.internal",
        ],
        vec![
            "CONNECT coder.demo.internal:0 HTTP/1.1",
            "Host: coder.demo.internal",
        ],
        vec![
            "CONNECT https://coder.demo.internal:443 HTTP/1.1",
            "Host: coder.demo.internal",
        ],
        vec!["CONNECT user:pw@coder:443 HTTP/1.1", "Host: coder:443"],
        vec!["GET http://user:pw@coder/ HTTP/1.1", "Host: coder"],
        vec!["GET http://coder@evil.example/ HTTP/1.1", "Host: evil.example"],
        vec!["GET http:///x HTTP/1.1", "Host: x"],
        vec!["GET http://127.1/ HTTP/1.1", "Host: 127.1"],
        vec!["GET http://coder\\@evil/ HTTP/1.1", "Host: coder"],
        vec!["GET http://coder/ HTTP/1.1", "Host: coder, evil"],
    ] {
        assert!(
            matches!(refused(&lines(&head)), Refusal::BadTarget(_)),
            "{head:?}"
        );
    }
}

#[test]
fn nothing_ambiguous_is_taken() {
    let start = "POST http://a/ HTTP/1.1\r\nHost: a\r\n";
    for rest in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "Content-Length: 1, 1\r\n\r\n",
        "Content-Length: +1\r\n\r\n",
        "Content-Length: 0x1\r\n\r\n",
        "Content-Length:\r\n\r\n",
        "Content-Length: 18446744073709551616\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n",
        "Host: a\r\n\r\n",
        "Host: b\r\n\r\n",
        "X: a\r\n folded\r\n\r\n",
        "X: a\r\n\tfolded\r\n\r\n",
        " Y: folded\r\n\r\n",
        "X: a\n\r\n",
        "X: a\r\n\n",
        "X: a\rb\r\n\r\n",
        "X: a\0b\r\n\r\n",
        "X y: a\r\n\r\n",
        "X\r\n\r\n",
        ": a\r\n\r\n",
        "Connection: Content-Length\r\nContent-Length: 1\r\n\r\n",
        "Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Connection: host\r\n\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Proxy-Authorization: Basic eDp5\r\nProxy-Authorization: Basic eDp5\r\n\r\n",
    ] {
        let refusal = refused(format!("{start}{rest}").as_bytes());
        assert!(matches!(refusal, Refusal::BadRequest(_)), "{rest:?}: {refusal:?}");
    }
    for head in [
        "GET http://a/ HTTP/1.1\r\n\r\n",
        "GET http://a/ HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET http://a/\r\nHost: a\r\n\r\n",
        "GET  http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\nHost: a\n\n",
        "\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GE(T http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n",
        "",
    ] {
        let refusal = refused(head.as_bytes());
        assert!(matches!(refusal, Refusal::BadRequest(_)), "{head:?}: {refusal:?}");
    }
}

#[test]
fn too_many_headers_are_too_large() {
    let mut head = vec!["GET http://a/ HTTP/1.1".to_owned(), "Host: a".to_owned()];
    head.extend((1..MAX_HEADERS).map(|index| format!("X-{index}: y")));
    let most = lines(&head.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(parse(&most).is_ok());
    head.push("X-More: y".to_owned());
    let over = lines(&head.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(matches!(refused(&over), Refusal::HeadTooLarge));
}

/// Pieces from which requests are put together at random: more likely to get past the first check than random bytes.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "GET ",
        "CONNECT ",
        "http://",
        "a.example",
        ":80",
        ":443",
        "/x",
        "?",
        "[::1]",
        "@",
        " HTTP/1.1",
        "\r\n",
        "\n",
        "\r",
        "Host: a.example",
        "Connection: ",
        "Upgrade",
        ": websocket",
        "Content-Length: 1",
        "Transfer-Encoding: chunked",
        "Proxy-Authorization: Basic eDp5",
        " ",
        "\t",
        "\0",
        "é",
        ",",
    ])
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse(&bytes).is_ok();
    }

    #[test]
    fn random_requests_never_panic_and_never_pass_a_credential_on(
        pieces in proptest::collection::vec(piece(), 0..24),
        tail in proptest::collection::vec(piece(), 0..12),
    ) {
        let start = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n";
        for head in [pieces.concat(), format!("{start}{}\r\n\r\n", tail.concat())] {
            prop_assume!(head.len() < MAX_HEAD);
            if let Ok(Request { kind: Kind::Forward(forward), .. }) = parse(head.as_bytes()) {
                let written = forward.origin_form();
                let text = String::from_utf8_lossy(&written).to_ascii_lowercase();
                prop_assert!(!text.contains("\r\nproxy-"), "{}", text);
                prop_assert!(check_lines(&written).is_ok());
                prop_assert_eq!(text.matches("\r\n\r\n").count(), 1);
                prop_assert!(text.matches("\r\nhost:").count() == 1);
            }
        }
    }
}
