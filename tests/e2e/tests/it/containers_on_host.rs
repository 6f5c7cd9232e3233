//! Ways of workspace containers that have a port on the host, with a real Docker engine in the agent's own network: the listener
//! at `host-gateway`, and a forwarder that reaches the agent by a port. What else is on the host's network gets to neither.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use orfe_test_support::process::ProcessGuard;
use orfe_test_support::wait::wait_for;
use serde_json::Value;

use crate::containers::{CODER, HEALTHZ, ask_with, forwarder, from_namespace, from_namespace_to, text};
use crate::engine::{self, Engine, ip};
use crate::fleet::{Fleet, PATIENCE};
use crate::lab::Lab;
use crate::processes;

/// While no engine answers it is asked once a minute.
const ENGINE_BACK: Duration = Duration::from_secs(100);

/// A fleet whose device has an engine in its own network; the agent has ended.
async fn start(what: &str) -> Option<(Fleet, Engine)> {
    let lab = match engine::obstacle().map_or_else(Lab::new, Err) {
        Ok(lab) => lab,
        Err(obstacle) => {
            eprintln!("SKIPPED: {what}: {obstacle}");
            return None;
        }
    };
    let namespace = lab.namespace().to_owned();
    let mut fleet = Fleet::start_with("", Some(lab)).await;
    let engine = Engine::start_beside(&namespace);
    engine.make_client_image(&fleet.path("coder/ca.pem"));
    fleet.stop_agent();
    fleet.agent_environment = vec![
        ("ORFE_CONTAINERS", "auto".to_owned()),
        ("DOCKER_HOST", engine.endpoint()),
    ];
    Some((fleet, engine))
}

fn configure(fleet: &Fleet, containers: &str) {
    let text = format!("[containers]\n{containers}\n");
    std::fs::write(fleet.path("agent.toml"), text).unwrap();
}

/// The page, as often as it takes to get it.
async fn wait_for_page(engine: &Engine, options: &[&str], patience: Duration) {
    wait_for("the page, in a container", patience, || {
        let answer = text(&ask_with(engine, options, &[], CODER, HEALTHZ));
        answer.contains("200 OK").then_some(()).ok_or(answer)
    })
    .await
    .unwrap();
}

/// Options of a container whose template leads Coder's name to the host.
fn to_host() -> [String; 2] {
    ["--add-host".to_owned(), format!("{CODER}:host-gateway")]
}

/// A container whose published port the engine holds on the host, until [`free_port`].
fn hold_port(engine: &Engine, port: u16) {
    let published = format!("{port}:443");
    let server = ["client", "openssl", "s_server", "-nocert", "-accept", "443"];
    let options = ["run", "--detach", "--name", "holder", "--publish", &published];
    engine.answer(&[&options[..], &server].concat());
}

fn free_port(engine: &Engine) {
    engine.answer(&["rm", "--force", "holder"]);
}

