//! TUN mode between network namespaces: both families inside and outside, with and without offloads, against ourselves and
//! against wireguard-go; containers behind a bridge; and what a killed process leaves.
//!
//! Needs root, `/dev/net/tun` and `ip`; wireguard-go and `nft` for some. What is missing is said, and that test is skipped.

mod ends;
mod lab;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use orfe_test_support::lab::ends::tcp_of;
use orfe_test_support::lab::namespace;
use orfe_test_support::lab::program::Program;
use serde_json::json;

use self::ends::{End, Keys, WireguardGo};
use self::lab::{Lab, Outer};

/// One way through the lab.
#[derive(Debug, Clone, Copy)]
struct Way {
    outer: Outer,
    offload: bool,
    segmentation: bool,
}

const PLAIN: Way = Way {
    outer: Outer::V4,
    offload: true,
    segmentation: true,
};

/// Bytes of each transfer: many large packets, and less than a second without offloads.
const BYTES: usize = 12_000_000;

#[test]
fn tcp_passes_both_ways_in_every_combination() {
    let Some(lab) = Lab::new("tcp", 2) else { return };
    for way in [
        PLAIN,
        Way {
            outer: Outer::V6,
            ..PLAIN
        },
        Way {
            offload: false,
            ..PLAIN
        },
        Way {
            segmentation: false,
            ..PLAIN
        },
    ] {
        let (left, right) = (Keys::new(), Keys::new());
        let _left = End::start(
            &lab,
            0,
            &way_config(&lab, way, 0, &left, &right),
            way.segmentation,
        );
        let _right = End::start(
            &lab,
            1,
            &way_config(&lab, way, 1, &right, &left),
            way.segmentation,
        );
        for inner in [lab::inner_v4(1, 0), lab::inner_v6(1, 0)] {
            lab.transfer(0, 1, inner, BYTES);
        }
        lab.transfer(1, 0, lab::inner_v4(0, 0), BYTES);
        lab.transfer(1, 0, lab::inner_v6(0, 0), BYTES);
    }
}

#[test]
fn wireguard_go_is_at_the_other_end() {
    let Some(binary) = ends::wireguard_go() else {
        return;
    };
    let Some(lab) = Lab::new("wggo", 2) else { return };
    let (left, right) = (Keys::new(), Keys::new());
    let _left = End::start(&lab, 0, &way_config(&lab, PLAIN, 0, &left, &right), true);
    let _right = WireguardGo::start(&lab, 1, &binary, &right, &left);
    for inner in [lab::inner_v4(1, 0), lab::inner_v6(1, 0)] {
        lab.transfer(0, 1, inner, BYTES);
    }
    lab.transfer(1, 0, lab::inner_v4(0, 0), BYTES);
    lab.transfer(1, 0, lab::inner_v6(0, 0), BYTES);
}

#[test]
fn containers_of_a_bridge_use_the_tunnel_and_a_killed_process_leaves_nothing_after_the_next_start() {
    if let Some(reason) = namespace::obstacle(&[("nft", "nftables")]) {
        crate::announce(&format!("SKIPPED: containers behind a bridge: {reason}"));
        return;
    }
    let Some(lab) = Lab::new("host", 3) else { return };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (left, right) = (Keys::new(), Keys::new());
    let mut config = way_config(&lab, PLAIN, 0, &left, &right);
    // A host address alone, so that the route is the one that is asked for.
    config["addresses"] = json!(["10.98.7.1/32"]);
    config["host"] = json!({"networks": ["10.98.7.0/24"], "bridges": [lab.bridge()], "state": state});
    let mut without = config.clone();
    without["host"]["bridges"] = json!([]);

    let _right = End::start(&lab, 1, &way_config(&lab, PLAIN, 1, &right, &left), true);
    assert_eq!(lab.forwarding(0), "0", "the lab forwards nothing");
    let tunnel = End::start(&lab, 0, &config, true);
    lab.transfer(0, 1, lab::inner_v4(1, 0), BYTES);
    // Namespace 2 stands for a container: its only way out is the bridge.
    lab.transfer(2, 1, lab::inner_v4(1, 0), BYTES);
    assert_eq!(lab.tables(0), ["table inet orfe_tun0"]);
    assert_eq!(lab.forwarding(0), "1");

    tunnel.kill();
    assert_eq!(
        lab.tables(0),
        ["table inet orfe_tun0"],
        "a killed process takes nothing back"
    );
    assert_eq!(
        lab.routes(0, "10.98.7.0/24"),
        "",
        "the device took its route along"
    );
    let tunnel = End::start(&lab, 0, &without, true);
    assert_eq!(lab.forwarding(0), "0", "the next start takes back what was left");
    lab.transfer(0, 1, lab::inner_v4(1, 0), BYTES);
    tunnel.stop();

    let tunnel = End::start(&lab, 0, &config, true);
    assert_eq!(lab.forwarding(0), "1");
    tunnel.stop();
    assert_eq!(
        lab.tables(0),
        [""; 0],
        "an end that is stopped takes all of it back"
    );
    assert_eq!(lab.forwarding(0), "0");
    assert_eq!(fs::read_to_string(state.join("tun-changes")).unwrap(), "");
}

