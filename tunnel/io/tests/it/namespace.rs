//! A person's plain client: wireguard-go in a network namespace of its own, on the gateway.
//!
//! The test makes a namespace and a veth pair into it, runs wireguard-go there, and fetches from there with bash's own
//! TCP. It needs root, `/dev/net/tun`, `ip`, and either wireguard-go or a Go tool that can install it (kept under the target
//! folder); without one of them it says so and is skipped. What it made is taken away when it ends; what a killed run
//! left, by the next one. Runs at the same time do not meet: each has a number of its own, and names and addresses by it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use data_encoding::HEXLOWER;
use orfe_tunnel::{Gateway, GatewayConfig, PrivateKey, PublicKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::support;
use crate::support::servers::{Server, nobody, pattern};
use crate::support::{Device, PATIENCE, inner, logging, policy, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wireguard_go_is_served_what_policy_names_and_nothing_else() {
    logging();
    let wireguard_go = match find_wireguard_go().await {
        Ok(path) => path,
        Err(reason) => {
            eprintln!("SKIPPED: wireguard-go as a client: {reason}");
            return;
        }
    };
    let lab = Lab::new().await;
    let answer = pattern(3_000_000, 5);
    let served = answer.clone();
    let server = Server::new(move |mut stream| {
        let served = served.clone();
        async move {
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&served).await.unwrap();
        }
    })
    .await;
    let config = GatewayConfig {
        private_key: PrivateKey::generate(),
        listen: SocketAddr::new(lab.names.host_address.parse().unwrap(), 0),
        addresses: vec!["100.64.0.1".parse().unwrap()],
        mtu: 1280,
    };
    let gateway = support::start(config, policy(&[(80, server.address), (81, nobody().await)]));
    let device = Device::new(9);
    gateway.set_peers(vec![device.peer()]);
    let _client = Client::start(&lab, &wireguard_go, &device, &gateway).await;

    let fetched = lab.fetch(inner(80)).await;
    assert!(
        fetched.status.success(),
        "{}",
        String::from_utf8_lossy(&fetched.stderr)
    );
    assert!(fetched.stdout == answer, "{} bytes came", fetched.stdout.len());
    let others = [inner(81), inner(22), "100.127.9.9:80".parse().unwrap()];
    for destination in others {
        let refused = lab.fetch(destination).await;
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && message.contains("refused"),
            "{destination}: {message}"
        );
    }
    until("all is counted", || {
        gateway
            .peers()
            .first()
            .is_some_and(|peer| (peer.forwarded, peer.failed, peer.refused, peer.connections) == (1, 1, 2, 0))
    })
    .await;

    gateway.set_peers(Vec::new());
    until("the peer is gone", || gateway.peers().is_empty()).await;
    let cut_off = lab.fetch(inner(80)).await;
    assert_eq!(
        cut_off.status.code(),
        Some(124),
        "no answer within the time that was given"
    );
}

/// The binary, or why there is none.
async fn find_wireguard_go() -> Result<PathBuf, String> {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .await
        .is_ok_and(|output| output.stdout == b"0\n");
    if !is_root {
        return Err("not root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err("no /dev/net/tun".to_owned());
    }
    if !succeeds("ip", &["-V"]).await {
        return Err("no `ip` (Debian package iproute2)".to_owned());
    }
    if succeeds("wireguard-go", &["--version"]).await {
        return Ok("wireguard-go".into());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wireguard-go");
    let binary = folder.join("wireguard");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // Another run may be building it; a binary that is half written cannot be run.
    let _building = locked(&folder.join("lock"))?;
    if !succeeds(&binary, &["--version"]).await {
        let install = Command::new("go")
            .args(["install", "golang.zx2c4.com/wireguard@latest"])
            .env("GOBIN", &folder)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| format!("neither wireguard-go nor go can be run: {error}"))?;
        if !install.status.success() {
            return Err(format!(
                "wireguard-go could not be built: {}",
                String::from_utf8_lossy(&install.stderr)
            ));
        }
    }
    Ok(binary)
}

/// The lock on this file, held until it is dropped or the process ends.
fn locked(path: &Path) -> Result<File, String> {
    let lock = || -> std::io::Result<File> {
        let file = File::create(path)?;
        file.lock()?;
        Ok(file)
    };
    tokio::task::block_in_place(lock).map_err(|error| format!("{}: {error}", path.display()))
}

async fn succeeds(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.await.is_ok_and(|status| status.success())
}

/// Where locks on numbers of labs are kept. Network namespaces belong to the whole machine, and so does this.
const LOCKS: &str = "/run/orfe-it";
/// Labs at once on one machine.
const MAX_LABS: u8 = 64;

/// A namespace with a veth pair into it.
struct Lab {
    names: Names,
    /// Held while the lab is in use; the system lets go of it however the process ends.
    _lock: File,
}

/// What a lab's number names. Who holds the number's lock owns all of it.
struct Names {
    namespace: String,
    host_link: String,
    inside_link: String,
    tunnel_link: String,
    /// Of 198.18.0.0/15, which is set aside for test networks.
    host_address: String,
    inside_address: String,
}

impl Names {
    fn new(number: u8) -> Self {
        Self {
            namespace: format!("orfe-it-{number}"),
            host_link: format!("orfe-it-h{number}"),
            inside_link: format!("orfe-it-i{number}"),
            tunnel_link: format!("orfe-it-w{number}"),
            host_address: format!("198.18.{number}.1"),
            inside_address: format!("198.18.{number}.2"),
        }
    }

    fn socket(&self) -> PathBuf {
        Path::new("/var/run/wireguard").join(format!("{}.sock", self.tunnel_link))
    }

    /// Takes away whatever there is under these names, and says what could not be taken away.
    fn clear(&self) {
        let ip = |arguments: &[&str]| match std::process::Command::new("ip").args(arguments).output() {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(output) => {
                let message = String::from_utf8_lossy(&output.stderr).into_owned();
                eprintln!("left behind: ip {arguments:?}: {}", message.trim());
                String::new()
            }
            Err(error) => {
                eprintln!("left behind: ip {arguments:?}: {error}");
                String::new()
            }
        };
        if Path::new("/run/netns").join(&self.namespace).exists() {
            for pid in ip(&["netns", "pids", &self.namespace]).split_whitespace() {
                // It may have ended since.
                let _ = std::process::Command::new("kill")
                    .args(["-KILL", pid])
                    .stderr(Stdio::null())
                    .status();
            }
            ip(&["netns", "delete", &self.namespace]);
        }
        // The namespace takes its end of the pair with it, and so the other, but only when its last process is gone.
        if Path::new("/sys/class/net").join(&self.host_link).exists() {
            let _ = std::process::Command::new("ip")
                .args(["link", "delete", &self.host_link])
                .stderr(Stdio::null())
                .status();
        }
        if let Err(error) = fs::remove_file(self.socket())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("left behind: {}: {error}", self.socket().display());
        }
    }
}

