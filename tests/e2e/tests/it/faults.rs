//! What is killed or cut comes back by itself, and nothing is joined anew.

use nix::sys::signal::Signal;
use orfe_test_support::process::ProcessGuard;
use orfe_test_support::wait::wait_for;

use crate::fleet::{DEVICE, Fleet, PATIENCE, run};
use crate::processes;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_child_and_agent_are_killed_in_turn_and_the_device_is_healthy_again() {
    if !processes::shown() {
        return;
    }
    let mut fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;
    fleet.wait_for_registry("healthy").await;
    let identity = std::fs::read(fleet.path("state/identity.json")).unwrap();
    let device = fleet.devices()["devices"][0]["id"].clone();
    assert!(device.is_string(), "{}", fleet.devices());

    // The registry.
    processes::kill_9(fleet.registry.take().unwrap().pid());
    fleet.start_registry();
    fleet.wait_for_registry("healthy").await;
    assert_eq!(
        fleet.devices()["devices"][0]["id"],
        device,
        "the same device, not a new one"
    );

    // The child.
    let child = fleet.child().unwrap();
    processes::kill_9(child);
    let healthy_with_another = |status: &serde_json::Value| {
        let pid = status["provisioners"][0]["pid"].as_u64();
        status["health"] == "healthy" && pid.is_some_and(|pid| pid != u64::from(child))
    };
    fleet
        .wait_for_status("another child to be healthy", healthy_with_another)
        .await;

    // The daemon itself: what it left running is adopted or ended, never doubled.
    let before = fleet.child().unwrap();
    processes::kill_9(fleet.agent.take().unwrap().pid());
    fleet.start_agent();
    fleet.wait_until_healthy().await;
    let children = fleet.children();
    assert_eq!(
        children.len(),
        1,
        "one child, the orphan {before} or its successor: {children:?}"
    );
    assert_eq!(fleet.child(), Some(children[0]));

    fleet.wait_for_registry("healthy").await;
    assert_eq!(
        std::fs::read(fleet.path("state/identity.json")).unwrap(),
        identity,
        "it did not join anew"
    );
    assert_eq!(fleet.devices()["devices"][0]["id"], device);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_starts_and_works_while_the_registry_cannot_be_reached() {
    if !processes::shown() {
        return;
    }
    let mut fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;
    fleet.stop_agent();
    assert_eq!(
        fleet.children(),
        Vec::<u32>::new(),
        "the daemon leaves no child when it is asked to end"
    );

    // Neither way leads to the registry: the direct one is cut, and the state on disk is of a registry that tells no other.
    forget_inner_way(&fleet);
    fleet.https.cut();
    fleet.start_agent();
    let status = fleet.wait_until_healthy().await;

    let checks = status["checks"].as_array().unwrap();
    let registry = checks.iter().find(|check| check["code"] == "registry").unwrap();
    assert_ne!(registry["outcome"], "ok", "the session cannot stand: {registry}");
    assert_eq!(registry["required"], false, "{registry}");

    fleet.https.restore();
    fleet.wait_for_registry("healthy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on() {
    let fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;

    let mut second = fleet.agent_command();
    second.arg("run").env("ORFE_CONTROL", fleet.path("second.sock"));
    let output = run(&mut second);

    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") && said.contains("hint: "), "{said}");
    assert!(
        said.contains(&fleet.path("state").display().to_string()),
        "names the folder: {said}"
    );
    let status = fleet.status().unwrap();
    assert_eq!(status["health"], "healthy", "{status}");
    assert_eq!(status["device"]["name"], DEVICE, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_running_devices_state_leaves_its_child_alone() {
    if !processes::shown() {
        return;
    }
    let fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;
    let child = fleet.child().unwrap();
    let copied = run(std::process::Command::new("cp")
        .args(["-a"])
        .arg(fleet.path("state"))
        .arg(fleet.path("copy")));
    assert!(copied.status.success(), "{copied:?}");

    let mut command = fleet.agent_command_with("copy", "copy.sock");
    let mut copy = ProcessGuard::spawn(command.arg("run"), &fleet.path("log"), "copy").unwrap();
    // Once it starts a child of its own, it is done with what an earlier life left in the slot.
    wait_for("a child of the copy", PATIENCE, || {
        let another = fleet.children().into_iter().any(|pid| pid != child);
        another
            .then_some(())
            .ok_or_else(|| copy.stderr_lines().join("\n"))
    })
    .await
    .unwrap();
    assert!(fleet.children().contains(&child), "{:?}", copy.stderr_lines());
    let said = copy.stderr_lines().join("\n");
    assert!(
        said.contains("it is left alone") && !said.contains("earlier"),
        "{said}"
    );

    processes::send(copy.pid(), Signal::SIGTERM);
    wait_for("the copy to end", PATIENCE, || {
        copy.try_wait()
            .unwrap()
            .ok_or_else(|| copy.stderr_lines().join("\n"))
    })
    .await
    .unwrap();
    assert!(fleet.children().contains(&child));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stops_ends_what_an_earlier_life_left() {
    if !processes::shown() {
        return;
    }
    let mut fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;
    fleet.stop_agent();
    fleet.spoil_children("ignore-term", 2);
    fleet.start_agent();
    fleet.wait_until_healthy().await;
    let orphan = fleet.child().unwrap();
    processes::kill_9(fleet.agent.take().unwrap().pid());
    assert_eq!(
        fleet.children(),
        [orphan],
        "a killed daemon leaves its child running"
    );

    fleet.start_agent();
    fleet
        .wait_for_status("the orphan to be known", |status| {
            let reason = status["provisioners"][0]["reason"].as_str().unwrap_or_default();
            reason.contains("earlier run")
        })
        .await;
    fleet.stop_agent();
    assert_eq!(
        fleet.children(),
        [0_u32; 0],
        "it ignores SIGTERM, and still nothing is left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_stops_working_and_forgets_the_credential() {
    if !processes::shown() {
        return;
    }
    let fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;
    fleet.answer(fleet.registry_command().args(["device", "revoke", DEVICE]));
    fleet
        .wait_for_status("the device to know that it was revoked", |status| {
            let checks = status["checks"].as_array().unwrap();
            let told = checks.iter().any(|check| {
                check["code"] == "registry" && check["outcome"] == "failed" && check["required"] == true
            });
            told && status["health"] == "unhealthy" && status["provisioners"] == serde_json::json!([])
        })
        .await;
    assert!(
        !fleet.path("state/desired.json").exists(),
        "the PSK is still on disk"
    );
    assert_eq!(fleet.children(), [0_u32; 0]);
}

/// Takes out of the desired state on disk where the registry answers inside the tunnel.
fn forget_inner_way(fleet: &Fleet) {
    let path = fleet.path("state/desired.json");
    let mut desired: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let gateway = desired["tunnel"]["gateway"].as_object_mut().unwrap();
    assert!(gateway.remove("registry").is_some(), "{gateway:?}");
    std::fs::write(&path, serde_json::to_vec(&desired).unwrap()).unwrap();
}
