//! Who terminates TLS in between reads nothing, forges nothing, replays nothing, in either direction.

use orfe_test_support::terminator::{Attack, Direction, Plan, Terminator};
use serde_json::Value;

use crate::fleet::{Fleet, PSK};

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Sends the device's session through `terminator`: its address takes the place of the registry's.
fn reroute(fleet: &Fleet, terminator: &Terminator) {
    let path = fleet.path("state/identity.json");
    let mut identity: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    identity["registry_url"] = format!("https://{}", terminator.address()).into();
    std::fs::write(&path, identity.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminator_of_tls_reads_forges_and_replays_nothing() {
    let mut fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;
    fleet.stop_agent();
    let (certificate, key) = (fleet.path("registry/tls.pem"), fleet.path("registry/tls.key"));
    let terminator = Terminator::start(fleet.listen.0, &certificate, &key)
        .await
        .unwrap();
    reroute(&fleet, &terminator);
    // Without a desired state on disk it has to come through the terminator, PSK included.
    std::fs::remove_file(fleet.path("state/desired.json")).unwrap();

    fleet.start_agent();
    let connected = |status: &Value| status["registry"]["state"] == "connected";
    fleet
        .wait_for_status("a session through the terminator", connected)
        .await;
    fleet.wait_until_healthy().await;
    let seen = terminator.seen();
    assert!(seen.len() > 500, "the terminator saw {} bytes", seen.len());
    for plain in [PSK, "coder.demo.internal", "psk", "hello", "heartbeat", "box"] {
        assert!(!contains(&seen, plain.as_bytes()), "`{plain}` was readable");
    }

    for direction in [Direction::Up, Direction::Down] {
        for attack in [Attack::Alter, Attack::Replay, Attack::Drop] {
            // Frame 0 is the handshake; 2 is the first after the greeting.
            terminator.arm(Some(Plan {
                direction,
                frame: 2,
                attack,
            }));
            fleet.stop_agent();
            fleet.start_agent();
            let noticed = |status: &Value| status["registry"]["reason"].is_string();
            let what = format!("a session ended by {attack:?} {direction:?}");
            let status = fleet.wait_for_status(&what, noticed).await;
            let reason = status["registry"]["reason"].as_str().unwrap();
            // Who notices first decides the words: "was tampered with", "closed the session", "the session broke".
            assert!(reason.contains("session"), "{what}: {reason}");
            // The work goes on without the registry.
            fleet.wait_until_healthy().await;
        }
    }
    terminator.arm(None);
    fleet.wait_for_status("a session again", connected).await;
}
