//! TUN mode with split DNS and a real systemd-resolved: the policy's names are asked of the gateway, all others of
//! whoever was asked before, and it is so again when the agent is gone, whichever way it ended.

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
    let outside = NameServer::start(lab.host).await;
    let resolved = Resolved::start(&programs, &mut lab, folder.path());
    let mut fleet = Fleet::start_with("", Some(lab)).await;
    fleet.stop_agent();
    fleet.agent_environment.push(("LD_LIBRARY_PATH", library_path()));
    std::os::unix::fs::symlink(&programs.resolvectl, fleet.path("bin/resolvectl")).unwrap();

    start_agent(&mut fleet, "tun");
    wait_for_mode(&fleet, "tun").await;
    assert_split(&fleet, &programs, &outside);
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
