//! Workspace containers reach Coder through the tunnel, with a real Docker engine: no proxy variable in the container, Coder's
//! own name, port 443, TLS end to end; the agent an ordinary user in the engine's group, in userspace mode.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output, Stdio};

use orfe_test_support::wait::wait_for;
use serde_json::Value;

use crate::engine::{self, Engine};
use crate::fleet::{Fleet, PATIENCE, PSK};

pub(crate) const CODER: &str = "coder.demo.internal";
pub(crate) const HEALTHZ: &str =
    "GET /healthz HTTP/1.1\r\nHost: coder.demo.internal\r\nConnection: close\r\n\r\n";

/// Name of the one forwarder that the engine has.
pub(crate) fn forwarder(engine: &Engine) -> String {
    let filter = "label=orfe.role=forwarder";
    let name = engine.answer(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]);
    assert!(name.starts_with("orfe-forwarder-box-"), "{name}");
    assert_eq!(name.lines().count(), 1, "{name}");
    name
}

/// A TLS client in a container on `network`, which says `request` and prints the answer until it ends or for five seconds.
pub(crate) fn ask(engine: &Engine, network: &str, host: &str, request: &str) -> Output {
    ask_with(engine, &["--network", network], &[], host, request)
}

/// The same in a container that is made with `options`, and with more `arguments` of the client's.
pub(crate) fn ask_with(
    engine: &Engine,
    options: &[&str],
    arguments: &[&str],
    host: &str,
    request: &str,
) -> Output {
    let connect = format!("{host}:443");
    let mut all = vec!["-connect", &connect, "-servername", CODER];
    // Quiet, it goes on reading when its input has ended.
    all.extend(["-verify_hostname", CODER, "-CAfile", "/ca.pem"]);
    all.extend(["-verify_return_error", "-quiet"]);
    all.extend(arguments);
    engine.client_with(options, &all, request)
}

/// A handshake from a container.
fn shake_hands(engine: &Engine, network: &str, host: &str, name: &str) -> String {
    let connect = format!("{host}:443");
    let arguments = ["-connect", &connect, "-servername", name, "-brief"];
    text(&engine.client(network, &arguments, ""))
}

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

async fn wait_for_containers(fleet: &Fleet) {
    fleet
        .wait_for_status("a way for containers", |status: &Value| {
            status["containers"]["state"] == "ready" && status["tunnel"]["phase"] == "up"
        })
        .await;
}

async fn wait_for_answer(engine: &Engine, what: &str) {
    wait_for(what, PATIENCE, || {
        let answer = text(&ask(engine, "orfe", CODER, HEALTHZ));
        answer.contains("200 OK").then_some(()).ok_or(answer)
    })
    .await
    .unwrap();
}

/// A connection from a network namespace to port 443 of `address`, with as much of a TLS handshake as is answered.
pub(crate) fn from_namespace(namespace: &str, address: IpAddr, bind: Option<&str>) -> String {
    from_namespace_to(namespace, SocketAddr::new(address, 443), bind)
}

