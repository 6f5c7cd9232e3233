//! The stand-in server told at run time what to do, with a child on the other side.

use std::time::Duration;

use orfe_test_support::process::ProcessGuard;
use orfe_test_support::scale::TimeScale;
use orfe_test_support::standin::server::{Config, Fault, StandIn, StartError, Tags};
use orfe_test_support::wait::wait_for;
use rustix::process::Signal;
use serde_json::Value;

use crate::http_api::get;
use crate::tls_and_proxy::{CONNECTED, PATIENCE, child, config};

const LISTING: &str = "/api/v2/organizations/default/provisionerdaemons";

async fn listed(server: &StandIn, query: &str) -> Vec<(String, String)> {
    let body = get(server.address(), &format!("{LISTING}{query}"), "owner").await;
    let rows: Vec<Value> = serde_json::from_str(&body).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| (text(row, "name"), text(row, "status")))
        .collect()
}

fn with_token() -> Config {
    Config {
        session_token: Some("owner".to_owned()),
        ..config()
    }
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_offline_and_hidden_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let scale = TimeScale::new(0.002).unwrap();
    let server = StandIn::start(Config {
        time_scale: scale,
        ..with_token()
    })
    .await
    .unwrap();
    {
        let child = child(folder.path(), &[("CODER_URL", &server.url())]);
        child.wait_for_line(CONNECTED, PATIENCE).await.unwrap();
        assert_eq!(
            listed(&server, "").await,
            [("rec-1".to_owned(), "idle".to_owned())]
        );
    }
    wait_for("the daemon to count as offline", PATIENCE, || {
        if server.daemons()[0].online {
            Err("it is online".to_owned())
        } else {
            Ok(())
        }
    })
    .await
    .unwrap();
    assert!(listed(&server, "").await.is_empty());
    let offline = [("rec-1".to_owned(), "offline".to_owned())];
    assert_eq!(listed(&server, "?offline=true").await, offline);
    assert_eq!(listed(&server, "?status=offline&limit=1").await, offline);
    assert!(listed(&server, "?status=idle&offline=true").await.is_empty());
}

#[tokio::test]
async fn a_deleted_keys_daemon_vanishes_from_the_listing_and_stays_connected() {
    let folder = tempfile::tempdir().unwrap();
    let server = StandIn::start(with_token()).await.unwrap();
    let tags: Tags = [("gpu".to_owned(), "none".to_owned())].into();
    let key = server.create_key("laptop", &tags).unwrap();
    let child = child(
        folder.path(),
        &[
            ("CODER_URL", &server.url()),
            ("CODER_PROVISIONER_DAEMON_PSK", ""),
            ("CODER_PROVISIONER_DAEMON_KEY", &key),
        ],
    );
    child.wait_for_line(CONNECTED, PATIENCE).await.unwrap();
    assert_eq!(server.daemons()[0].tags["gpu"], "none");
    assert!(server.delete_key("laptop") && !server.delete_key("laptop"));
    assert!(listed(&server, "?offline=true").await.is_empty());
    assert!(
        !child
            .stderr_lines()
            .iter()
            .any(|line| line.contains("connection to coderd closed"))
    );
    server.cut_all();
    child
        .wait_for_line("unexpected status code 401", PATIENCE)
        .await
        .unwrap();
}

#[tokio::test]
async fn faults_come_and_go_at_run_time() {
    let folder = tempfile::tempdir().unwrap();
    let server = StandIn::start(with_token()).await.unwrap();
    let child = child(folder.path(), &[("CODER_URL", &server.url())]);
    child.wait_for_line(CONNECTED, PATIENCE).await.unwrap();
    server.set_fault(Some(Fault::CloseAfterAccept));
    server.cut_all();
    child
        .wait_for_line("failed to send handshake request", PATIENCE)
        .await
        .unwrap();
    server.set_fault(Some(Fault::BAD_GATEWAY));
    child
        .wait_for_line("unexpected status code 502", PATIENCE)
        .await
        .unwrap();
    server.set_fault(None);
    let again = || match count(&child, CONNECTED) {
        2 => Ok(()),
        other => Err(format!("connected {other} times")),
    };
    wait_for("a second session", PATIENCE, again).await.unwrap();

    // Without a licence the next dial is the last one.
    server.set_licensed(false);
    server.cut_all();
    child
        .wait_for_line("not authorized to dial coderd", PATIENCE)
        .await
        .unwrap();
    server.set_licensed(true);
    let dials = count(&child, "dialing coderd");

    // Another one that goes on, however often it fails, is the clock.
    let folder = tempfile::tempdir().unwrap();
    let clock = self::child(folder.path(), &[("CODER_URL", &server.url())]);
    clock.wait_for_line(CONNECTED, PATIENCE).await.unwrap();
    server.set_fault(Some(Fault::BAD_GATEWAY));
    server.cut_all();
    let five = || match count(&clock, "unexpected status code 502") {
        5.. => Ok(()),
        fewer => Err(format!("{fewer} dials have failed")),
    };
    wait_for("five dials of one that goes on", PATIENCE, five)
        .await
        .unwrap();
    assert_eq!(count(&child, "dialing coderd"), dials);
}

/// How many of the lines that a child has said contain `text`.
fn count(child: &ProcessGuard, text: &str) -> usize {
    let lines = child.stderr_lines();
    lines.iter().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_preflight_that_is_never_answered_takes_no_notice_of_term() {
    let folder = tempfile::tempdir().unwrap();
    let server = StandIn::start(Config {
        fault: Some(Fault::NeverAnswer),
        ..with_token()
    })
    .await
    .unwrap();
    let mut child = child(
        folder.path(),
        &[
            ("CODER_URL", &server.url()),
            ("CODER_PROVISIONER_DAEMON_PSK", ""),
            ("CODER_PROVISIONER_DAEMON_KEY", &"k".repeat(43)),
        ],
    );
    wait_for("the preflight", PATIENCE, || {
        match server.connections_seen().len() {
            1 => Ok(()),
            other => Err(format!("{other} connections")),
        }
    })
    .await
    .unwrap();
    child.signal(Signal::TERM).unwrap();
    assert!(
        child.wait(Duration::from_millis(200)).await.is_err(),
        "it must not end by TERM"
    );
    assert!(child.stderr_lines().is_empty());
    server.cut_all();
    assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let first = StandIn::start(config()).await.unwrap();
    let error = StandIn::start(Config {
        listen: first.address(),
        ..config()
    })
    .await
    .unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(
        error.to_string().contains(&first.address().to_string()),
        "{error}"
    );
}
