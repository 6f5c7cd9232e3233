//! A person's plain client: wireguard-go in a network namespace of its own, on the gateway.
//!
//! The test makes a namespace and a veth pair into it, runs wireguard-go there, and fetches from there with bash's own
//! TCP. It needs root, `/dev/net/tun`, `ip`, and either wireguard-go or a Go tool that can install it (kept under the target
//! folder); without one of them it says so and is skipped. What it made is taken away when it ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use data_encoding::HEXLOWER;
use orfe_tunnel::{Gateway, GatewayConfig, PrivateKey, PublicKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

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
        listen: SocketAddr::new(lab.host_address.parse().unwrap(), 0),
        addresses: vec!["100.64.0.1".parse().unwrap()],
        mtu: 1280,
    };
    let gateway = Gateway::start(config, policy(&[(80, server.address), (81, nobody().await)])).unwrap();
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
        let peer = gateway.peers().remove(0);
        (peer.forwarded, peer.failed, peer.refused, peer.connections) == (1, 1, 2, 0)
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
    if !binary.exists() {
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

async fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.await.is_ok_and(|status| status.success())
}

/// A namespace with a veth pair into it.
struct Lab {
    namespace: String,
    host_link: String,
    host_address: String,
}

impl Lab {
    async fn new() -> Self {
        let id = std::process::id();
        let lab = Self {
            namespace: format!("orfe-it-{id}"),
            host_link: format!("oh{id}"),
            host_address: format!("10.99.{}.1", id % 250),
        };
        let (namespace, host_link, inside_link) =
            (lab.namespace.as_str(), lab.host_link.as_str(), format!("on{id}"));
        let inside_address = format!("10.99.{}.2/30", id % 250);
        ip(&["netns", "add", namespace]).await;
        ip(&[
            "link",
            "add",
            host_link,
            "type",
            "veth",
            "peer",
            "name",
            &inside_link,
            "netns",
            namespace,
        ])
        .await;
        ip(&[
            "address",
            "add",
            &format!("{}/30", lab.host_address),
            "dev",
            host_link,
        ])
        .await;
        ip(&["link", "set", host_link, "up"]).await;
        ip(&[
            "-n",
            namespace,
            "address",
            "add",
            &inside_address,
            "dev",
            &inside_link,
        ])
        .await;
        ip(&["-n", namespace, "link", "set", &inside_link, "up"]).await;
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
                &self.namespace,
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
        for arguments in [
            ["link", "delete", &self.host_link],
            ["netns", "delete", &self.namespace],
        ] {
            let status = std::process::Command::new("ip").args(arguments).status();
            if !status.is_ok_and(|status| status.success()) {
                eprintln!("left behind: ip {arguments:?} failed");
            }
        }
    }
}

/// wireguard-go in the lab's namespace; ends when dropped.
struct Client {
    _process: Child,
}

impl Client {
    async fn start(lab: &Lab, wireguard_go: &Path, device: &Device, gateway: &Gateway) -> Self {
        let link = format!("ow{}", std::process::id());
        let process = Command::new("ip")
            .args(["netns", "exec", &lab.namespace])
            .arg(wireguard_go)
            .args(["-f", &link])
            .env("LOG_LEVEL", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let client = Self { _process: process };
        configure(&link, &device.key, gateway.public_key(), gateway.local_addr()).await;
        let namespace = lab.namespace.as_str();
        ip(&[
            "-n",
            namespace,
            "address",
            "add",
            &format!("{}/32", device.address),
            "dev",
            &link,
        ])
        .await;
        ip(&["-n", namespace, "link", "set", &link, "up"]).await;
        ip(&["-n", namespace, "route", "add", "100.127.0.0/16", "dev", &link]).await;
        client
    }
}

/// Sets keys and peer by wireguard-go's own control socket (the cross-platform userspace protocol of WireGuard).
async fn configure(link: &str, key: &PrivateKey, gateway: PublicKey, endpoint: SocketAddr) {
    let path = format!("/var/run/wireguard/{link}.sock");
    let connect = async {
        loop {
            if let Ok(socket) = UnixStream::connect(&path).await {
                return socket;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut socket = tokio::time::timeout(PATIENCE, connect)
        .await
        .expect("wireguard-go does not start");
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
