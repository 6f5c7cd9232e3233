//! The tunnel between two machines (network namespaces with a wire between them): against wireguard-go, while addresses
//! change, and on poor paths.
//!
//! Every test is run for every TCP stack in [`STACKS`]. What arrives is compared with what was sent, byte by byte. The tests
//! need root, `/dev/net/tun` and `ip`; without them they say so and are skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking, helpers of tests too"
)]
#![allow(
    clippy::print_stderr,
    reason = "measured figures and skipped stages are for who runs the tests"
)]

mod interop;
mod poor;
mod roam;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orfe_test_support::lab::ends::{self, EndSpec, Keys, Mode, RunningEnd, SERVICE, SERVICE_NAME, TcpStack};
use orfe_test_support::lab::program::Program;
use orfe_test_support::lab::{self, Lab, Side, User, wg};
use orfe_test_support::load::client::EchoReport;
use orfe_test_support::load::{Job, Work};
use serde_json::Value;
use tempfile::TempDir;

use crate::programs;

/// The device's TCP stacks, with the mode that has them.
const STACKS: [Mode; 3] = [
    Mode::Tun,
    Mode::Userspace(TcpStack::Namespace),
    Mode::Userspace(TcpStack::Smoltcp),
];

/// The gateway on each of the TCP stacks that it may have.
const GATEWAYS: [Mode; 2] = [
    Mode::Gateway(TcpStack::Namespace),
    Mode::Gateway(TcpStack::Smoltcp),
];

/// Bound on waits that are expected to be short. A test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// True, and said, when no lab can be made here.
fn skipped(what: &str) -> bool {
    let obstacle = lab::obstacle();
    if let Some(reason) = &obstacle {
        eprintln!("SKIPPED: {what}: {reason}");
    }
    obstacle.is_some()
}

/// wireguard-go, or nothing, and said, when there is none.
fn wireguard_go(what: &str) -> Option<PathBuf> {
    let found =
        tokio::task::block_in_place(|| wg::wireguard_go(&programs::target_folder().join("wireguard-go")));
    found
        .inspect_err(|reason| eprintln!("SKIPPED: {what}: {reason}"))
        .ok()
}

/// A program at one end.
#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    /// Orfe, in this mode of its driver.
    Orfe(Mode),
    /// wireguard-go, here.
    WireguardGo(&'a Path),
}

/// Two machines with a tunnel between them, and a server on the far one.
struct Pair {
    near: RunningEnd,
    // The far end serves until it is dropped.
    _far: RunningEnd,
    relay: Option<Program>,
    server: Program,
    programs: TempDir,
    lab: Lab,
}

