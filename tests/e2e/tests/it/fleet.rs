//! A registry with its gateway, a stand-in Coder and one device, with relays in both links of the device.

mod commands;

use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use orfe_test_support::ports;
use orfe_test_support::process::ProcessGuard;
use orfe_test_support::relay::tcp::TcpRelay;
use orfe_test_support::relay::udp::UdpRelay;
use orfe_test_support::wait::wait_for_blocking;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use self::commands::run;
use crate::lab::Lab;
use crate::{processes, programs};

/// For everything that should take a second or two, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The device's name.
pub(crate) const DEVICE: &str = "box";
pub(crate) const PSK: &str = "psk-5f0c2d8e1b7a4936";

/// See the module. Dropped, everything ends and the folder goes.
pub(crate) struct Fleet {
    pub agent: Option<ProcessGuard>,
    pub registry: Option<ProcessGuard>,
    _coder: ProcessGuard,
    /// Between the device's session and the registry.
    pub https: TcpRelay,
    /// Between the device's tunnel and the gateway.
    pub wireguard: UdpRelay,
    /// The registry's own HTTPS and UDP addresses, behind the relays.
    pub listen: (SocketAddr, SocketAddr),
    /// Who runs the agent, and the engine that it may use, where that is not the test's own user.
    agent_as: Option<AgentAs>,
    /// How the registry is run, where that is not as the test is.
    registry_under: Option<Under>,
    /// The network that the device is in, if it has one of its own.
    pub lab: Option<Lab>,
    /// More variables for the agent.
    pub agent_environment: Vec<(&'static str, String)>,
    /// Counts starts, so that each life of a program has a log of its own.
    lives: u32,
    folder: TempDir,
}

/// What the device reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    UdpOnly,
}

/// Something that a program is run by, such as `setpriv`.
#[derive(Debug, Clone)]
pub(crate) struct Under {
    /// Command line in front of the program's own.
    pub command: Vec<String>,
    /// Who the program is then.
    pub user: u32,
}

/// Another user for the agent.
struct AgentAs {
    user: u32,
    group: u32,
    docker_host: String,
}

impl Fleet {
    /// Starts everything and joins the device; it may not be healthy yet.
    pub(crate) async fn start() -> Self {
        Self::start_in("", None, None, None, Reach::All).await
    }

    /// A device that reaches the gateway's UDP port and nothing else: it joins, and stays, through the tunnel.
    pub(crate) async fn start_through_tunnel() -> Self {
        Self::start_in("", None, None, None, Reach::UdpOnly).await
    }

    /// The same with an agent that runs as an ordinary user and uses an engine; only root can do that.
    pub(crate) async fn start_as(user: u32, group: u32, docker_host: &str) -> Self {
        let docker_host = docker_host.to_owned();
        let agent_as = AgentAs {
            user,
            group,
            docker_host,
        };
        Self::start_in("", None, Some(agent_as), None, Reach::All).await
    }

    /// [`Fleet::start`] with more lines in the registry's file, and with the device in a network of its own, where the relays
    /// have no part.
    pub(crate) async fn start_with(registry_lines: &str, lab: Option<Lab>) -> Self {
        Self::start_in(registry_lines, lab, None, None, Reach::All).await
    }

    /// [`Fleet::start`] with more lines in the registry's file, and with a registry that is run in another way.
    pub(crate) async fn start_with_registry_under(registry_lines: &str, under: Under) -> Self {
        Self::start_in(registry_lines, None, None, Some(under), Reach::All).await
    }