impl Lab {
    /// A lab with the lowest number that is free. Clears what killed runs left under any number that nobody uses.
    async fn new() -> Self {
        fs::create_dir_all(LOCKS).unwrap();
        let mut own = None;
        for number in 0..MAX_LABS {
            let path = Path::new(LOCKS).join(number.to_string());
            // Above the first free number only those are of interest that were used once.
            if own.is_some() && !path.exists() {
                continue;
            }
            let lock = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if lock.try_lock().is_ok() {
                let names = Names::new(number);
                names.clear();
                if own.is_none() {
                    own = Some(Self { names, _lock: lock });
                }
            }
        }
        let lab = own.unwrap_or_else(|| panic!("all {MAX_LABS} labs are in use, see the locks in {LOCKS}"));
        let names = &lab.names;
        ip(&["netns", "add", &names.namespace]).await;
        ip(&[
            "link",
            "add",
            &names.host_link,
            "type",
            "veth",
            "peer",
            "name",
            &names.inside_link,
            "netns",
            &names.namespace,
        ])
        .await;
        let (host_address, inside_address) = (
            format!("{}/30", names.host_address),
            format!("{}/30", names.inside_address),
        );
        ip(&["address", "add", &host_address, "dev", &names.host_link]).await;
        ip(&["link", "set", &names.host_link, "up"]).await;
        let inside = ["-n", &names.namespace];
        ip(&[
            &inside[..],
            &["address", "add", &inside_address, "dev", &names.inside_link],
        ]
        .concat())
        .await;
        ip(&[&inside[..], &["link", "set", &names.inside_link, "up"]].concat()).await;
        lab
    }

    /// Connects from inside the namespace, sends four bytes and prints the answer; status 124 when it takes too long.
    async fn fetch(&self, destination: SocketAddr) -> Output {
        let script = format!(
            "exec 3<>/dev/tcp/{}/{} && printf 'GET\\n' >&3 && cat <&3",
            destination.ip(),
            destination.port()
        );
        let run = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.names.namespace,
                "timeout",
                "5",
                "bash",
                "-c",
                &script,
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(PATIENCE, run)
            .await
            .expect("the fetch hangs")
            .unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.names.clear();
    }
}

/// wireguard-go in the lab's namespace; ends when dropped.
struct Client {
    _process: Child,
}

impl Client {
    async fn start(lab: &Lab, wireguard_go: &Path, device: &Device, gateway: &Gateway) -> Self {
        let (namespace, link) = (lab.names.namespace.as_str(), lab.names.tunnel_link.as_str());
        let process = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(wireguard_go)
            .args(["-f", link])
            .env("LOG_LEVEL", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let client = Self { _process: process };
        configure(
            &lab.names.socket(),
            &device.key,
            gateway.public_key(),
            gateway.local_addr(),
        )
        .await;
        ip(&[
            "-n",
            namespace,
            "address",
            "add",
            &format!("{}/32", device.address),
            "dev",
            link,
        ])
        .await;
        ip(&["-n", namespace, "link", "set", link, "up"]).await;
        ip(&["-n", namespace, "route", "add", "100.127.0.0/16", "dev", link]).await;
        client
    }
}

/// Sets keys and peer by wireguard-go's own control socket (the cross-platform userspace protocol of WireGuard).
async fn configure(path: &Path, key: &PrivateKey, gateway: PublicKey, endpoint: SocketAddr) {
    until("wireguard-go's control socket answers", || {
        std::os::unix::net::UnixStream::connect(path).is_ok()
    })
    .await;
    let mut socket = UnixStream::connect(path).await.unwrap();
    let (key, gateway) = (
        HEXLOWER.encode(key.as_bytes()),
        HEXLOWER.encode(gateway.as_bytes()),
    );
    let request = format!(
        "set=1\nprivate_key={key}\npublic_key={gateway}\nendpoint={endpoint}\nallowed_ip=100.127.0.0/16\n\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 64];
    let len = socket.read(&mut answer).await.unwrap();
    assert_eq!(&answer[..len], b"errno=0\n\n");
}

async fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().await.unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