impl Pair {
    /// Starts the far end, then, if there are arguments for it, a relay before it, then the near end.
    async fn start(near: Kind<'_>, far: Kind<'_>, relay: Option<&[&str]>) -> Self {
        let programs = copied(&["tunnel-end", "tunnel-load", "impair"]);
        let folder = programs.path();
        let lab = Lab::new("onet").unwrap();
        let keys = Keys::generate();
        let spec = |side, kind: Kind<'_>, endpoint| {
            let program = match kind {
                Kind::Orfe(_) => folder.join("tunnel-end"),
                Kind::WireguardGo(program) => program.to_owned(),
            };
            (side, program, endpoint)
        };
        let mut serve = lab.command(Side::Far, User::Root, &folder.join("tunnel-load"));
        serve.args(["serve", &format!("0.0.0.0:{SERVICE}")]);
        let mut server = Program::start(serve, "server", folder).unwrap();
        server.hear(PATIENCE).await.unwrap();
        let far = start_end(
            &lab,
            spec(Side::Far, far, ends::far_endpoint()),
            far,
            &keys,
            folder,
        )
        .await;
        let (relay, endpoint) = match relay {
            None => (None, ends::far_endpoint()),
            Some(arguments) => {
                let (relay, endpoint) = start_relay(&lab, arguments, folder).await;
                (Some(relay), endpoint)
            }
        };
        let near = start_end(&lab, spec(Side::Near, near, endpoint), near, &keys, folder).await;
        Self {
            near,
            _far: far,
            relay,
            server,
            programs,
            lab,
        }
    }

    /// Sends bytes to the far machine and back on some streams at once; to be heard when it is done.
    async fn begin_echo(&self, streams: usize, bytes: u64) -> Program {
        let folder = self.programs.path();
        let mut command = self
            .lab
            .command(Side::Near, User::Root, &folder.join("tunnel-load"));
        command.arg("drive");
        let mut client = Program::start(command, "client", folder).unwrap();
        let proxy = self.near.proxy.clone();
        let to = if proxy.is_some() {
            format!("{SERVICE_NAME}:{SERVICE}")
        } else {
            format!("{}:{SERVICE}", ends::inner(Side::Far))
        };
        let job = Job {
            to,
            proxy,
            work: Work::Echo { streams, bytes },
        };
        client.say(&serde_json::to_string(&job).unwrap()).await.unwrap();
        client
    }

    /// The same, to its end: all bytes came back as they were sent.
    async fn echo(&self, streams: usize, bytes: u64, within: Duration) -> EchoReport {
        let mut client = self.begin_echo(streams, bytes).await;
        finish_echo(&mut client, streams, bytes, within).await
    }

    /// Bytes that the server has received so far.
    async fn served(&mut self) -> u64 {
        let answer = self.server.ask("count", PATIENCE).await.unwrap();
        answer["received"].as_u64().unwrap()
    }

    /// Waits until the server has received more than `bytes`.
    async fn until_served(&mut self, bytes: u64) {
        let waiting = async {
            while self.served().await <= bytes {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "the transfer stands still before {bytes} bytes");
    }

    /// Sends the relay a command; what it has counted so far.
    async fn relay(&mut self, command: &str) -> Value {
        let relay = self.relay.as_mut().expect("this pair has a relay");
        relay.ask(command, PATIENCE).await.unwrap()
    }
}

/// The report of an echo that was begun.
async fn finish_echo(client: &mut Program, streams: usize, bytes: u64, within: Duration) -> EchoReport {
    let report = client.hear(within).await.unwrap();
    let report: EchoReport = serde_json::from_value(report).unwrap();
    assert_eq!(report.bytes, bytes * streams as u64);
    report
}

/// Built programs where an ordinary user may run them, wherever the workspace is.
fn copied(names: &[&str]) -> TempDir {
    let folder = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    for name in names {
        fs::copy(programs::support_path(name), folder.path().join(name)).unwrap();
    }
    folder
}

async fn start_end(
    lab: &Lab,
    (side, program, endpoint): (Side, PathBuf, SocketAddr),
    kind: Kind<'_>,
    keys: &Keys,
    logs: &Path,
) -> RunningEnd {
    let spec = EndSpec {
        side,
        program: &program,
        keys,
        endpoint,
        logs,
    };
    let started = match kind {
        Kind::WireguardGo(_) => tokio::task::block_in_place(|| spec.start_wireguard(lab, &["-f"])),
        Kind::Orfe(Mode::Tun) => spec.start_orfe(lab, Mode::Tun, User::Root).await,
        Kind::Orfe(mode) => spec.start_orfe(lab, mode, User::Ordinary).await,
    };
    let end = started.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
    if let Kind::Orfe(Mode::Userspace(stack) | Mode::Gateway(stack)) = kind {
        let got = end.tcp.as_ref().map(|tcp| tcp.stack.as_str());
        assert_eq!(got, Some(stack.as_str()));
    }
    end
}

async fn start_relay(lab: &Lab, arguments: &[&str], folder: &Path) -> (Program, SocketAddr) {
    let mut command = lab.command(Side::Far, User::Root, &folder.join("impair"));
    command
        .args(["--listen", &format!("{}:0", Side::Far.wire())])
        .args(["--target", &ends::far_endpoint().to_string()])
        .args(arguments);
    let mut relay = Program::start(command, "relay", folder).unwrap();
    let ready = relay.hear(PATIENCE).await.unwrap();
    let address = ready["listening"].as_str().unwrap().parse().unwrap();
    (relay, address)
}