    async fn start_in(
        registry_lines: &str,
        lab: Option<Lab>,
        agent_as: Option<AgentAs>,
        registry_under: Option<Under>,
        reach: Reach,
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("e2e-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in("/tmp")
            .unwrap();
        for name in ["coder", "tmp", "log"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        write_private(&folder.path().join("psk"), PSK);
        write_private(&folder.path().join("agent.toml"), "");
        if let Some(other) = &agent_as {
            give_away(folder.path(), other);
        }
        let (coder, coder_address) = start_coder(folder.path());
        write_private(
            &folder.path().join("registry.toml"),
            &(registry_toml(folder.path(), coder_address) + registry_lines),
        );
        if let Some(under) = &registry_under {
            give_to_registry(folder.path(), under.user);
        }
        let mut listen = (ports::free_tcp().unwrap(), ports::free_udp().unwrap());
        if let Some(lab) = &lab {
            listen.0.set_ip(lab.host);
            listen.1.set_ip(lab.host);
        }
        let mut fleet = Self {
            agent: None,
            registry: None,
            _coder: coder,
            https: TcpRelay::start(listen.0).await.unwrap(),
            wireguard: UdpRelay::start(listen.1).await.unwrap(),
            listen,
            agent_as,
            registry_under,
            lab,
            agent_environment: Vec::new(),
            lives: 0,
            folder,
        };
        fleet.start_registry();
        match reach {
            Reach::All => fleet.join(&[]),
            Reach::UdpOnly => {
                fleet.https.blackhole();
                fleet.join(&["--via-tunnel"]);
            }
        }
        fleet.start_agent();
        fleet
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the registry, on the same ports as in its last life, and waits until it is ready.
    pub(crate) fn start_registry(&mut self) {
        let mut command = self.registry_command();
        command
            .arg("serve")
            .arg("--config")
            .arg(self.path("registry.toml"));
        command.args([
            "--listen",
            &self.listen.0.to_string(),
            "--wireguard",
            &self.listen.1.to_string(),
        ]);
        let (https, wireguard) = match &self.lab {
            Some(_) => self.listen,
            None => (self.https.address(), self.wireguard.address()),
        };
        command.args(["--public-url", &format!("https://{https}")]);
        command.args(["--wireguard-endpoint", &wireguard.to_string()]);
        command.args(["--dashboard", "127.0.0.1:0", "--json"]);
        self.registry = Some(self.life("registry", &mut command));
        let registry = self.registry.as_mut().unwrap();
        ready_line(registry, "the registry");
    }

    fn join(&self, flags: &[&str]) {
        let code = self.answer(self.registry_command().args(["join-code", "create"]).args(flags));
        write_private(&self.path("code"), &code);
        let mut command = self.agent_command();
        command.args(["join", "-", "--name", DEVICE]);
        command.stdin(std::fs::File::open(self.path("code")).unwrap());
        self.answer(&mut command);
        std::fs::remove_file(self.path("code")).unwrap();
    }

    /// Starts the daemon; it may not answer yet.
    pub(crate) fn start_agent(&mut self) {
        let mut command = self.agent_command();
        command.arg("run");
        self.agent = Some(self.life("agent", &mut command));
    }

    /// Asks the daemon to end, and waits for it.
    pub(crate) fn stop_agent(&mut self) {
        let Some(mut agent) = self.agent.take() else {
            return;
        };
        processes::send(agent.pid(), Signal::SIGTERM);
        wait_for_blocking("the daemon to end", PATIENCE, || {
            agent
                .try_wait()
                .unwrap()
                .ok_or_else(|| agent.stderr_lines().join("\n"))
        })
        .unwrap();
    }

    /// Pids of all `coder provisionerd start` processes of this fleet.
    pub(crate) fn children(&self) -> Vec<u32> {
        processes::of_folder(self.folder.path())
            .into_iter()
            .filter(|&pid| processes::command_line(pid).contains("provisionerd start"))
            .collect()
    }

    /// What the stand-in wrote down: one JSON object for each connection and each request.
    pub(crate) fn record(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("coder/record.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Everything that the programs wrote to stderr, by file.
    pub(crate) fn logs(&self, prefix: &str) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.path("log")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                text.push_str(&std::fs::read_to_string(entry.path()).unwrap());
            }
        }
        text
    }

    fn life(&mut self, name: &str, command: &mut Command) -> ProcessGuard {
        self.lives += 1;
        ProcessGuard::spawn(command, &self.path("log"), &format!("{name}-{}", self.lives)).unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // A daemon that is killed leaves its child, so it is asked first, and what is left is ended.
        if let Some(mut agent) = self.agent.take() {
            processes::send(agent.pid(), Signal::SIGTERM);
            let _ = wait_for_blocking("the daemon to end", Duration::from_secs(15), || {
                agent.try_wait().ok().flatten().ok_or_else(String::new)
            });
        }
        for pid in self.children() {
            processes::kill_9(pid);
        }
    }
}

/// Lets another user work in the folder, with a program that it may read wherever the build is.
fn give_away(folder: &Path, other: &AgentAs) {
    let copy = folder.join("orfe");
    std::fs::copy(programs::path("orfe"), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    for path in [folder.to_owned(), folder.join("agent.toml"), folder.join("tmp")] {
        std::os::unix::fs::chown(path, Some(other.user), Some(other.group)).unwrap();
    }
}

/// Lets the registry be another user's: its data and what its configuration names, and its program wherever the build is.
fn give_to_registry(folder: &Path, user: u32) {
    let copy = folder.join("orfe-registry");
    std::fs::copy(programs::path("orfe-registry"), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
    std::fs::set_permissions(folder.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let data = folder.join("registry");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
    for path in [data, folder.join("registry.toml"), folder.join("psk")] {
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    }
}

fn start_coder(folder: &Path) -> (ProcessGuard, SocketAddr) {
    let mut command = Command::new(programs::path("coder-stand-in"));
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--name",
        "coder.demo.internal",
    ]);
    command
        .arg("--tls-self")
        .arg(folder.join("coder"))
        .arg("--psk-file")
        .arg(folder.join("psk"));
    command
        .arg("--record")
        .arg(folder.join("coder/record.jsonl"))
        .env("TMPDIR", folder.join("tmp"));
    let mut coder = ProcessGuard::spawn(&mut command, &folder.join("log"), "coder").unwrap();
    let ready = ready_line(&mut coder, "the stand-in");
    let address = ready["listening"].as_str().unwrap().parse().unwrap();
    (coder, address)
}

/// The first line on the program's stdout.
fn ready_line(process: &mut ProcessGuard, name: &str) -> Value {
    let line = wait_for_blocking(&format!("{name} to be ready"), PATIENCE, || {
        let ended = process.try_wait().unwrap();
        assert!(ended.is_none(), "{name} ended: {:?}", process.stderr_lines());
        process
            .stdout_lines()
            .into_iter()
            .next()
            .ok_or_else(|| process.stderr_lines().join("\n"))
    })
    .unwrap();
    serde_json::from_str(&line).unwrap()
}

fn registry_toml(folder: &Path, coder: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "docker_required = false\n\
         [coder]\n\
         url = \"https://coder.demo.internal\"\n\
         psk_file = \"{folder}/psk\"\n\
         ca_file = \"{folder}/coder/ca.pem\"\n\
         [[policy.allow]]\n\
         name = \"coder.demo.internal\"\n\
         ports = [443]\n\
         upstream = \"{coder}\"\n\
         [session]\n\
         heartbeat = \"1s\"\n"
    )
}

pub(crate) fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
