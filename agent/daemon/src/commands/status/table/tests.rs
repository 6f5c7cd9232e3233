use serde_json::json;

use super::*;

fn status() -> Status {
    let at = "2026-11-20T12:00:00Z";
    serde_json::from_value(json!({
        "version": 1,
        "device": {"id": "01990f3e-5d2c-7b1a-9c1e-0a1b2c3d4e5f", "name": "alices-laptop", "agent_version": "0.1.0"},
        "health": "healthy",
        "registry": {"url": "https://orfe.example.com:7443", "state": "connected"},
        "checks": [
            {"code": "tunnel", "outcome": "ok", "required": true, "message": "the tunnel to the gateway is up", "since": at},
            {"code": "docker", "outcome": "warning", "required": false, "message": "no Docker engine: not running",
             "hint": "templates that make containers need a running Docker engine", "since": at},
        ],
        "tunnel": {"phase": "up", "since": at, "last_handshake_at": "2026-11-20T12:02:48Z",
                   "endpoint": "203.0.113.7:51820", "addresses": ["100.64.0.1"], "tcp_stack": "namespace", "congestion_control": "bbr",
                   "tcp_stack_reason": "this system allows a private network namespace"},
        "provisioners": [{"slot": 0, "name": "alices-laptop-0", "state": "connected", "since": at, "pid": 7, "restarts": 1}],
        "tags": {"arch": "amd64", "gpu": "none", "os": "linux"},
        "facts": {"hostname": "h", "os": "linux", "os_version": "Debian GNU/Linux 12 (bookworm)", "arch": "amd64",
                  "cpu_model": "x", "cpu_cores": 8, "memory_mib": 31000, "docker": {"absent": {"reason": "not running"}},
                  "gpus": []},
        "desired": {"epoch": 1, "revision": 2},
        "started_at": "2026-11-20T09:00:00Z",
        "pid": 1,
        "state": "/var/lib/orfe",
    }))
    .unwrap()
}

fn page(status: &Status) -> String {
    render(status, "2026-11-20T12:03:00Z".parse().unwrap(), Style::Plain)
}

