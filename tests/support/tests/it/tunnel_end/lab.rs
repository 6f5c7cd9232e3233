//! Network namespaces in a row: 0 and 1 are the ends, 2 hangs on a bridge of 0.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use data_encoding::HEXLOWER;
use orfe_test_support::wait::wait_for_blocking;
use orfe_tunnel::PrivateKey;
use serde_json::Value;

/// Bound on anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What carries the datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outer {
    V4,
    V6,
}

/// A key pair as text.
pub(super) struct Keys {
    pub(super) private: String,
    pub(super) public: String,
    private_hex: String,
    public_hex: String,
}

impl Keys {
    pub(super) fn new() -> Self {
        let key = PrivateKey::generate();
        Self {
            private: data_encoding::BASE64.encode(key.as_bytes()),
            public: key.public_key().to_string(),
            private_hex: HEXLOWER.encode(key.as_bytes()),
            public_hex: HEXLOWER.encode(key.public_key().as_bytes()),
        }
    }
}

/// Namespaces that are gone when it is dropped.
pub(super) struct Lab {
    namespaces: Vec<String>,
}

impl Lab {
    /// Namespaces 0 and 1 with a veth pair between them, and with `count` 3 another one on a bridge of the first. `None`
    /// when they cannot be had here; that is said.
    pub(super) fn new(name: &str, count: usize) -> Option<Self> {
        let missing = if !rustix::process::geteuid().is_root() {
            Some("not root")
        } else if !Path::new("/dev/net/tun").exists() {
            Some("no /dev/net/tun")
        } else if !has("ip", "-V") {
            Some("no `ip` (Debian package iproute2)")
        } else {
            None
        };
        if let Some(reason) = missing {
            crate::announce(&format!("SKIPPED: TUN mode, {name}: {reason}"));
            return None;
        }
        let id = std::process::id();
        let lab = Self {
            namespaces: (0..count)
                .map(|number| format!("orfe-{name}-{id}-{number}"))
                .collect(),
        };
        for namespace in &lab.namespaces {
            run(&["netns", "add", namespace]);
            run(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        (0..count).for_each(|number| lab.forward_nothing(number));
        lab.join((0, "outer"), (1, "outer"));
        for number in [0, 1] {
            lab.address(
                number,
                "outer",
                &format!("{}/24", lab.outer(Outer::V4, number).ip()),
            );
            lab.address(
                number,
                "outer",
                &format!("{}/64", lab.outer(Outer::V6, number).ip()),
            );
        }
        if count > 2 {
            lab.join((0, lab.bridge()), (2, "eth0"));
            lab.address(0, lab.bridge(), "172.31.7.1/24");
            lab.address(2, "eth0", "172.31.7.2/24");
            run(&[
                "-n",
                &lab.namespaces[2],
                "route",
                "add",
                "default",
                "via",
                "172.31.7.1",
            ]);
        }
        Some(lab)
    }

    /// A new namespace forwards what the machine's first one does, and Docker's engine has that forward everything.
    fn forward_nothing(&self, number: usize) {
        self.within(number, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        });
    }

    fn join(&self, left: (usize, &str), right: (usize, &str)) {
        let (from, to) = (&self.namespaces[left.0], &self.namespaces[right.0]);
        run(&[
            "-n", from, "link", "add", left.1, "type", "veth", "peer", "name", right.1, "netns", to,
        ]);
        run(&["-n", from, "link", "set", left.1, "up"]);
        run(&["-n", to, "link", "set", right.1, "up"]);
    }

    fn address(&self, number: usize, link: &str, address: &str) {
        let mut arguments = vec![
            "-n",
            &self.namespaces[number],
            "address",
            "add",
            address,
            "dev",
            link,
        ];
        if address.contains(':') {
            // Without it the address cannot be used for a second.
            arguments.push("nodad");
        }
        run(&arguments);
    }

    /// The interface on which namespace 2 hangs.
    #[allow(clippy::unused_self, reason = "it is a name inside the lab")]
    pub(super) fn bridge(&self) -> &'static str {
        "br-lab"
    }