#[test]
fn whom_nobody_chose_is_kept_out_and_the_gateway_opens_nothing_here() {
    if let Some(reason) = namespace::obstacle(&[("nft", "nftables"), ("ping", "iputils-ping")]) {
        crate::announce(&format!("SKIPPED: the guarded device: {reason}"));
        return;
    }
    let Some(lab) = Lab::new("guard", 3) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (left, right) = (Keys::new(), Keys::new());
    let mut config = way_config(&lab, PLAIN, 0, &left, &right);
    config["addresses"] = json!(["10.98.7.1/32", "fd98::1/128"]);
    let networks = ["10.98.7.0/24", "fd98::/64"];
    config["host"] = json!({"networks": networks, "bridges": [], "state": folder.path().join("state")});
    // What else the gateway may try: an address of this host outside the tunnel, and a container's.
    let outside = [lab::bridge_v4(0, 0), lab::bridge_v4(2, 0)].map(|address| address.ip());
    let mut far = way_config(&lab, PLAIN, 1, &right, &left);
    let allowed = far["peers"][0]["allowed_ips"].as_array_mut().unwrap();
    allowed.extend(outside.map(|address| json!(address)));
    lab.forward_all_as_an_engine_does();

    let _right = End::start(&lab, 1, &far, true);
    for address in outside {
        lab.route(1, address, "tun0");
    }
    let tunnel = End::start(&lab, 0, &config, true);
    assert_eq!(lab.tables(0), ["table inet engine", "table inet orfe_tun0"]);
    for inner in [lab::inner_v4(1, 0), lab::inner_v6(1, 0)] {
        lab.transfer(0, 1, inner, BYTES);
        lab.assert_unreachable(2, 1, inner);
    }
    for own in [lab::inner_v4(0, 0), lab::inner_v6(0, 0)] {
        lab.ping(1, own.ip());
        lab.assert_unreachable(1, 0, own);
    }
    lab.assert_unreachable(1, 0, lab::bridge_v4(0, 0));
    lab.assert_unreachable(1, 2, lab::bridge_v4(2, 0));
    // Others reach this host as before.
    lab.transfer(2, 0, lab::bridge_v4(0, 0), BYTES);
    tunnel.stop();

    // The same when a bridge is chosen, beside that.
    config["host"]["bridges"] = json!([lab.bridge()]);
    let tunnel = End::start(&lab, 0, &config, true);
    for inner in [lab::inner_v4(1, 0), lab::inner_v6(1, 0)] {
        lab.transfer(2, 1, inner, BYTES);
    }
    lab.assert_unreachable(1, 0, lab::inner_v4(0, 0));
    lab.assert_unreachable(1, 0, lab::bridge_v4(0, 0));
    lab.assert_unreachable(1, 2, lab::bridge_v4(2, 0));
    tunnel.stop();
    assert_eq!(lab.tables(0), ["table inet engine"]);
}

