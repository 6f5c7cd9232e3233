//! The child reaches Coder through proxy, tunnel and gateway, and in no other way.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::fleet::Fleet;
use crate::processes;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_udp_nothing_reaches_coder_where_udp_is_the_only_carrier() {
    if !processes::shown() {
        return;
    }
    let fleet = Fleet::start_with("[tunnel]\nwebsocket = false\n", None).await;
    nothing_reaches_coder_without(&fleet, || fleet.wireguard.stop(), || fleet.wireguard.resume()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_every_carrier_nothing_reaches_coder() {
    if !processes::shown() {
        return;
    }
    let fleet = Fleet::start().await;
    let stop = || {
        fleet.wireguard.stop();
        fleet.https.blackhole();
    };
    let resume = || {
        fleet.wireguard.resume();
        fleet.https.restore();
    };
    nothing_reaches_coder_without(&fleet, stop, resume).await;
}

/// Takes the tunnel's ways away, gives them back, and looks at who ever reached Coder.
async fn nothing_reaches_coder_without(fleet: &Fleet, stop: impl Fn(), resume: impl Fn()) {
    fleet.wait_until_healthy().await;

    stop();
    let before = visitors(&fleet.record());
    assert!(!before.is_empty(), "the child was connected");
    let failed_before = failed_dials(fleet);
    // A new child must dial, now that there is no way.
    let child = fleet.child().unwrap();
    processes::kill_9(child);
    fleet
        .wait_for_status("another child whose dial fails", |status| {
            let pid = status["provisioners"][0]["pid"].as_u64();
            let another = pid.is_some_and(|pid| pid != u64::from(child));
            another && failed_dials(fleet) > failed_before && status["health"] != "healthy"
        })
        .await;
    assert_eq!(
        visitors(&fleet.record()),
        before,
        "something reached Coder past the tunnel"
    );

    resume();
    fleet.wait_until_healthy().await;
    let after = visitors(&fleet.record());
    assert!(
        after.len() > before.len(),
        "the new child came through the tunnel"
    );

    let by_gateway = gateway_connections(&fleet.logs("registry"));
    let past_it: Vec<&String> = after.difference(&by_gateway).collect();
    assert!(
        past_it.is_empty(),
        "{past_it:?} were not made by the gateway, which made {by_gateway:?}"
    );
}

/// How often the provisioner said that it could not reach Coder.
fn failed_dials(fleet: &Fleet) -> usize {
    let log = std::fs::read_to_string(fleet.path("state/slots/0/provisioner.log")).unwrap_or_default();
    log.matches("coderd client failed to dial").count()
}

/// The addresses that the stand-in was ever connected from.
fn visitors(record: &[Value]) -> BTreeSet<String> {
    record
        .iter()
        .filter_map(|entry| entry["peer"].as_str().map(str::to_owned))
        .collect()
}

/// The gateway's own end of each connection that it made, from its log (`local=ADDRESS`).
fn gateway_connections(log: &str) -> BTreeSet<String> {
    log.lines()
        .filter_map(|line| line.split("local=").nth(1))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(|address| address.trim_matches('"').to_owned())
        .collect()
}
