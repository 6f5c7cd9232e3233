//! TUN mode with split DNS and a real systemd-resolved: the policy's names and those below the gateway's suffixes are asked
//! of the gateway, all others of whoever was asked before, and it is so again when the agent is gone, whichever way it ended.

use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use orfe_test_support::wait::wait_for;

use crate::fleet::{Fleet, PATIENCE};
use crate::lab::Lab;
use crate::processes;
use crate::resolved::{NameServer, Programs, Resolved, library_path};

const CODER: &str = "coder.demo.internal";
/// A name of the cluster below `[dns] suffixes`, and what the cluster's resolver says it is.
const CLUSTERS: &str = "db.svc.cluster.local";
const CLUSTERS_ADDRESS: [u8; 4] = [10, 96, 0, 9];

/// Asks systemd-resolved, without its cache, for a name's IPv4 address.
fn ask(fleet: &Fleet, programs: &Programs, name: &str) -> String {
    resolvectl(fleet, programs, &["flush-caches"]);
    text(&resolvectl(
        fleet,
        programs,
        &["--legend=no", "-4", "query", name],
    ))
}

fn resolvectl(fleet: &Fleet, programs: &Programs, arguments: &[&str]) -> Output {
    let mut command = fleet.lab.as_ref().unwrap().command();
    command.env("LD_LIBRARY_PATH", library_path());
    command
        .arg(&programs.resolvectl)
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

fn start_agent(fleet: &mut Fleet, mode: &str) {
    let config = format!("[tunnel]\nmode = \"{mode}\"\nsplit_dns = {}\n", mode == "tun");
    std::fs::write(fleet.path("agent.toml"), config).unwrap();
    fleet.start_agent();
}

async fn wait_for_mode(fleet: &Fleet, mode: &str) {
    fleet
        .wait_for_status(&format!("a tunnel in mode {mode}"), |status| {
            status["tunnel"]["mode"] == mode && status["tunnel"]["phase"] == "up"
        })
        .await;
}

fn journal(fleet: &Fleet) -> String {
    std::fs::read_to_string(fleet.path("state/tun-changes")).unwrap()
}

/// The policy's name by the tunnel and another by the outside, each there alone.
fn assert_split(fleet: &Fleet, programs: &Programs, outside: &NameServer) {
    let before = outside.asked().len();
    let answer = ask(fleet, programs, CODER);
    assert!(
        answer.contains("100.127.1.0"),
        "{answer}\n{}",
        fleet.logs("agent")
    );
    let asked = outside.asked().split_off(before);
    assert!(!asked.iter().any(|name| name == CODER), "{asked:?}");
    let answer = ask(fleet, programs, "www.example.com");
    assert!(
        answer.contains(&Ipv4Addr::from(NameServer::ANSWER).to_string()),
        "{answer}"
    );
    // No label more: neither a subdomain's parent nor a name that ends alike.
    let answer = ask(fleet, programs, "another-coder.demo.internal");
    assert!(
        answer.contains(&Ipv4Addr::from(NameServer::ANSWER).to_string()),
        "{answer}"
    );
}

/// A name of the cluster by the gateway, which asks the cluster's resolver, and by nobody else.
fn assert_clusters(fleet: &Fleet, programs: &Programs, outside: &NameServer, cluster: &NameServer) {
    let answer = ask(fleet, programs, CLUSTERS);
    assert!(
        answer.contains(&Ipv4Addr::from(CLUSTERS_ADDRESS).to_string()),
        "{answer}\n{}",
        fleet.logs("agent")
    );
    assert!(cluster.asked().iter().any(|name| name == CLUSTERS));
    assert!(!outside.asked().iter().any(|name| name == CLUSTERS));
}

/// Every name by the outside.
async fn assert_as_before(fleet: &Fleet, programs: &Programs, outside: &NameServer) {
    wait_for("the host's DNS as it was", PATIENCE, || {
        let domains = text(&resolvectl(fleet, programs, &["domain"]));
        (!domains.contains(CODER)).then_some(()).ok_or(domains)
    })
    .await
    .unwrap();
    let answer = ask(fleet, programs, CODER);
    assert!(
        answer.contains(&Ipv4Addr::from(NameServer::ANSWER).to_string()),
        "{answer}"
    );
    assert!(outside.asked().iter().any(|name| name == CODER));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_the_policy_and_no_others_are_asked_through_the_tunnel() {
    let found = Programs::find().and_then(|programs| Ok((programs, Lab::new()?)));
    let (programs, mut lab) = match found {
        Ok(found) => found,
        Err(reason) => {
            eprintln!("SKIPPED: split DNS with a real systemd-resolved: {reason}");
            return;
        }
    };
    let hosts_own = std::fs::read("/etc/resolv.conf").ok();
    let folder = tempfile::tempdir().unwrap();
    let outside = NameServer::start((lab.host, 53).into(), NameServer::ANSWER).await;
    let cluster = NameServer::start(([127, 0, 0, 1], 0).into(), CLUSTERS_ADDRESS).await;
    let resolved = Resolved::start(&programs, &mut lab, folder.path());
    let registry_lines = format!(
        "\n[dns]\nsuffixes = [\"svc.cluster.local\"]\nresolver = \"{}\"\n",
        cluster.address
    );
    let mut fleet = Fleet::start_with(&registry_lines, Some(lab)).await;
    fleet.stop_agent();
    fleet.agent_environment.push(("LD_LIBRARY_PATH", library_path()));
    std::os::unix::fs::symlink(&programs.resolvectl, fleet.path("bin/resolvectl")).unwrap();

    start_agent(&mut fleet, "tun");
    wait_for_mode(&fleet, "tun").await;
    assert_split(&fleet, &programs, &outside);
    assert_clusters(&fleet, &programs, &outside, &cluster);
    fleet.stop_agent();
    assert_as_before(&fleet, &programs, &outside).await;
    assert_eq!(journal(&fleet), "");

    // A crash: the device goes with the process, and what is in the journal with the next life.
    start_agent(&mut fleet, "tun");
    wait_for_mode(&fleet, "tun").await;
    assert_split(&fleet, &programs, &outside);
    let mut agent = fleet.agent.take().unwrap();
    processes::send(agent.pid(), Signal::SIGKILL);
    wait_for("the agent to be gone", Duration::from_secs(10), || {
        agent.try_wait().unwrap().ok_or_else(String::new)
    })
    .await
    .unwrap();
    assert_ne!(journal(&fleet), "");
    start_agent(&mut fleet, "userspace");
    wait_for_mode(&fleet, "userspace").await;
    assert_eq!(journal(&fleet), "");
    assert_as_before(&fleet, &programs, &outside).await;

    assert_eq!(
        std::fs::read("/etc/resolv.conf").ok(),
        hosts_own,
        "{}",
        resolved.logs()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_userspace_mode_the_proxies_ask_the_gateway_for_names_of_the_cluster() {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(reason) => {
            eprintln!("SKIPPED: names of the cluster in userspace mode: {reason}");
            return;
        }
    };
    // What stands behind the name.
    let service = tokio::net::TcpListener::bind((lab.host, 0)).await.unwrap();
    let port = service.local_addr().unwrap().port();
    let std::net::IpAddr::V4(host) = lab.host else {
        unreachable!("the lab has IPv4")
    };
    let cluster = NameServer::start(([127, 0, 0, 1], 0).into(), host.octets()).await;
    let registry_lines = format!(
        "\n[dns]\nsuffixes = [\"svc.cluster.local\"]\nresolver = \"{}\"\n\
         [[policy.allow]]\nnetwork = \"{host}/32\"\nports = [{port}]\n",
        cluster.address
    );
    let fleet = Fleet::start_with(&registry_lines, Some(lab)).await;
    wait_for_mode(&fleet, "userspace").await;
    // Nothing of the device goes there but through the tunnel.
    let lab = fleet.lab.as_ref().unwrap();
    lab.block(&[&format!("ip daddr {host} tcp dport {port}")])
        .unwrap();

    let serving = tokio::spawn(async move {
        let (mut stream, _) = service.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"from the cluster")
            .await
            .unwrap();
    });
    let mut nc = fleet.agent_command();
    nc.args(["nc", CLUSTERS, &port.to_string()])
        .stdin(std::process::Stdio::null());
    let answer = tokio::task::spawn_blocking(move || nc.output().unwrap())
        .await
        .unwrap();
    assert!(
        text(&answer).starts_with("from the cluster"),
        "{}\n{}",
        text(&answer),
        fleet.logs("agent")
    );
    serving.await.unwrap();
    assert!(cluster.asked().iter().any(|name| name == CLUSTERS));
}
