//! The child on its way to a server that only a proxy can reach, encrypted and not, and what it says when that fails.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use orfe_test_support::process::ProcessGuard;
use orfe_test_support::scale::TIME_SCALE;
use orfe_test_support::standin::server::{Config, StandIn, TlsIdentity};
use orfe_test_support::wait::wait_for;

use crate::connect_proxy::{NAME, Proxy};
use crate::runner::CHILD;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const CONNECTED: &str = "successfully connected to coderd";
const PSK: &str = "psk-of-the-test";

pub(crate) fn config() -> Config {
    Config {
        psk: Some(PSK.to_owned()),
        ..Config::default()
    }
}

/// A child in `folder` with nothing but `variables` of the world around it.
pub(crate) fn child(folder: &Path, variables: &[(&str, &str)]) -> ProcessGuard {
    let bin = folder.join("bin");
    if !bin.exists() {
        std::fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_terraform-stand-in"), bin.join("terraform")).unwrap();
    }
    let mut command = Command::new(CHILD);
    command
        .args([
            "provisionerd",
            "start",
            "--name",
            "rec-1",
            "--log-human=",
            "--log-json=/dev/stderr",
        ])
        .env_clear()
        .envs([
            ("TMPDIR", folder),
            ("CODER_CACHE_DIRECTORY", &folder.join("cache")),
            ("PATH", &bin),
        ])
        .env("CODER_PROVISIONER_DAEMON_PSK", PSK)
        .env(TIME_SCALE, "0.1")
        .envs(variables.iter().copied());
    ProcessGuard::spawn(&mut command, folder, "child").unwrap()
}

#[tokio::test]
async fn https_goes_through_connect_and_the_name_is_the_proxys_to_resolve() {
    let folder = tempfile::tempdir().unwrap();
    let tls = TlsIdentity::make(folder.path(), NAME).unwrap();
    let server = StandIn::start(Config {
        tls: Some(tls),
        ..config()
    })
    .await
    .unwrap();
    let proxy = Proxy::start(server.address()).await;
    let ca = folder.path().join("ca.pem");
    let child = child(
        folder.path(),
        &[
            ("CODER_URL", &format!("https://{NAME}")),
            ("HTTPS_PROXY", &proxy.variable()),
            ("SSL_CERT_FILE", ca.to_str().unwrap()),
        ],
    );
    child.wait_for_line(CONNECTED, PATIENCE).await.unwrap();
    assert_eq!(
        *proxy.requests.lock().unwrap(),
        [format!("CONNECT {NAME}:443 HTTP/1.1")]
    );
    let peers: Vec<_> = server
        .connections_seen()
        .iter()
        .map(|connection| connection.peer)
        .collect();
    assert_eq!(peers, *proxy.outgoing.lock().unwrap());
    assert_eq!(server.daemons()[0].name, "rec-1");

    // What is cut is dialled again at once.
    server.cut_all();
    wait_for("a second connection", PATIENCE, || {
        match server.connections_seen().len() {
            2 => Ok(()),
            other => Err(format!("{other} connections")),
        }
    })
    .await
    .unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn plain_http_goes_through_in_absolute_form_with_upgrade() {
    let folder = tempfile::tempdir().unwrap();
    let server = StandIn::start(config()).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let url = format!("http://{NAME}:8080");
    let child = child(
        folder.path(),
        &[("CODER_URL", &url), ("http_proxy", &proxy.variable())],
    );
    child.wait_for_line(CONNECTED, PATIENCE).await.unwrap();
    let requests = proxy.requests.lock().unwrap().clone();
    assert!(
        requests[0].starts_with(&format!("GET {url}/api/v2/organizations/default/")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_proxy_that_wants_a_credential_and_gets_none_is_told_from_coder() {
    let folder = tempfile::tempdir().unwrap();
    let server = StandIn::start(config()).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let bare = proxy.address.to_string();
    let child = child(
        folder.path(),
        &[("CODER_URL", &format!("https://{NAME}")), ("HTTPS_PROXY", &bare)],
    );
    let line = child.wait_for_line("failed to dial", PATIENCE).await.unwrap();
    assert!(line.contains(": Proxy Authentication Required\""), "{line}");
    assert!(server.connections_seen().is_empty());
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let tls = TlsIdentity::make(folder.path(), NAME).unwrap();
    TlsIdentity::make(other.path(), NAME).unwrap();
    let server = StandIn::start(Config {
        tls: Some(tls),
        ..config()
    })
    .await
    .unwrap();
    let ca = other.path().join("ca.pem");
    let child = child(
        folder.path(),
        &[
            ("CODER_URL", &server.url()),
            ("SSL_CERT_FILE", ca.to_str().unwrap()),
        ],
    );
    let line = child.wait_for_line("failed to dial", PATIENCE).await.unwrap();
    assert!(
        line.contains("x509: certificate signed by unknown authority"),
        "{line}"
    );
    assert!(server.daemons().is_empty());
}

#[tokio::test]
async fn loopback_goes_past_the_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let server = StandIn::start(config()).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let child = child(
        folder.path(),
        &[("CODER_URL", &server.url()), ("HTTP_PROXY", &proxy.variable())],
    );
    child.wait_for_line(CONNECTED, PATIENCE).await.unwrap();
    assert!(proxy.requests.lock().unwrap().is_empty());
}