#[test]
fn without_nft_tun_mode_starts_where_no_bridge_is_chosen() {
    let Some(lab) = Lab::new("no nft", 3) else { return };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (left, right) = (Keys::new(), Keys::new());
    let mut config = way_config(&lab, PLAIN, 0, &left, &right);
    config["addresses"] = json!(["10.98.7.1/32"]);
    config["host"] = json!({"networks": ["10.98.7.0/24"], "bridges": [], "state": state});
    let _right = End::start(&lab, 1, &way_config(&lab, PLAIN, 1, &right, &left), true);
    let tunnel = End::start_without_programs(&lab, 0, &config);
    lab.transfer(0, 1, lab::inner_v4(1, 0), BYTES);
    tunnel.stop();
    assert_eq!(fs::read_to_string(state.join("tun-changes")).unwrap(), "");
    config["host"]["bridges"] = json!([lab.bridge()]);
    let said = End::refused_without_programs(&lab, 0, &config);
    assert!(said.contains("install nftables"), "{said}");
}

#[test]
fn a_network_that_contains_the_gateway_is_refused() {
    let Some(lab) = Lab::new("loop", 2) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut config = way_config(&lab, PLAIN, 0, &Keys::new(), &Keys::new());
    config["host"] = json!({"networks": ["10.99.0.0/16"], "state": folder.path().join("state")});
    let said = End::refused(&lab, 0, &config);
    assert!(said.contains("contains the gateway's own address"), "{said}");
}

#[tokio::test]
async fn a_gateway_says_which_tcp_it_got() {
    let folder = tempfile::tempdir().unwrap();
    let start = async |tcp_stack: &str| {
        let config = json!({
            "mode": "gateway",
            "private_key": Keys::new().private,
            "listen": "127.0.0.1:0",
            "addresses": ["10.98.0.254/24"],
            "peers": [],
            "tcp_stack": tcp_stack,
        });
        let command = Command::new(env!("CARGO_BIN_EXE_tunnel-end"));
        let mut end = Program::start(command, tcp_stack, folder.path()).unwrap();
        end.ask(&config.to_string(), Duration::from_secs(20)).await
    };
    let fixed = tcp_of(&start("smoltcp").await.unwrap()).unwrap().unwrap();
    assert_eq!(
        (fixed.stack.as_str(), fixed.congestion_control),
        ("smoltcp", None)
    );
    // What this machine allows is told by the other one, which is refused where there is no namespace.
    let auto = tcp_of(&start("auto").await.unwrap()).unwrap().unwrap();
    match start("namespace").await {
        Ok(ready) => {
            let fixed = tcp_of(&ready).unwrap().unwrap();
            assert_eq!((&*fixed.stack, &*auto.stack), ("namespace", "namespace"));
            assert!(fixed.congestion_control.is_some(), "{ready}");
        }
        Err(refused) => {
            assert!(refused.to_string().contains("namespace"), "{refused}");
            assert_eq!(auto.stack, "smoltcp");
        }
    }
    let odd = start("bsd").await.unwrap_err().to_string();
    assert!(odd.contains("a TCP stack is `auto`"), "{odd}");
}

fn way_config(lab: &Lab, way: Way, number: usize, own: &Keys, other: &Keys) -> serde_json::Value {
    let peer = 1 - number;
    let endpoint: SocketAddr = lab.outer(way.outer, peer);
    json!({
        "mode": "tun",
        "private_key": own.private,
        "listen": if matches!(way.outer, Outer::V4) { "0.0.0.0:51820" } else { "[::]:51820" },
        // Room for the headers of IPv6 outside.
        "mtu": 1420,
        "addresses": [
            format!("{}/24", lab::inner_v4(number, 0).ip()),
            format!("{}/64", lab::inner_v6(number, 0).ip()),
        ],
        "device": "tun0",
        "offload": way.offload,
        "peers": [{
            "public_key": other.public,
            "endpoint": endpoint,
            "allowed_ips": [lab::inner_v4(peer, 0).ip(), lab::inner_v6(peer, 0).ip()],
            "keepalive": if number == 0 { Some(25) } else { None },
        }],
    })
}