/// The same for another port.
pub(crate) fn from_namespace_to(namespace: &str, address: SocketAddr, bind: Option<&str>) -> String {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "timeout", "5", "openssl", "s_client"]);
    command.args(["-connect", &address.to_string(), "-servername", CODER, "-brief"]);
    if let Some(bind) = bind {
        command.args(["-bind", bind]);
    }
    text(&command.stdin(Stdio::null()).output().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_container_reaches_coder_by_its_own_name_and_nobody_else_does() {
    if let Some(obstacle) = engine::obstacle() {
        eprintln!("SKIPPED: workspace containers with a real Docker engine: {obstacle}");
        return;
    }
    let mut engine = Engine::start();
    let mut fleet = Fleet::start_as(engine::GROUP.1, engine::GROUP.1, &engine.endpoint()).await;
    engine.make_client_image(&fleet.path("coder/ca.pem"));
    wait_for_containers(&fleet).await;

    // A page, and a WebSocket that Coder accepts, by name on port 443, the certificate checked.
    wait_for_answer(&engine, "the page").await;
    let upgrade = format!(
        "GET /api/v2/organizations/default/provisionerdaemons/serve?name=from-a-container&provisioner=terraform&\
         tag=scope%3Dorganization&version=1.9 HTTP/1.1\r\nHost: {CODER}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Coder-Provisioner-Daemon-PSK: {PSK}\r\n\r\n"
    );
    let answer = text(&ask(&engine, "orfe", CODER, &upgrade));
    assert!(answer.contains("101 Switching Protocols"), "{answer}");

    only_containers_of_the_network_get_in(&engine);
    the_forwarder_has_no_rights(&engine);

    // The agent goes and comes, the engine too.
    fleet.stop_agent();
    let left = engine.answer(&["ps", "-aq", "--filter", "label=orfe.role=forwarder"]);
    assert_eq!(left, "", "the forwarder stayed");
    // One of an earlier version that was killed, and one of another agent whose device has the same name.
    let own = fleet.path("state/containers").display().to_string();
    for (name, folder) in [("orfe-forwarder-box", own.as_str()), ("another", "/elsewhere")] {
        let volume = format!("{folder}:/run/orfe:ro");
        let role = "orfe.role=forwarder";
        engine.answer(&[
            "create", "--name", name, "--label", role, "-v", &volume, "client", "none",
        ]);
    }
    fleet.start_agent();
    wait_for_answer(&engine, "the page from the agent's next life").await;
    let names = engine.answer(&[
        "ps",
        "-a",
        "--format",
        "{{.Names}}",
        "--filter",
        "label=orfe.role=forwarder",
    ]);
    let others: Vec<&str> = names
        .lines()
        .filter(|name| !name.starts_with("orfe-forwarder-box-"))
        .collect();
    assert_eq!(others, ["another"], "{names}");
    engine.answer(&["rm", "another"]);
    engine.restart();
    wait_for_answer(&engine, "the page from the engine's next life").await;
}

fn only_containers_of_the_network_get_in(engine: &Engine) {
    let format = "{{(index .NetworkSettings.Networks \"orfe\").IPAddress}}";
    let address: IpAddr = engine
        .answer(&["inspect", "--format", format, &forwarder(engine)])
        .parse()
        .unwrap();
    // A name that policy does not have goes nowhere, though the forwarder is asked for it.
    let answer = shake_hands(engine, "orfe", &address.to_string(), "elsewhere.example.com");
    assert!(!answer.contains("CONNECTION ESTABLISHED"), "{answer}");
    // The host itself, from the bridge's address and from another of its own.
    for bind in [None, Some("10.77.0.1")] {
        let answer = from_namespace(&engine.host, address, bind);
        assert!(!answer.contains("CONNECTION ESTABLISHED"), "{bind:?}: {answer}");
    }
    let said = text(&engine.docker(&["logs", &forwarder(engine)]));
    assert!(
        said.contains("it does not come from the network's containers"),
        "{said}"
    );
    assert!(said.contains("elsewhere.example.com"), "{said}");
    // A neighbour on the host's network, who has a route.
    let answer = from_namespace(&engine.neighbour, address, None);
    assert!(!answer.contains("CONNECTION ESTABLISHED"), "{answer}");
    // A container on another network, by name and by address.
    engine.answer(&["network", "create", "other"]);
    for host in [CODER, &address.to_string()] {
        let answer = shake_hands(engine, "other", host, CODER);
        assert!(!answer.contains("CONNECTION ESTABLISHED"), "{host}: {answer}");
    }
    // And the same client in the right network does get in, so that the refusals above mean something.
    let answer = shake_hands(engine, "orfe", CODER, CODER);
    assert!(answer.contains("CONNECTION ESTABLISHED"), "{answer}");
}

fn the_forwarder_has_no_rights(engine: &Engine) {
    let shown = engine.answer(&["inspect", &forwarder(engine)]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let (host, config) = (&shown[0]["HostConfig"], &shown[0]["Config"]);
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["CapDrop"][0], "ALL");
    assert!(host["CapAdd"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(host["Privileged"], false);
    assert!(
        host["PortBindings"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
    );
    assert_eq!(config["User"], "65534:65534");
    assert!(!shown.to_string().contains(PSK));
}
