//! The real WireGuard tools read the configuration of a person's peer, into a wireguard-go device in a namespace of its own.
//!
//! Needs root, `ip`, `wg` with `wg-quick`, and wireguard-go or `go`. What is missing is said, and the test is skipped.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use orfe_test_support::lab::namespace::{self, Namespace, Number, run};
use orfe_test_support::lab::wg;
use orfe_test_support::wait::wait_for;

use crate::agent::Agent;
use crate::peers::{desired, peers, site, value};
use crate::site::PATIENCE;

/// First part of names, by which what a killed run left is known.
const PREFIX: &str = "oregwg";

/// wireguard-go with a device that belongs to nobody yet; both go when dropped, and the namespace with them.
struct Device {
    process: Child,
    name: String,
    _namespace: Namespace,
    _number: Number,
}

impl Device {
    fn start(program: &Path) -> Self {
        let name = |number: u8| format!("{PREFIX}{number}");
        let number = Number::claim(PREFIX, |number| {
            Namespace::clear(&name(number));
            // It may be that nothing was left.
            let _ = fs::remove_file(wg::socket(&name(number)));
        })
        .unwrap();
        let name = name(number.value());
        let namespace = Namespace::add(name.clone()).unwrap();
        let process = namespace
            .command()
            .arg(program)
            .args(["-f", &name])
            .env("LOG_LEVEL", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // A large box that recommends the kernel's own.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process,
            name,
            _namespace: namespace,
            _number: number,
        }
    }

    async fn until_it_listens(&self) {
        let socket = wg::socket(&self.name);
        let connected = || UnixStream::connect(&socket).map_err(|error| error.to_string());
        wait_for("wireguard-go to listen", PATIENCE, connected)
            .await
            .unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(wg::socket(&self.name));
    }
}

/// wireguard-go, or why none of this can be done here.
fn prepared() -> Result<PathBuf, String> {
    if let Some(obstacle) = namespace::obstacle(&[]) {
        return Err(obstacle);
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err("no /dev/net/tun".to_owned());
    }
    if Command::new("wg").arg("--version").output().is_err() {
        return Err("no `wg` (Debian package wireguard-tools)".to_owned());
    }
    wg::wireguard_go(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("wireguard-go"))
}

/// Writes a file that only its owner may read: `wg-quick` warns about others.
fn write_private(path: &Path, text: &str) {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// The names' network of IPv6, which has the site's first 48 bits, as a device's own address has.
fn names_v6(of_a_device: &[IpAddr]) -> String {
    let own = of_a_device.iter().find_map(|address| match address {
        IpAddr::V6(address) => Some(address.segments()),
        IpAddr::V4(_) => None,
    });
    let [first, second, third, ..] = own.expect("a device has an address of IPv6");
    format!("{}/64", Ipv6Addr::new(first, second, third, 2, 0, 0, 0, 0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "a skipped stage is for who runs the tests")]
async fn the_tools_make_of_the_configuration_what_is_meant() {
    let program = match tokio::task::block_in_place(prepared) {
        Ok(program) => program,
        Err(reason) => {
            eprintln!("SKIPPED: the WireGuard tools on a peer's configuration: {reason}");
            return;
        }
    };
    let site = site().await;
    let conf = site
        .cli(&["peer", "add", "alice", "--preshared-key", "--no-qr"])
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("alice.conf");
    write_private(&whole, &conf);
    let stripped = run(Command::new("wg-quick").arg("strip").arg(&whole)).unwrap();
    let keys = folder.path().join("stripped.conf");
    write_private(&keys, &stripped);

    let device = Device::start(&program);
    device.until_it_listens().await;
    run(Command::new("wg").args(["setconf", &device.name]).arg(&keys)).unwrap();
    let dump = run(Command::new("wg").args(["show", &device.name, "dump"])).unwrap();
    let lines: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
    let [interface, peer] = &lines[..] else {
        panic!("not one peer: {dump}");
    };

    // The registry knows the public key that `wg` makes of the private one.
    let listed = peers(&site).await.peers[0].wireguard_public_key.to_string();
    assert_eq!(interface[1], listed);
    // Key, endpoint and interval are those that devices are told.
    let (mut agent, _) = Agent::joined(&site).await;
    let told = desired(&mut agent).await.tunnel.unwrap();
    assert_eq!(peer[0], told.gateway.public_key.to_string());
    assert_eq!(peer[1], value(&conf, "PresharedKey"));
    assert_eq!(peer[2], told.gateway.endpoints[0]);
    // The gateway itself and the names' addresses; the network is for devices of a team only.
    let allowed: BTreeSet<&str> = peer[3].split(',').collect();
    let names = names_v6(&told.addresses);
    assert_eq!(
        allowed,
        BTreeSet::from(["10.10.0.1/32", "100.127.0.0/16", &names])
    );
    assert_eq!(peer[7], "25");
    site.registry.shutdown().await;
}