/// Whether a listener at `host-gateway` is there, and why not.
fn host_gateway(status: &Value) -> (Option<&str>, &str) {
    let way = &status["containers"]["host_gateway"];
    (
        way["address"].as_str(),
        way["reason"].as_str().unwrap_or_default(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_of_the_default_bridge_reach_coder_at_host_gateway_and_nobody_else_does() {
    let Some((mut fleet, mut engine)) = start("the listener at host-gateway").await else {
        return;
    };
    let options = to_host();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();

    // A port that somebody has is told, and had once it is free. The network is there meanwhile.
    hold_port(&engine, 443);
    configure(&fleet, "host_gateway = \"on\"");
    fleet.start_agent();
    fleet
        .wait_for_status("a port that is taken", |status| {
            let (address, reason) = host_gateway(status);
            let told = reason.contains("`docker-proxy` (process ");
            address.is_none() && told && status["containers"]["state"] == "ready"
        })
        .await;
    wait_for_page(&engine, &["--network", "orfe"], PATIENCE).await;
    free_port(&engine);
    let status = fleet
        .wait_for_status("a listener", |status| host_gateway(status).0.is_some())
        .await;
    let way = &status["containers"]["host_gateway"];
    let expected = serde_json::json!({"address": "172.17.0.1", "bridge": "docker0", "ports": [443]});
    assert_eq!(*way, expected);
    wait_for_page(&engine, &options, PATIENCE).await;
    only_the_default_bridge_gets_in(&engine, &options);

    // The engine goes, the bridge and the listener stay; the bridge goes, and both come again.
    engine.end();
    fleet
        .wait_for_status("no engine", |status| {
            let (address, reason) = host_gateway(status);
            status["containers"]["state"] == "no_docker" && address.is_some() && !reason.is_empty()
        })
        .await;
    ip(&["-n", &engine.host, "link", "delete", "docker0"]);
    engine.start_again();
    wait_for_page(&engine, &options, ENGINE_BACK).await;

    // It ends with the agent.
    fleet.stop_agent();
    let answer = text(&ask_with(&engine, &options, &[], CODER, HEALTHZ));
    assert!(answer.contains("refused"), "{answer}");

    // Without the right to bind.
    let command = fleet.agent_command();
    let mut unable = Command::new(command.get_program());
    let mut arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let right = [
        "setpriv",
        "--bounding-set=-net_bind_service",
        "--inh-caps=-net_bind_service",
    ];
    // Behind `netns exec NAMESPACE`.
    arguments.splice(3..3, right.map(Into::into));
    unable.args(arguments).arg("run");
    unable.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    unable.stdin(Stdio::null());
    fleet.agent = Some(ProcessGuard::spawn(&mut unable, &fleet.path("log"), "agent-unable").unwrap());
    fleet
        .wait_for_status("a port that is not permitted", |status| {
            let (address, reason) = host_gateway(status);
            let told = reason.contains("CAP_NET_BIND_SERVICE");
            address.is_none() && told && status["containers"]["state"] == "ready"
        })
        .await;
}

fn only_the_default_bridge_gets_in(engine: &Engine, options: &[&str]) {
    let address: IpAddr = [172, 17, 0, 1].into();
    // One beside the host that has a way is told that nobody listens.
    let answer = from_namespace(&engine.neighbour, address, None);
    assert!(answer.contains("refused"), "{answer}");
    // The kernel takes what the host says to its own bridge for coming from there; so it is closed once its address is seen.
    for bind in [None, Some("10.77.0.1"), Some("127.0.0.1")] {
        let answer = from_namespace(&engine.host, address, bind);
        assert!(!answer.contains("CONNECTION ESTABLISHED"), "{bind:?}: {answer}");
    }
    // Containers of another network, and of the host's.
    engine.answer(&["network", "create", "other"]);
    for (network, told) in [("other", "refused"), ("orfe", "refused"), ("host", "")] {
        let answer = text(&ask_with(
            engine,
            &[&["--network", network], options].concat(),
            &[],
            &address.to_string(),
            HEALTHZ,
        ));
        assert!(
            !answer.contains("200 OK") && answer.contains(told),
            "{network}: {answer}"
        );
    }
    // A name that policy does not have.
    let arguments = [
        "-connect",
        "172.17.0.1:443",
        "-servername",
        "elsewhere.example.com",
        "-brief",
    ];
    let answer = text(&engine.client_with(options, &arguments, ""));
    assert!(!answer.contains("CONNECTION ESTABLISHED"), "{answer}");
    let arguments = ["-connect", "172.17.0.1:443", "-servername", CODER, "-brief"];
    let answer = text(&engine.client_with(options, &arguments, ""));
    assert!(answer.contains("CONNECTION ESTABLISHED"), "{answer}");
}

/// Port and credential of the door.
fn seat(fleet: &Fleet) -> (u16, String) {
    let path = fleet.path("state/door.json");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let seat: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let port = u16::try_from(seat["port"].as_u64().unwrap()).unwrap();
    (port, seat["credential"].as_str().unwrap().to_owned())
}

fn inspect(engine: &Engine) -> Value {
    let shown: Value = serde_json::from_str(&engine.answer(&["inspect", &forwarder(engine)])).unwrap();
    shown[0].clone()
}

const ORFE: [&str; 2] = ["--network", "orfe"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarder_that_reaches_the_agent_by_a_port_serves_containers_and_the_port_nobody_else() {
    let Some((mut fleet, engine)) = start("a forwarder that reaches the agent by a port").await else {
        return;
    };
    configure(&fleet, "door = \"tcp\"");
    fleet.start_agent();
    wait_for_page(&engine, &ORFE, PATIENCE).await;
    let (port, credential) = seat(&fleet);
    only_the_credential_opens(&engine, port, &credential);

    // A crash changes nothing: same port, same credential, same container.
    let before = inspect(&engine)["Id"].clone();
    let agent = fleet.agent.take().unwrap();
    processes::kill_9(agent.pid());
    drop(agent);
    fleet.start_agent();
    wait_for_page(&engine, &ORFE, PATIENCE).await;
    assert_eq!(inspect(&engine)["Id"], before);
    assert_eq!(seat(&fleet), (port, credential.clone()));

    // A port that somebody took is another one.
    fleet.stop_agent();
    hold_port(&engine, port);
    fleet.start_agent();
    wait_for_page(&engine, &ORFE, PATIENCE).await;
    assert_ne!(seat(&fleet).0, port);
    assert_eq!(seat(&fleet).1, credential);
    free_port(&engine);

    // A spoilt file is made anew, with another credential; one that others may read is not used.
    fleet.stop_agent();
    std::fs::write(fleet.path("state/door.json"), "{\"port\": 1").unwrap();
    fleet.start_agent();
    wait_for_page(&engine, &ORFE, PATIENCE).await;
    assert_ne!(seat(&fleet).1, credential);
    assert!(fleet.path("state/door.json.spoilt").exists());
    for (text, mode, told) in [
        (
            "{\"port\": 1, \"credential\": \"weak\"}",
            0o600,
            "16 to 256 characters",
        ),
        ("{}", 0o644, "chmod"),
    ] {
        fleet.stop_agent();
        let path = fleet.path("state/door.json");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        fleet.start_agent();
        fleet
            .wait_for_status("a file that is not used", |status| {
                let reason = status["containers"]["reason"].as_str().unwrap_or_default();
                reason.contains(told) && reason.contains("door.json")
            })
            .await;
    }
    std::fs::remove_file(fleet.path("state/door.json")).unwrap();
    wait_for_page(&engine, &ORFE, PATIENCE).await;

    // An image of the owner's: one that is not there, and one that is.
    fleet.stop_agent();
    configure(&fleet, "door = \"tcp\"\nimage = \"example.com/orfe:none\"");
    fleet.start_agent();
    fleet
        .wait_for_status("an image that is not there", |status| {
            let reason = status["containers"]["reason"].as_str().unwrap_or_default();
            reason.contains("docker pull example.com/orfe:none")
        })
        .await;
    fleet.stop_agent();
    let made = engine.answer(&[
        "image",
        "ls",
        "--format",
        "{{.Repository}}:{{.Tag}}",
        "orfe-forwarder",
    ]);
    engine.answer(&["tag", &made, "example.com/orfe:mine"]);
    configure(&fleet, "image = \"example.com/orfe:mine\"");
    fleet.start_agent();
    wait_for_page(&engine, &ORFE, PATIENCE).await;
    let shown = inspect(&engine);
    assert_eq!(shown["Config"]["Image"], "example.com/orfe:mine");
    assert_eq!(
        shown["HostConfig"]["Binds"].as_array().unwrap().len(),
        1,
        "by a socket again"
    );
}

fn only_the_credential_opens(engine: &Engine, port: u16, credential: &str) {
    let shown = inspect(engine);
    assert!(shown["HostConfig"]["Binds"].is_null(), "{}", shown["HostConfig"]);
    assert_eq!(shown["Config"]["User"], "65534:65534");
    let gateway: Ipv4Addr = engine
        .answer(&[
            "network",
            "inspect",
            "--format",
            "{{(index .IPAM.Config 0).Gateway}}",
            "orfe",
        ])
        .parse()
        .unwrap();
    let host = format!("host.docker.internal:{gateway}");
    assert_eq!(shown["HostConfig"]["ExtraHosts"], serde_json::json!([host]));
    // It stands in the environment alone: not among the arguments, in no label and in no log.
    assert_eq!(shown.to_string().matches(credential).count(), 1);
    let said = text(&engine.docker(&["logs", &forwarder(engine)]));
    assert!(!said.contains(credential), "{said}");

    // From a container of the network, which has the way: as a stranger, with a wrong credential, and with the right one.
    let door = format!("{gateway}:{port}");
    let wrong = format!("pass:{}", credential.replace(['a', 'b', 'c', 'd'], "e") + "x");
    let right = format!("pass:{credential}");
    for (pass, opens) in [(None, false), (Some(&wrong), false), (Some(&right), true)] {
        let mut arguments = vec!["-proxy", &door];
        if let Some(pass) = pass {
            arguments.extend(["-proxy_user", "orfe", "-proxy_pass", pass]);
        }
        let answer = text(&ask_with(engine, &ORFE, &arguments, CODER, HEALTHZ));
        assert_eq!(answer.contains("200 OK"), opens, "{answer}");
        assert!(opens || !answer.contains("HTTP/1."), "{answer}");
    }
    // One beside the host, and a container of the default bridge: nobody listens there for them. A process of the host finds
    // the port, as on loopback, and hears nothing.
    let address = SocketAddr::new(gateway.into(), port);
    let answer = from_namespace_to(&engine.neighbour, address, None);
    assert!(answer.contains("refused"), "{answer}");
    let answer = from_namespace_to(&engine.host, address, None);
    assert!(!answer.contains("CONNECTION ESTABLISHED"), "{answer}");
    for host in [gateway, Ipv4Addr::new(172, 17, 0, 1)] {
        let connect = format!("{host}:{port}");
        let answer = text(&engine.client_with(&[], &["-connect", &connect, "-brief"], ""));
        assert!(answer.contains("refused"), "{host}: {answer}");
    }
}
