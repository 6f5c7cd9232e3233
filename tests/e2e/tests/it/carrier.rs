//! A laptop's life: networks that block UDP, and networks that change.
//!
//! Traffic is what the device's own proxy fetches from Coder through the tunnel, one small page after the other; a gap is the
//! time from the change to the end of the next page that was asked for after it. Gaps are printed, and held to bounds that a
//! busy machine keeps, too.

use std::process::Stdio;
use std::time::{Duration, Instant};

use orfe_test_support::relay::connect::ConnectProxy;
use serde_json::Value;

use crate::fleet::Fleet;
use crate::lab::Lab;
use crate::processes;

/// From a blocked rung to traffic over a lower one, at the most.
const TO_ANOTHER: Duration = Duration::from_secs(5);
/// From a roam to traffic: wanted is 3 s in 95 of 100; on a machine that does much else it may be twice that.
const TO_ROAM: Duration = Duration::from_secs(6);
/// Roams that are measured.
const ROAMS: usize = 12;

fn carrier(status: &Value) -> Option<&str> {
    status["tunnel"]["carrier"]["carrier"].as_str()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_gateway_port_is_passed_by_over_websocket_and_taken_again() {
    if !processes::shown() {
        return;
    }
    let fleet = Fleet::start().await;
    let status = fleet.wait_until_healthy().await;
    assert_eq!(carrier(&status), Some("udp"), "{status}");

    fleet.wireguard.stop();
    let status = fleet
        .wait_for_status("the tunnel over WebSocket", |status| {
            carrier(status) == Some("websocket")
        })
        .await;
    let obstacle = status["tunnel"]["obstacle"].as_str().unwrap_or_default();
    assert!(obstacle.contains("no UDP"), "{status}");
    let status = fleet.wait_until_healthy().await;
    let check = status["checks"].as_array().unwrap();
    let check = check.iter().find(|check| check["code"] == "tunnel").unwrap();
    assert!(check["message"].as_str().unwrap().contains("no UDP"), "{check}");
    let remembered = std::fs::read_to_string(fleet.path("state/networks.json")).unwrap();
    assert!(remembered.contains("websocket"), "{remembered}");

    fleet.wireguard.resume();
    fleet
        .wait_for_status("the tunnel over UDP again", |status| {
            carrier(status) == Some("udp") && status["tunnel"]["obstacle"].is_null()
        })
        .await;
    fleet.wait_until_healthy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_udp_and_a_new_address_are_got_over_under_load() {
    if !processes::shown() {
        return;
    }
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(reason) => {
            eprintln!("SKIPPED: a device in a network of its own: {reason}");
            return;
        }
    };
    let also = format!("[tunnel]\nalso_listen = [\"{}:443\"]\n", lab.host);
    let fleet = Fleet::start_with(&also, Some(lab)).await;
    let status = fleet.wait_until_healthy().await;
    assert_eq!(carrier(&status), Some("udp"), "{status}");
    let load = Load::new(&fleet);
    load.next_page(Duration::from_secs(20)).await;

    let lab = fleet.lab.as_ref().unwrap();
    let port = format!("udp dport {}", fleet.listen.1.port());
    lab.block(&[&port]).unwrap();
    let gap = load.next_page(Duration::from_secs(30)).await;
    println!(
        "the UDP port blocked to traffic over the other: {} ms",
        gap.as_millis()
    );
    assert!(gap <= TO_ANOTHER, "{gap:?}");
    let status = fleet.status().unwrap();
    assert_eq!(carrier(&status), Some("udp_443"), "{status}");

    lab.block(&["meta l4proto udp"]).unwrap();
    let gap = load.next_page(Duration::from_secs(30)).await;
    println!("UDP blocked to traffic over WebSocket: {} ms", gap.as_millis());
    assert!(gap <= TO_ANOTHER, "{gap:?}");
    let status = fleet.status().unwrap();
    assert_eq!(carrier(&status), Some("websocket"), "{status}");

    lab.unblock().unwrap();
    fleet
        .wait_for_status("the tunnel over UDP again", |status| {
            carrier(status) == Some("udp")
        })
        .await;

    let mut gaps = Vec::new();
    for roam in 0..ROAMS {
        lab.move_to(if roam % 2 == 0 { 3 } else { 2 }).unwrap();
        gaps.push(load.next_page(Duration::from_secs(30)).await);
    }
    gaps.sort_unstable();
    let milliseconds: Vec<u128> = gaps.iter().map(Duration::as_millis).collect();
    println!("roam to traffic, {ROAMS} times: {milliseconds:?} ms");
    assert!(gaps[ROAMS - 1] <= TO_ROAM, "{milliseconds:?}");
    fleet.wait_until_healthy().await;
}

/// Where nothing gets out but to an HTTP proxy, with a credential of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_http_proxy_is_the_way_where_nothing_else_gets_out() {
    if !processes::shown() {
        return;
    }
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(reason) => {
            eprintln!("SKIPPED: a device behind an HTTP proxy: {reason}");
            return;
        }
    };
    let open = ConnectProxy::start(lab.host, None).await.unwrap();
    let closed = ConnectProxy::start(lab.host, Some(("orfe", "p@ss/word")))
        .await
        .unwrap();
    let mut fleet = Fleet::start_with("", Some(lab)).await;
    fleet.wait_until_healthy().await;
    let through =
        |proxy: &ConnectProxy, user: &str| vec![("HTTPS_PROXY", format!("http://{user}{}", proxy.address()))];

    // An open proxy; the network changes under a daemon that runs.
    fleet.stop_agent();
    fleet.agent_environment = through(&open, "");
    let ports = format!(
        "tcp dport != {{ {}, {} }}",
        open.address().port(),
        closed.address().port()
    );
    fleet
        .lab
        .as_ref()
        .unwrap()
        .block(&["meta l4proto udp", &ports])
        .unwrap();
    fleet.start_agent();
    fleet
        .wait_for_status("the tunnel through the proxy", |status| {
            carrier(status) == Some("websocket")
        })
        .await;
    fleet.wait_until_healthy().await;
    Load::new(&fleet).next_page(Duration::from_secs(20)).await;
    let connect = format!("CONNECT {} HTTP/1.1", fleet.listen.0);
    assert!(
        open.seen()
            .iter()
            .any(|seen| seen.line == connect && seen.status == 200),
        "{:?}",
        open.seen()
    );

    // A proxy that asks for a credential, which is wrong.
    fleet.stop_agent();
    fleet.agent_environment = through(&closed, "orfe:wrong@");
    fleet.start_agent();
    let status = fleet
        .wait_for_status("the proxy's refusal", |status| {
            let obstacle = status["tunnel"]["obstacle"].as_str().unwrap_or_default();
            let reason = status["registry"]["reason"].as_str().unwrap_or_default();
            [obstacle, reason].iter().all(|text| text.contains("407"))
        })
        .await;
    let obstacle = status["tunnel"]["obstacle"].as_str().unwrap();
    for part in [&closed.address().to_string(), "user name", "HTTPS_PROXY"] {
        assert!(obstacle.contains(part), "{obstacle}");
    }
    assert!(!status.to_string().contains("wrong"), "{status}");

    // And the right one, in the file, which goes before what the environment says to everybody.
    fleet.stop_agent();
    let url = format!("http://orfe:p%40ss%2Fword@{}", closed.address());
    std::fs::write(
        fleet.path("agent.toml"),
        format!("[http_proxy]\nurl = \"{url}\"\n"),
    )
    .unwrap();
    fleet.start_agent();
    fleet.wait_until_healthy().await;
    Load::new(&fleet).next_page(Duration::from_secs(20)).await;
    assert!(!fleet.logs("agent").contains("p%40ss"), "{}", fleet.logs("agent"));
    let shown = fleet.answer(fleet.agent_command().args(["config", "show", "--origin"]));
    let row = shown
        .lines()
        .find(|line| line.starts_with("http_proxy.url"))
        .unwrap();
    assert!(
        row.contains("file") && row.contains(&closed.address().to_string()),
        "{shown}"
    );
    assert!(!shown.contains("p%40ss") && !shown.contains("p@ss"), "{shown}");
}

/// What fetches Coder's page through the device's proxy.
struct Load<'a> {
    fleet: &'a Fleet,
    proxy: String,
}

impl<'a> Load<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        let seat = std::fs::read(fleet.path("state/proxy-0.json")).unwrap();
        let seat: Value = serde_json::from_slice(&seat).unwrap();
        let credential = seat["credential"].as_str().unwrap();
        Self {
            fleet,
            proxy: format!("http://orfe:{credential}@127.0.0.1:{}", seat["port"]),
        }
    }

    /// Fetches until it succeeds, each time with a new connection, as a child that was cut does; the time it took.
    async fn next_page(&self, limit: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            let mut command = tokio::process::Command::from(self.fleet.lab.as_ref().unwrap().command());
            command
                .args([
                    "curl",
                    "--silent",
                    "--insecure",
                    "--fail",
                    "--max-time",
                    "1",
                    "--proxy",
                    &self.proxy,
                ])
                .arg("https://coder.demo.internal/healthz")
                .stdout(Stdio::null())
                .kill_on_drop(true);
            if command.status().await.unwrap().success() {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < limit,
                "no traffic for {limit:?}: {:?}\n{}",
                self.fleet.status(),
                self.fleet.logs("agent")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
