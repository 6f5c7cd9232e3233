//! Devices that reach nothing but the gateway's UDP port: they join through the tunnel and stay in touch through it.
//!
//! The relay before the registry's HTTPS port passes nothing, so whatever works went through the tunnel.

use std::process::Output;

use crate::fleet::{Fleet, PATIENCE, run, write_private};

fn new_code(fleet: &Fleet, more: &[&str]) -> String {
    let mut command = fleet.registry_command();
    command.args(["join-code", "create", "--via-tunnel"]).args(more);
    fleet.answer(&mut command).trim().to_owned()
}

/// `orfe join -` with this code, on a state folder of its own.
fn join(fleet: &Fleet, state: &str, code: &str) -> Output {
    let file = fleet.path(&format!("{state}.code"));
    write_private(&file, code);
    let mut command = fleet.agent_command_at(state);
    command
        .args(["join", "-", "--name", "another"])
        .stdin(std::fs::File::open(file).unwrap());
    run(&mut command)
}

#[track_caller]
fn assert_refused(output: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in parts.iter().chain(&["hint: "]) {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
}

fn codes(fleet: &Fleet) -> String {
    fleet.answer(fleet.registry_command().args(["join-code", "list", "--json"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_with_nothing_but_the_gateways_port_joins_and_stays() {
    let mut fleet = Fleet::start_through_tunnel().await;
    fleet.wait_until_healthy().await;
    fleet.wait_for_registry("healthy").await;

    // It comes back after its own restart and after the registry's.
    fleet.stop_agent();
    fleet.start_agent();
    fleet.wait_until_healthy().await;
    fleet.wait_for_registry("healthy").await;
    drop(fleet.registry.take());
    fleet.start_registry();
    fleet.wait_for_registry("healthy").await;

    let list = fleet.answer(fleet.registry_command().args(["join-code", "list"]));
    assert!(list.contains("tunnel"), "{list}");
    let code = new_code(&fleet, &[]);
    let joined = join(&fleet, "second", &code);
    assert!(
        joined.status.success(),
        "{}",
        String::from_utf8_lossy(&joined.stderr)
    );
    assert!(String::from_utf8_lossy(&joined.stdout).contains("through the tunnel"));
    // Its key lives for a minute more, so that a lost answer can be had again; the code is used all the same.
    assert_refused(&join(&fleet, "third", &code), &["the registry refused", "used"]);
    // A registry that starts anew lets it in no more.
    drop(fleet.registry.take());
    fleet.start_registry();
    assert_refused(
        &join(&fleet, "fourth", &code),
        &["the gateway does not answer this join code", "was used"],
    );
    assert!(!fleet.path("fourth/identity.json").exists());
    assert!(!fleet.path("fourth/desired.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_that_are_good_no_more_open_nothing() {
    let fleet = Fleet::start_through_tunnel().await;
    let short = new_code(&fleet, &["--ttl", "1s"]);
    orfe_test_support::wait::wait_for("the code to expire", PATIENCE, || {
        let list = codes(&fleet);
        list.contains("expired").then_some(()).ok_or(list)
    })
    .await
    .unwrap();
    assert_refused(&join(&fleet, "a", &short), &["join code"]);

    let revoked = new_code(&fleet, &[]);
    let id = revoked
        .parse::<orfe_protocol::join_code::JoinCode>()
        .unwrap()
        .id
        .to_string();
    fleet.answer(fleet.registry_command().args(["join-code", "revoke", &id]));
    assert_refused(
        &join(&fleet, "b", &revoked),
        &["the gateway does not answer this join code", "was revoked"],
    );

    let mut two = fleet.registry_command();
    let two = run(two.args(["join-code", "create", "--via-tunnel", "--uses", "2"]));
    let said = String::from_utf8_lossy(&two.stderr);
    assert_eq!(two.status.code(), Some(2), "{said}");
    assert!(
        said.contains("has one use, not 2") && said.contains("hint: "),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_missed_the_gateways_new_key_is_let_in_by_a_new_code() {
    let mut fleet = Fleet::start_through_tunnel().await;
    fleet.wait_until_healthy().await;
    fleet.stop_agent();
    fleet.answer(fleet.registry_command().args(["gateway", "rotate-key"]));
    fleet.answer(
        fleet
            .registry_command()
            .args(["gateway", "rotate-key", "--finish"]),
    );

    let code = new_code(&fleet, &[]);
    let joined = join(&fleet, "state", &code);
    assert!(
        joined.status.success(),
        "{}",
        String::from_utf8_lossy(&joined.stderr)
    );
    fleet.start_agent();
    fleet.wait_until_healthy().await;
    fleet.wait_for_registry("healthy").await;
    let devices = fleet.devices();
    let devices = devices["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 1, "it is the same device: {devices:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_direct_way_is_taken_again_and_left_again() {
    let mut fleet = Fleet::start_through_tunnel().await;
    fleet.wait_until_healthy().await;
    assert_eq!(fleet.https.bytes(), (0, 0), "nothing went the direct way");

    // A new session goes the direct way when there is one.
    fleet.https.restore();
    fleet.stop_agent();
    fleet.start_agent();
    fleet.wait_until_healthy().await;
    fleet.wait_for_registry("healthy").await;
    let (up, _) = fleet.https.bytes();
    assert!(up > 0, "the direct way was not taken");

    // And through the tunnel when it is gone.
    fleet.https.cut();
    drop(fleet.registry.take());
    fleet.start_registry();
    fleet.wait_for_registry("healthy").await;
    fleet.wait_until_healthy().await;
}
