//! An agent in TUN mode with a real Docker engine beside it: ordinary containers reach Coder through the host's device, and
//! nothing of it stays on the host, whichever way the agent ends.

use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use orfe_test_support::wait::wait_for;
use serde_json::Value;

use crate::engine::{self, Engine};
use crate::fleet::{Fleet, PATIENCE, PSK};
use crate::lab::Lab;
use crate::processes;

const CODER: &str = "coder.demo.internal";
const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: coder.demo.internal\r\nConnection: close\r\n\r\n";
/// The agent's device, and its table of rules.
const DEVICE: &str = "orfe0";
const TABLE: &str = "table inet orfe_orfe0";
const TUN: &str = "mode = \"tun\"";

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Writes the table `[tunnel]` and starts the agent.
fn start_agent(fleet: &mut Fleet, tunnel: &str) {
    let config = format!("[tunnel]\n{tunnel}\n");
    std::fs::write(fleet.path("agent.toml"), config).unwrap();
    fleet.start_agent();
}

async fn wait_for_device(fleet: &Fleet) -> Value {
    fleet
        .wait_for_status("a tunnel in TUN mode", |status| {
            let tunnel = &status["tunnel"];
            tunnel["mode"] == "tun" && tunnel["tcp_stack"] == "host" && tunnel["phase"] == "up"
        })
        .await
}

/// The inner address that stands for Coder.
fn inner_address(fleet: &Fleet) -> String {
    let desired = std::fs::read(fleet.path("state/desired.json")).unwrap();
    let desired: Value = serde_json::from_slice(&desired).unwrap();
    let address = &desired["tunnel"]["names"][CODER]["address"];
    address.as_str().unwrap().to_owned()
}

/// What a TLS client says and hears in an ordinary container on `network` that was given Coder's address.
fn ask(engine: &Engine, network: &str, address: &str, request: &str) -> String {
    let entry = format!("{CODER}:{address}");
    let connect = format!("{CODER}:443");
    let arguments = [
        "-connect",
        &connect,
        "-servername",
        CODER,
        "-verify_hostname",
        CODER,
        "-CAfile",
        "/ca.pem",
        "-verify_return_error",
        // Quiet, it goes on reading when its input has ended.
        "-quiet",
    ];
    text(&engine.client_with(&["--network", network, "--add-host", &entry], &arguments, request))
}

async fn wait_for_page(engine: &Engine, network: &str, address: &str) {
    wait_for("the page, in a container", PATIENCE, || {
        let answer = ask(engine, network, address, HEALTHZ);
        answer.contains("200 OK").then_some(()).ok_or(answer)
    })
    .await
    .unwrap();
}

fn inside(fleet: &Fleet, program: &str, arguments: &[&str]) -> Output {
    let mut command: Command = fleet.lab.as_ref().unwrap().command();
    command.arg(program).args(arguments).output().unwrap()
}

fn tables(fleet: &Fleet) -> String {
    text(&inside(fleet, "nft", &["list", "tables"]))
}

fn has_device(fleet: &Fleet) -> bool {
    inside(fleet, "ip", &["link", "show", DEVICE]).status.success()
}

fn assert_clean(fleet: &Fleet) {
    assert!(!tables(fleet).contains(TABLE), "{}", tables(fleet));
    assert!(!has_device(fleet), "the device stayed");
    let journal = std::fs::read_to_string(fleet.path("state/tun-changes")).unwrap();
    assert_eq!(journal, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_reach_coder_through_the_host_and_nothing_stays_on_it() {
    let obstacle = engine::obstacle().map_or_else(Lab::new, Err);
    let lab = match obstacle {
        Ok(lab) => lab,
        Err(obstacle) => {
            eprintln!("SKIPPED: TUN mode with a real Docker engine: {obstacle}");
            return;
        }
    };
    let namespace = lab.namespace().to_owned();
    let mut fleet = Fleet::start_with("", Some(lab)).await;
    // It ends before the network it is in.
    let engine = Engine::start_in(&namespace);
    engine.make_client_image(&fleet.path("coder/ca.pem"));
    fleet.stop_agent();

    start_agent(&mut fleet, TUN);
    wait_for_device(&fleet).await;
    // The provisioner gets through as well, by the agent's proxy and sockets of the host.
    fleet.wait_until_healthy().await;
    let address = inner_address(&fleet);
    wait_for_page(&engine, "bridge", &address).await;
    let upgrade = format!(
        "GET /api/v2/organizations/default/provisionerdaemons/serve?name=from-a-container&provisioner=terraform&\
         tag=scope%3Dorganization&version=1.9 HTTP/1.1\r\nHost: {CODER}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Coder-Provisioner-Daemon-PSK: {PSK}\r\n\r\n"
    );
    let answer = ask(&engine, "bridge", &address, &upgrade);
    assert!(answer.contains("101 Switching Protocols"), "{answer}");

    // An orderly end.
    fleet.stop_agent();
    assert_clean(&fleet);

    // Without bridges the same container is kept out, though the engine itself would forward what it sends.
    start_agent(&mut fleet, "mode = \"tun\"\nbridges = \"off\"");
    wait_for_device(&fleet).await;
    fleet.wait_until_healthy().await;
    assert!(tables(&fleet).contains(TABLE), "{}", tables(&fleet));
    let answer = ask(&engine, "bridge", &address, HEALTHZ);
    assert!(
        !answer.contains("verify") && !answer.contains("200 OK"),
        "{answer}"
    );
    fleet.stop_agent();
    assert_clean(&fleet);

    // A crash leaves the rules, which the next life takes away, though it has no use for TUN mode.
    start_agent(&mut fleet, TUN);
    wait_for_device(&fleet).await;
    // A bridge that came later is let in, too.
    engine.answer(&["network", "create", "later"]);
    wait_for_page(&engine, "later", &address).await;
    kill_agent(&mut fleet).await;
    assert!(tables(&fleet).contains(TABLE), "{}", tables(&fleet));
    start_agent(&mut fleet, "mode = \"userspace\"");
    fleet
        .wait_for_status("a tunnel in userspace", |status| {
            status["tunnel"]["mode"] == "userspace" && status["tunnel"]["phase"] == "up"
        })
        .await;
    assert_clean(&fleet);
}

async fn kill_agent(fleet: &mut Fleet) {
    let mut agent = fleet.agent.take().unwrap();
    processes::send(agent.pid(), Signal::SIGKILL);
    wait_for("the agent to be gone", Duration::from_secs(10), || {
        agent.try_wait().unwrap().ok_or_else(String::new)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_tun_mode_says_what_it_needs() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: TUN mode as another user: only root can start the agent as one");
        return;
    }
    let mut fleet = Fleet::start_as(65534, 65534, "unix:///nonexistent/docker.sock").await;
    fleet.stop_agent();
    start_agent(&mut fleet, TUN);
    let status = fleet
        .wait_for_status("an obstacle", |status| {
            let obstacle = status["tunnel"]["obstacle"].as_str().unwrap_or_default();
            obstacle.contains("CAP_NET_ADMIN")
        })
        .await;
    let obstacle = status["tunnel"]["obstacle"].as_str().unwrap();
    assert!(obstacle.contains("--tunnel userspace"), "{obstacle}");
    assert_eq!(status["tunnel"]["mode"], "tun");
    // Nothing is tried before the machine lets it begin.
    assert_eq!(status["tunnel"]["phase"], "down");
}
