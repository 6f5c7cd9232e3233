//! The gateway's TCP stack in the whole system: the kernel's own without a right, and smoltcp where there can be no namespace.
//!
//! That a device is healthy says that its provisioner reached Coder, which policy names, through the gateway.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking, helpers of tests too"
)]
#![allow(clippy::print_stderr, reason = "skipped stages are for who runs the tests")]

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::fleet::{Fleet, Under, run, write_private};
use crate::programs;

/// `nobody`.
const ORDINARY: u32 = 65534;
/// Runs a program where `/dev/net/tun` has the mode that udev gives it: machines without udev have it for root alone.
const WITH_TUN: &str =
    "mount -t tmpfs -o mode=755 tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec \"$@\"";
/// Runs it where there is no such device.
const WITHOUT_TUN: &str = "mount -t tmpfs -o mode=755 tun /dev/net && exec \"$@\"";
/// Runs it where no network namespace may be made: who is root of a user namespace sets the limits below it.
const WITHOUT_NAMESPACES: &str = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"";

fn under(words: &[&str], user: u32) -> Under {
    Under {
        command: words.iter().map(ToString::to_string).collect(),
        user,
    }
}

/// True, and said, where the test's own means are missing.
fn is_skipped(what: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: {what}: only root can mount a /dev/net/tun of its own and become somebody else");
        return true;
    }
    false
}

/// What `gateway show` says of TCP.
fn tcp(fleet: &Fleet) -> Value {
    let shown = fleet.answer(fleet.registry_command().args(["gateway", "show", "--json"]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    shown["tcp"].clone()
}

/// How often the registry's log says which stack there is.
fn told(fleet: &Fleet) -> usize {
    fleet.logs("registry").matches("the gateway's TCP").count()
}

/// A fleet whose registry may have a namespace in this way, with the kernel's TCP fixed.
async fn has_the_kernels_tcp(setpriv: &[&str], user: u32) {
    let mount = ["unshare", "--mount", "sh", "-c", WITH_TUN, "sh", "setpriv"];
    let under = under(&[&mount[..], setpriv].concat(), user);
    let fleet = Fleet::start_with_registry_under("[tunnel]\ntcp_stack = \"namespace\"\n", under).await;
    fleet.wait_until_healthy().await;
    let tcp = tcp(&fleet);
    assert_eq!(tcp["stack"], "namespace", "{tcp}");
    assert_eq!(tcp["reason"], "the configuration fixes it (`tcp_stack`)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_user_has_the_kernels_tcp() {
    if is_skipped("the gateway's TCP as an ordinary user") {
        return;
    }
    let id = ORDINARY.to_string();
    let (user, group) = (format!("--reuid={id}"), format!("--regid={id}"));
    has_the_kernels_tcp(
        &[
            &user,
            &group,
            "--clear-groups",
            "--bounding-set=-all",
            "--no-new-privs",
        ],
        ORDINARY,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_without_rights_has_the_kernels_tcp() {
    if is_skipped("the gateway's TCP as root without rights") {
        return;
    }
    // What a container leaves to root at best, and what it may leave.
    for bounding in ["--bounding-set=-all", "--bounding-set=-net_admin"] {
        has_the_kernels_tcp(&[bounding, "--inh-caps=-all", "--no-new-privs"], 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_choice_is_the_kernels_tcp_where_it_can_be() {
    let fleet = Fleet::start().await;
    fleet.wait_until_healthy().await;
    let tcp = tcp(&fleet);
    assert_eq!(told(&fleet), 1);
    if tcp["stack"] == "namespace" {
        assert_eq!(tcp["reason"], "this system allows a private network namespace");
        assert!(tcp["congestion_control"].is_string(), "{tcp}");
    } else {
        eprintln!("SKIPPED: the gateway's TCP by choice: {tcp}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_can_be_no_namespace_smoltcp_serves_and_says_why() {
    if is_skipped("the gateway's TCP without namespaces") {
        return;
    }
    let refused = [
        (
            ["unshare", "--mount", "sh", "-c", WITHOUT_TUN, "sh"].as_slice(),
            "/dev/net/tun",
            "--device /dev/net/tun",
        ),
        (
            &[
                "unshare",
                "--user",
                "--map-root-user",
                "sh",
                "-c",
                WITHOUT_NAMESPACES,
                "sh",
            ],
            "making a namespace was refused",
            "user.max_net_namespaces",
        ),
    ];
    for (words, reason, hint) in refused {
        let fleet = Fleet::start_with_registry_under("", under(words, 0)).await;
        fleet.wait_until_healthy().await;
        let tcp = tcp(&fleet);
        assert_eq!((tcp["stack"].as_str(), told(&fleet)), (Some("smoltcp"), 1));
        let said = |field: &str, part: &str| tcp[field].as_str().is_some_and(|text| text.contains(part));
        assert!(said("reason", reason) && said("hint", hint), "{tcp}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_fixed_and_refused_is_an_error_that_says_what_to_do() {
    if is_skipped("the gateway's TCP without namespaces, fixed") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("registry.toml");
    write_private(&config, "[tunnel]\ntcp_stack = \"namespace\"\n");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", WITHOUT_TUN, "sh"])
        .arg(programs::path("orfe-registry"))
        .arg("--data")
        .arg(folder.path().join("data"))
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .args([
            "--listen",
            "127.0.0.1:0",
            "--wireguard",
            "127.0.0.1:0",
            "--dashboard",
            "127.0.0.1:0",
        ])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    let output = run(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "error: ",
        "opening /dev/net/tun was refused",
        "hint: ",
        "--device /dev/net/tun",
        "tcp_stack = \"auto\"",
    ] {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
}
