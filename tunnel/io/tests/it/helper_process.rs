//! The helper process of the namespace: what it may do, and what its end does.

use std::fs;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use orfe_tunnel::dial::{DialError, Dialer};
use orfe_tunnel::{Phase, PrivateKey, TcpStack, Tunnel, TunnelConfig, TunnelError, TunnelPeer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::servers::Server;
use crate::support::{Device, HELPER, gateway, inner, tcp_stack, until, up};

/// Names the part that a run of this program within a test plays.
const PART: &str = "ORFE_TEST_PART";

/// A helper of a test's own, told from the others by its path.
struct Own {
    folder: TempDir,
}

impl Own {
    /// None, and said so, where there are no namespaces.
    fn new() -> Option<Self> {
        (tcp_stack() == TcpStack::Namespace).then(|| {
            let folder = tempfile::tempdir().unwrap();
            symlink(HELPER, folder.path().join("helper")).unwrap();
            Self { folder }
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("helper")
    }

    /// The numbers of the processes that were started by this path.
    fn processes(&self) -> Vec<u32> {
        let path = self.path();
        let is_own = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(path.as_os_str().as_encoded_bytes()))
        };
        let entries = fs::read_dir("/proc").unwrap();
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        numbers.filter(is_own).collect()
    }
}

fn config(endpoint: SocketAddr, device: &Device, tcp_stack: TcpStack, helper: &Path) -> TunnelConfig {
    TunnelConfig {
        private_key: device.key.clone(),
        addresses: vec![device.address],
        peer: TunnelPeer {
            public_key: PrivateKey::generate().public_key(),
            preshared_key: None,
            endpoint: Some(endpoint),
            allowed_ips: vec!["100.127.0.0/16".parse().unwrap()],
            keepalive: Some(std::time::Duration::from_secs(25)),
        },
        mtu: TunnelConfig::DEFAULT_MTU,
        bind: "127.0.0.1:0".parse().unwrap(),
        tcp_stack,
        helper: helper.to_owned(),
    }
}

/// A tunnel that goes nowhere.
fn idle(tcp_stack: TcpStack, helper: &Path) -> Result<Tunnel, TunnelError> {
    Tunnel::start(config(
        "127.0.0.1:9".parse().unwrap(),
        &Device::new(7),
        tcp_stack,
        helper,
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_no_right_and_shows_nothing() {
    let Some(own) = Own::new() else { return };
    let tunnel = idle(TcpStack::Namespace, &own.path()).unwrap();
    let pid = own.processes()[0];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}"))
            .trim()
            .to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    assert_eq!(
        (field("Threads:"), field("NoNewPrivs:")),
        ("1".to_owned(), "1".to_owned())
    );
    let environment = fs::metadata(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(
        environment.uid(),
        0,
        "only root may look into a process that is not dumpable"
    );
    // Root may, and sees its channel and two null devices once it has let go of the device that it handed over.
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    if descriptors().is_ok() {
        until("it keeps three descriptors", || descriptors().unwrap() == 3).await;
        assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    }
    tunnel.shutdown().await;
    assert_eq!(own.processes(), [0; 0], "it ends with the tunnel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_lets_go_of_the_code_of_its_start() {
    let Some(own) = Own::new() else { return };
    let tunnel = idle(TcpStack::Namespace, &own.path()).unwrap();
    let status = format!("/proc/{}/status", own.processes()[0]);
    let kib = |name: &str| {
        let status = fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    // It answers first, so that nobody waits for it.
    until("it is smaller than it was", || {
        kib("VmRSS:") + 512 < kib("VmHWM:")
    })
    .await;
    tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_death_resets_connections_and_ends_the_tunnel() {
    let Some(own) = Own::new() else { return };
    let server = Server::echo().await;
    let gateway = gateway(&[(443, server.address)]);
    let device = Device::new(1);
    gateway.set_peers(vec![device.peer()]);
    let mut config = config(gateway.local_addr(), &device, TcpStack::Auto, &own.path());
    config.peer.public_key = gateway.public_key();
    let tunnel = Tunnel::start(config).unwrap();
    up(&tunnel).await;
    let status = tunnel.status().borrow().clone();
    assert_eq!((status.stack, status.phase), ("namespace", Phase::Up));
    assert!(
        status.congestion_control.is_some(),
        "what the kernel granted is shown"
    );
    let dialer = tunnel.dialer();
    let mut stream = dialer.dial(inner(443)).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();

    kill(own.processes()[0]);
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut status = tunnel.status();
    until("the status ends", || status.has_changed().is_err()).await;
    let error = dialer.dial(inner(443)).await.map(drop).unwrap_err();
    assert!(matches!(error, DialError::TunnelDown { .. }), "{error}");
    until("the gateway heard of it", || gateway.stats().connections == 0).await;
    status.mark_unchanged();
    assert_eq!(status.borrow().connections, 0);
    tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_udp_socket_of_the_namespace_sends_into_the_tunnel() {
    let Some(own) = Own::new() else { return };
    let gateway = gateway(&[]);
    let device = Device::new(1);
    gateway.set_peers(vec![device.peer()]);
    let mut config = config(gateway.local_addr(), &device, TcpStack::Namespace, &own.path());
    config.peer.public_key = gateway.public_key();
    let tunnel = Tunnel::start(config).unwrap();
    up(&tunnel).await;
    let dialer = tunnel.dialer();
    let socket = dialer.bind_datagrams(inner(53)).await.unwrap();
    let before = tunnel.status().borrow().tx_bytes;
    socket.send_to(&[7; 500], inner(53)).await.unwrap();
    until("it was encrypted and sent", || {
        tunnel.status().borrow().tx_bytes >= before + 500
    })
    .await;
    // The device has no IPv6 address.
    let error = dialer.bind_datagrams("[fd00::1]:53".parse().unwrap()).await;
    assert!(matches!(error.map(drop), Err(DialError::Io { .. })));
    tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_a_parent_that_is_killed() {
    let Some(own) = Own::new() else { return };
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_process::play_a_part", "--nocapture"])
        .env(PART, "hold")
        .env("ORFE_TEST_HELPER", own.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = std::io::BufReader::new(parent.stdout.take().unwrap()).lines();
    let held = tokio::task::block_in_place(|| output.any(|line| line.unwrap().ends_with("held")));
    assert!(held && own.processes().len() == 1);
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("the helper is gone", || own.processes().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_no_helper_means_smoltcp() {
    let no_helper = Path::new("/bin/true");
    let error = idle(TcpStack::Namespace, no_helper).unwrap_err();
    assert!(
        matches!(&error, TunnelError::NoNamespace { reason, .. } if reason.contains("did not answer")),
        "{error}"
    );
    let tunnel = idle(TcpStack::Auto, no_helper).unwrap();
    let status = tunnel.status().borrow().clone();
    assert_eq!((status.stack, status.congestion_control), ("smoltcp", None));
    assert!(
        status.stack_reason.contains("did not answer"),
        "{}",
        status.stack_reason
    );
    tunnel.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_that_allows_none_is_told_what_to_change() {
    // In a user namespace of its own one may lower the limits of everything below it.
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 > /proc/sys/user/max_net_namespaces && exec \"$0\" --exact helper_process::play_a_part --nocapture")
        .arg(std::env::current_exe().unwrap())
        .env(PART, "refused")
        .env("ORFE_TEST_HELPER", HELPER)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: a system without namespaces: unshare(1): {error}");
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !text.contains("running 1 test") {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        eprintln!("SKIPPED: a system without namespaces: {}", reason.trim());
        return;
    }
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("making a namespace was refused") && text.contains("user.max_net_namespaces"),
        "{text}"
    );
}

/// No test by itself: what this program does when a test runs it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the outer test reads it")]
async fn play_a_part() {
    let Ok(part) = std::env::var(PART) else { return };
    let helper = PathBuf::from(std::env::var_os("ORFE_TEST_HELPER").unwrap());
    if part == "hold" {
        let _tunnel = idle(TcpStack::Namespace, &helper).unwrap();
        println!("held");
        // Until it is killed, or the outer test is.
        let _ = std::io::stdin().read_line(&mut String::new());
    } else {
        let error = idle(TcpStack::Namespace, &helper).unwrap_err();
        println!("{error}; {}", error.hint().unwrap_or_default());
    }
}

fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
}
