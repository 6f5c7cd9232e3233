//! What runs in the lab's namespaces: the end that is tested, and wireguard-go.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use orfe_test_support::lab::wg::{self, Interface};
use orfe_tunnel::PrivateKey;
use serde_json::Value;

use super::lab::{Lab, Outer, inner_v4, inner_v6};

/// The end that is started.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tunnel-end");

/// A key pair, as text too.
pub(super) struct Keys {
    pub(super) private: String,
    pub(super) public: String,
    key: PrivateKey,
}

impl Keys {
    pub(super) fn new() -> Self {
        let key = PrivateKey::generate();
        Self {
            private: key.to_base64().to_string(),
            public: key.public_key().to_string(),
            key,
        }
    }
}

/// A `tunnel-end` in a namespace; it ends when dropped.
pub(super) struct End {
    process: Child,
}

impl End {
    pub(super) fn start(lab: &Lab, number: usize, config: &Value, segmentation: bool) -> Self {
        let mut command = lab.command(number, PROGRAM);
        if !segmentation {
            command.env(orfe_tunnel::udp::SEGMENTATION_VARIABLE, "off");
        }
        Self::ready(command, config)
    }

    /// Starts an end that finds no program of the system.
    pub(super) fn start_without_programs(lab: &Lab, number: usize, config: &Value) -> Self {
        Self::ready(Self::without_programs(lab, number), config)
    }

    fn ready(command: Command, config: &Value) -> Self {
        let mut process = Self::spawn(command, config, Stdio::inherit());
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("\"ready\":true"), "the end did not start: {line:?}");
        Self { process }
    }

    /// Starts an end that must not start; what it says.
    pub(super) fn refused(lab: &Lab, number: usize, config: &Value) -> String {
        Self::said(lab.command(number, PROGRAM), config)
    }

    /// The same with one that finds no program of the system.
    pub(super) fn refused_without_programs(lab: &Lab, number: usize, config: &Value) -> String {
        Self::said(Self::without_programs(lab, number), config)
    }

    fn said(command: Command, config: &Value) -> String {
        let output = Self::spawn(command, config, Stdio::piped())
            .wait_with_output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    fn without_programs(lab: &Lab, number: usize) -> Command {
        let mut command = lab.command(number, "env");
        command.args(["PATH=/nonexistent", PROGRAM]);
        command
    }

    /// `command` becomes the program, as `ip netns exec` and `env` do, so that a signal reaches it.
    fn spawn(mut command: Command, config: &Value, said: Stdio) -> Child {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .unwrap();
        // The program ends when its standard input does, so it stays open.
        let stdin = process.stdin.as_mut().unwrap();
        stdin.write_all(format!("{config}\n").as_bytes()).unwrap();
        process
    }

    /// Asks it to end, and waits.
    pub(super) fn stop(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }

    /// Ends it without a chance to do anything, and waits until it is gone.
    pub(super) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// wireguard-go in a namespace; it ends when dropped.
pub(super) struct WireguardGo {
    process: Child,
    device: String,
}

impl WireguardGo {
    pub(super) fn start(lab: &Lab, number: usize, binary: &Path, own: &Keys, other: &Keys) -> Self {
        // The name of the control socket belongs to the whole machine; a killed program leaves it.
        let device = format!("owg{}", lab.number.value());
        let _ = std::fs::remove_file(wg::socket(&device));
        let process = lab
            .command(number, binary)
            .args(["-f", &device])
            .env("LOG_LEVEL", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self { process, device };
        let device = &started.device;
        let peer = 1 - number;
        let interface = Interface {
            private_key: &own.key,
            listen_port: 51820,
            peer: other.key.public_key(),
            endpoint: Some(lab.outer(Outer::V4, peer)),
            allowed_ips: &[
                format!("{}/32", inner_v4(peer, 0).ip()),
                format!("{}/128", inner_v6(peer, 0).ip()),
            ],
            keepalive: None,
        };
        wg::configure(device, &interface).unwrap();
        lab.address(number, device, &format!("{}/24", inner_v4(number, 0).ip()));
        lab.address(number, device, &format!("{}/64", inner_v6(number, 0).ip()));
        lab.ip(number, &format!("link set {device} mtu 1420 up"));
        started
    }
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(wg::socket(&self.device));
    }
}

/// wireguard-go, where there is one; what is missing is said.
pub(super) fn wireguard_go() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(3).unwrap();
    let found = [
        PathBuf::from("wireguard-go"),
        // Where `cargo xtask test` and the end-to-end tests keep what they install.
        target.join("tools/bin/wireguard-go"),
        target.join("wireguard-go/wireguard"),
        home.join("go/bin/wireguard"),
        home.join("go/bin/wireguard-go"),
    ]
    .into_iter()
    .find(|binary| has(binary, "--version"));
    if found.is_none() {
        crate::announce(
            "SKIPPED: TUN mode with wireguard-go: none on PATH, in target/tools/bin or in ~/go/bin (go install golang.zx2c4.com/wireguard@latest)",
        );
    }
    found
}

/// Whether a program can be run.
pub(super) fn has(program: impl AsRef<std::ffi::OsStr>, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