#[test]
fn a_healthy_device() {
    insta::assert_snapshot!(page(&status()), @r"
    alices-laptop   healthy

    registry     connected, https://orfe.example.com:7443/
    tunnel       up for 3 min, handshake 12 s ago, gateway 203.0.113.7:51820
                 TCP stack namespace with bbr: this system allows a private network
                 namespace
    provisioner  alices-laptop-0, connected for 3 min, restarted once

    ✓ tunnel     the tunnel to the gateway is up
    ! docker     no Docker engine: not running
                 → templates that make containers need a running Docker engine

    tags         arch=amd64 gpu=none os=linux
    machine      Debian GNU/Linux 12 (bookworm), amd64, 8 cores, 31 GiB, GPU none
    agent        0.1.0, running for 3 h
    ");
}

#[test]
fn the_carrier_and_the_path_are_shown_and_what_stands_in_the_way() {
    let mut status = status();
    let tunnel = status.tunnel.as_mut().unwrap();
    tunnel.carrier = serde_json::from_value(json!({
        "carrier": "websocket", "endpoint": "wss://orfe.example.com:7443/agent/v1/tunnel",
        "since": "2026-11-20T12:01:00Z"
    }))
    .unwrap();
    tunnel.path = serde_json::from_value(json!({"rtt_ms": 41.5, "loss_percent": 8.3, "mtu": 1420})).unwrap();
    tunnel.obstacle = Some("this network passes no UDP to the gateway; it goes over WebSocket".into());
    let page = page(&status);
    let tunnel: Vec<&str> = page.lines().skip(3).take(7).collect();
    insta::assert_snapshot!(tunnel.join("\n"), @r"
    tunnel       up for 3 min, handshake 12 s ago
                 TCP stack namespace with bbr: this system allows a private network
                 namespace
                 over WebSocket for 2 min through
                 wss://orfe.example.com:7443/agent/v1/tunnel
                 round trip 41.5 ms, loss 8.3 %, path MTU 1420
                 ! this network passes no UDP to the gateway; it goes over WebSocket
    ");
    assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
}

#[test]
fn a_tunnel_that_cannot_be_started_tries_no_way_and_says_why() {
    let mut status = status();
    let mut tunnel = TunnelStatus::new(
        TunnelPhase::Down,
        "2026-11-20T12:00:00Z".parse().unwrap(),
        "namespace",
    );
    tunnel.obstacle = Some("the tunnel cannot be started: no namespace (allow it)".into());
    tunnel.start = TunnelStart::Refused;
    status.tunnel = Some(tunnel.clone());
    insta::assert_snapshot!(page(&status).lines().skip(3).take(3).collect::<Vec<_>>().join("\n"), @r"
    tunnel       down for 3 min, no handshake yet
                 TCP stack namespace
                 ! the tunnel cannot be started: no namespace (allow it)
    ");
    // A started one that nothing answers does try.
    tunnel.start = TunnelStart::Granted;
    status.tunnel = Some(tunnel);
    assert!(page(&status).contains("each is tried in turn"));
}

#[test]
fn what_is_wrong_stands_where_it_is_wrong() {
    let mut status = status();
    status.health = Health::Unhealthy;
    status.registry.state = "waiting".into();
    status.registry.reason =
        Some("cannot reach the registry at orfe.example.com:7443: connection refused".into());
    status.provisioners[0].state = ProvisionerState::Rejected;
    status.provisioners[0].reason = Some(
        "Coder forbids this provisioner (403): External provisioner daemons is an Enterprise feature.".into(),
    );
    let page = page(&status);
    insta::assert_snapshot!(page.lines().take(13).collect::<Vec<_>>().join("\n"), @r"
    alices-laptop   unhealthy

    registry     waiting, https://orfe.example.com:7443/
                 cannot reach the registry at orfe.example.com:7443: connection
                 refused
    tunnel       up for 3 min, handshake 12 s ago, gateway 203.0.113.7:51820
                 TCP stack namespace with bbr: this system allows a private network
                 namespace
    provisioner  alices-laptop-0, rejected for 3 min, restarted once
                 Coder forbids this provisioner (403): External provisioner daemons
                 is an Enterprise feature.
                 its output: /var/lib/orfe/slots/0/provisioner.log
    ");
}

#[test]
fn the_tcp_stack_is_named_with_its_reason() {
    let mut status = status();
    let tunnel = status.tunnel.as_mut().unwrap();
    tunnel.tcp_stack = "smoltcp".into();
    tunnel.congestion_control = None;
    tunnel.tcp_stack_reason = Some(
        "no private network namespace here: making a namespace was refused (Operation not permitted)".into(),
    );
    let page = page(&status);
    insta::assert_snapshot!(page.lines().skip(3).take(4).collect::<Vec<_>>().join("\n"), @r"
    tunnel       up for 3 min, handshake 12 s ago, gateway 203.0.113.7:51820
                 TCP stack smoltcp: no private network namespace here: making a
                 namespace was refused (Operation not permitted)
    provisioner  alices-laptop-0, connected for 3 min, restarted once
    ");
}

#[test]
fn the_ways_of_workspace_containers_are_shown_each_with_what_is_wrong_with_it() {
    let mut status = status();
    let mut shown = |containers: serde_json::Value| {
        status.containers = Some(serde_json::from_value(containers).unwrap());
        let page = page(&status);
        let rows = page
            .lines()
            .skip_while(|line| !line.starts_with("provisioner"))
            .skip(1);
        rows.take_while(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    };
    insta::assert_snapshot!(shown(json!({
        "state": "ready", "network": "orfe", "names": ["coder.example.com"],
        "host_gateway": {"address": "172.17.0.1", "bridge": "docker0", "ports": [80, 443]},
    })), @r"
    containers   ready: network `orfe` reaches coder.example.com
    host gateway listening at 172.17.0.1, port 80, 443, for bridge `docker0`
    ");
    insta::assert_snapshot!(shown(json!({
        "state": "failed", "network": "orfe", "names": ["coder.example.com"], "reason": "no such image",
    })), @r"
    containers   failed: network `orfe` is to reach coder.example.com
                 no such image
    ");
    insta::assert_snapshot!(shown(json!({
        "state": "no_docker", "network": "orfe", "names": ["coder.example.com"], "reason": "no engine",
        "host_gateway": {"reason": "no engine"},
    })), @r"
    host gateway not listening
                 no engine
    ");
}

#[test]
fn every_line_fits_and_colour_is_only_for_terminals() {
    let text = page(&status());
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    assert!(!text.contains('\x1b'));
    let coloured = render(&status(), Timestamp::UNIX_EPOCH, Style::Colour);
    assert!(coloured.contains("\x1b[32mhealthy\x1b[0m"));
}

#[test]
fn ages() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    for (seconds, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (172_800, "2 days"),
    ] {
        assert_eq!(age(at(0), at(seconds)), text);
    }
    assert_eq!(age(at(10), at(0)), "0 s");
}

#[test]
fn nothing_steers_the_terminal() {
    let mut status = status();
    status.provisioners[0].state = ProvisionerState::Backoff;
    status.provisioners[0].reason = Some("\u{1b}[2Jgone\u{7}".into());
    assert!(!page(&status).contains(['\u{1b}', '\u{7}']));
}