    /// Where an end is outside.
    #[allow(clippy::unused_self, reason = "it is an address inside the lab")]
    pub(super) fn outer(&self, outer: Outer, number: usize) -> SocketAddr {
        let host = number as u8 + 1;
        match outer {
            Outer::V4 => (Ipv4Addr::new(10, 99, 7, host), 51820).into(),
            Outer::V6 => (Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, host.into()), 51820).into(),
        }
    }

    /// Sends `bytes` from namespace `from` to a listener at `address` in namespace `to` and back, and compares.
    pub(super) fn transfer(&self, from: usize, to: usize, address: SocketAddr, bytes: usize) {
        let listener = self.within(to, move || TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let sent: Vec<u8> = (0..bytes).map(|at| (at * 31 + at / 509) as u8).collect();
        let mut stream = self.within(from, move || {
            TcpStream::connect_timeout(&address, PATIENCE).unwrap()
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut came = Vec::new();
        stream.read_to_end(&mut came).unwrap();
        echo.join().unwrap();
        assert!(
            came == sent,
            "{} of {bytes} bytes came back from {address}",
            came.len()
        );
    }

    /// Runs `make` on a thread of that namespace. A socket stays where it was made.
    fn within<T: Send + 'static>(&self, number: usize, make: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.namespaces[number])).unwrap();
        thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            make()
        })
        .join()
        .unwrap()
    }

    fn command(&self, number: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespaces[number]])
            .arg(program);
        command
    }

    /// The tables of packet filter rules.
    pub(super) fn tables(&self, number: usize) -> Vec<String> {
        let output = self
            .command(number, "nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// Whether what comes in through the bridge is forwarded.
    pub(super) fn forwarding(&self, number: usize) -> String {
        let path = format!("/proc/sys/net/ipv4/conf/{}/forwarding", self.bridge());
        self.within(number, move || {
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        })
    }

    /// The routes to a network, as `ip` prints them.
    pub(super) fn routes(&self, number: usize, network: &str) -> String {
        let output = Command::new("ip")
            .args(["-n", &self.namespaces[number], "route", "show", network])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            if let Err(error) = Command::new("ip").args(["netns", "delete", namespace]).status() {
                crate::announce(&format!("left behind: {namespace}: {error}"));
            }
        }
    }
}

/// A `tunnel-end` in a namespace; it ends when dropped.
pub(super) struct End {
    process: Child,
}

impl End {
    pub(super) fn start(lab: &Lab, number: usize, config: &Value, segmentation: bool) -> Self {
        let mut process = Self::spawn(lab, number, config, segmentation, Stdio::inherit());
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("\"ready\":true"), "the end did not start: {line:?}");
        Self { process }
    }

    /// Starts an end that must not start; what it says.
    pub(super) fn refused(lab: &Lab, number: usize, config: &Value) -> String {
        let output = Self::spawn(lab, number, config, true, Stdio::piped())
            .wait_with_output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    fn spawn(lab: &Lab, number: usize, config: &Value, segmentation: bool, said: Stdio) -> Child {
        // `ip netns exec` becomes the program, so that a signal reaches it.
        let mut command = lab.command(number, env!("CARGO_BIN_EXE_tunnel-end"));
        if !segmentation {
            command.env(orfe_tunnel::udp::SEGMENTATION_VARIABLE, "off");
        }
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
    socket: PathBuf,
}

impl WireguardGo {
    pub(super) fn start(lab: &Lab, number: usize, binary: &Path, own: &Keys, other: &Keys) -> Self {
        // The name of the control socket belongs to the whole machine.
        let device = format!("owg{}", std::process::id());
        let process = lab
            .command(number, binary)
            .args(["-f", &device])
            .env("LOG_LEVEL", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let socket = Path::new("/var/run/wireguard").join(format!("{device}.sock"));
        let started = Self { process, socket };
        let mut stream = started.connect();
        let peer = 1 - number;
        let request = format!(
            "set=1\nprivate_key={}\nlisten_port=51820\npublic_key={}\nendpoint={}\nallowed_ip={}/32\nallowed_ip={}/128\n\n",
            own.private_hex,
            other.public_hex,
            lab.outer(Outer::V4, peer),
            inner_v4(peer, 0).ip(),
            inner_v6(peer, 0).ip()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 64];
        let len = stream.read(&mut answer).unwrap();
        assert_eq!(&answer[..len], b"errno=0\n\n");
        lab.address(number, &device, &format!("{}/24", inner_v4(number, 0).ip()));
        lab.address(number, &device, &format!("{}/64", inner_v6(number, 0).ip()));
        run(&[
            "-n",
            &lab.namespaces[number],
            "link",
            "set",
            &device,
            "mtu",
            "1420",
            "up",
        ]);
        started
    }

    fn connect(&self) -> UnixStream {
        wait_for_blocking("wireguard-go's control socket", PATIENCE, || {
            UnixStream::connect(&self.socket).map_err(|error| error.to_string())
        })
        .unwrap()
    }
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
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

/// An address inside the tunnel; port 0 lets the system choose.
pub(super) fn inner_v4(number: usize, port: u16) -> SocketAddr {
    (Ipv4Addr::new(10, 98, 7, number as u8 + 1), port).into()
}

pub(super) fn inner_v6(number: usize, port: u16) -> SocketAddr {
    (Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, number as u16 + 1), port).into()
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

fn run(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
