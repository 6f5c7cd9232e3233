//! The programs on their command lines, and the child's own ways of misbehaving.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use orfe_test_support::logs::LogLine;
use orfe_test_support::process::ProcessGuard;
use orfe_test_support::scale::TIME_SCALE;
use rustix::process::Signal;
use serde_json::Value;

use crate::runner::CHILD;
use crate::tls_and_proxy::child;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVER: &str = env!("CARGO_BIN_EXE_coder-stand-in");
const KEY: &str = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";
const NOWHERE: (&str, &str) = ("CODER_URL", "http://127.0.0.1:1");

fn output(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn path(folder: &Path, file: &str) -> String {
    folder.join(file).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_server_program_serves_children_and_records_them_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let psk = "psk-in-a-file";
    fs::write(folder.path().join("psk"), format!("{psk}\n")).unwrap();
    fs::write(
        folder.path().join("keys"),
        format!("{KEY}:laptop:gpu=none,arch=amd64\n"),
    )
    .unwrap();
    let record = path(folder.path(), "record.jsonl");
    let mut command = Command::new(SERVER);
    command.args([
        "serve",
        "--tls-self",
        folder.path().to_str().unwrap(),
        "--name",
        "coder.demo.internal",
    ]);
    command.args([
        "--psk-file",
        &path(folder.path(), "psk"),
        "--key-file",
        &path(folder.path(), "keys"),
    ]);
    command.args(["--record", &record]).env(TIME_SCALE, "0.1");
    let mut server = ProcessGuard::spawn(&mut command, folder.path(), "server").unwrap();
    let ready: Value =
        serde_json::from_str(&server.wait_for_line("listening", PATIENCE).await.unwrap()).unwrap();
    let url = ready["url"].as_str().unwrap().to_owned();
    assert_eq!(ready["listening"].as_str(), url.strip_prefix("https://"));
    server
        .wait_for_line("stand-in for Coder", PATIENCE)
        .await
        .unwrap();

    let ca = ready["ca"].as_str().unwrap();
    for (folder_name, variables) in [
        ("psk-child", vec![("CODER_PROVISIONER_DAEMON_PSK", psk)]),
        (
            "key-child",
            vec![
                ("CODER_PROVISIONER_DAEMON_PSK", ""),
                ("CODER_PROVISIONER_DAEMON_KEY", KEY),
            ],
        ),
    ] {
        let own = folder.path().join(folder_name);
        fs::create_dir(&own).unwrap();
        let variables: Vec<(&str, &str)> = [("CODER_URL", url.as_str()), ("SSL_CERT_FILE", ca)]
            .into_iter()
            .chain(variables)
            .collect();
        let child = child(&own, &variables);
        child
            .wait_for_line("successfully connected", PATIENCE)
            .await
            .unwrap();
    }
    let recorded = fs::read_to_string(&record).unwrap();
    assert!(recorded.contains("/api/v2/provisionerkeys/<key>"), "{recorded}");
    assert!(!recorded.contains(KEY) && !recorded.contains(psk), "{recorded}");
    let with_peer = recorded.lines().filter(|line| {
        let entry: Value = serde_json::from_str(line).unwrap();
        entry["peer"].is_string() && entry["at"].is_string()
    });
    assert_eq!(with_peer.count(), recorded.lines().count());

    server.signal(Signal::TERM).unwrap();
    assert!(server.wait(PATIENCE).await.unwrap().success());
}

#[test]
fn the_server_program_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("keys"), format!("{KEY}:good\n\nshort:bad\n")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (arguments, said) in [
        (vec!["serve", "--psk-file", "/no/such/file"], "/no/such/file"),
        (
            vec!["serve", "--key-file", &path(folder.path(), "keys")],
            "line 3",
        ),
        (vec!["serve", "--listen", &address], &address),
    ] {
        let output = output(SERVER, &arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(said) && !text.contains(KEY), "{text}");
    }
    assert_eq!(
        output(SERVER, &["serve", "--fault", "party"]).status.code(),
        Some(2)
    );
}

#[test]
fn the_child_says_its_version_and_that_it_is_a_stand_in() {
    let json: Value = serde_json::from_slice(&output(CHILD, &["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(
        (&json["version"], &json["slim"]),
        (&"v2.26.0".into(), &false.into())
    );
    assert_eq!(json["stand_in"], true);
    let refused = output(CHILD, &["server"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stand-in"));
}

#[tokio::test]
async fn ignore_term_leaves_only_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child(folder.path(), &[NOWHERE, ("CODER_STAND_IN_FAULT", "ignore-term")]);
    child
        .wait_for_line("starting provisioner daemon", PATIENCE)
        .await
        .unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        child.signal(signal).unwrap();
    }
    let before = child.stderr_lines().len();
    orfe_test_support::wait::wait_for("it to go on dialling", PATIENCE, || {
        let now = child.stderr_lines().len();
        if now > before + 1 {
            Ok(())
        } else {
            Err(format!("{now} lines"))
        }
    })
    .await
    .unwrap();
    assert!(child.try_wait().unwrap().is_none());
    assert!(child.stdout_lines().is_empty());
}

#[tokio::test]
async fn a_hang_says_nothing_and_takes_no_notice_of_term() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child(folder.path(), &[NOWHERE, ("CODER_STAND_IN_FAULT", "hang")]);
    // It must have its handlers before it is signalled: it shows in the kernel's list of caught signals.
    let status = format!("/proc/{}/status", child.pid());
    orfe_test_support::wait::wait_for("TERM to be caught", PATIENCE, || {
        let text = fs::read_to_string(&status).map_err(|error| error.to_string())?;
        let caught = text
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .unwrap_or_default();
        let caught = u64::from_str_radix(caught.trim(), 16).map_err(|error| error.to_string())?;
        // QUIT is installed last.
        if caught & (1 << (3 - 1)) != 0 {
            Ok(())
        } else {
            Err(format!("caught {caught:x}"))
        }
    })
    .await
    .unwrap();
    child.signal(Signal::TERM).unwrap();
    let still = child.wait(Duration::from_millis(200)).await;
    assert!(still.is_err(), "it must not end by TERM");
    assert!(child.stderr_lines().is_empty() && child.stdout_lines().is_empty());
}

#[tokio::test]
async fn crashes_and_exits_when_told() {
    for (fault, code, said) in [
        ("crash-ms:50", 2, "panic: runtime error"),
        ("exit-ms:50:7", 7, "starting provisioner daemon"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = child(folder.path(), &[NOWHERE, ("CODER_STAND_IN_FAULT", fault)]);
        assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(code), "{fault}");
        assert!(
            child.stderr_lines().iter().any(|line| line.contains(said)),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn garbage_and_long_lines_stand_between_the_real_ones() {
    let folder = tempfile::tempdir().unwrap();
    let child = child(
        folder.path(),
        &[NOWHERE, ("CODER_STAND_IN_FAULT", "garbage,long-line")],
    );
    child.wait_for_line("failed to dial", PATIENCE).await.unwrap();
    let lines = child.stderr_log();
    assert!(lines.contains(&LogLine::Plain("plain text".to_owned())));
    assert!(lines.contains(&LogLine::Plain("x".repeat(1024 * 1024))));
    assert!(lines.iter().any(|line| line.message().contains('\u{fffd}')));
}

#[tokio::test]
async fn a_drain_takes_its_time_and_a_second_signal_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child(
        folder.path(),
        &[NOWHERE, ("CODER_STAND_IN_FAULT", "drain-ms:300")],
    );
    child
        .wait_for_line("starting provisioner daemon", PATIENCE)
        .await
        .unwrap();
    let told = Instant::now();
    child.signal(Signal::TERM).unwrap();
    child
        .wait_for_line("attempting graceful shutdown", PATIENCE)
        .await
        .unwrap();
    child.signal(Signal::INT).unwrap();
    assert!(child.wait(PATIENCE).await.unwrap().success());
    assert!(told.elapsed() >= Duration::from_millis(300));
    assert!(
        !child
            .stdout_lines()
            .iter()
            .any(|line| line.contains("Interrupt caught"))
    );
}

#[test]
fn an_unknown_fault_or_scale_is_refused() {
    for (name, value) in [("CODER_STAND_IN_FAULT", "party"), (TIME_SCALE, "fast")] {
        let refused = Command::new(CHILD)
            .args(["provisionerd", "start"])
            .env(name, value)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            refused.status.code() == Some(1) && text.contains(value) && text.contains(name),
            "{text}"
        );
    }
}
