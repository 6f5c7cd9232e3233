//! A Docker engine of the test's own: in a network namespace of its own, with a data folder of its own, ended with the test.
//!
//! That namespace plays the host: bridges, rules and addresses of the engine are there and nowhere else.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use orfe_test_support::process::ProcessGuard;
use orfe_test_support::wait::wait_for_blocking;
use tempfile::TempDir;

use crate::processes;

/// The group that may use the engine: Debian's `nogroup`.
pub(crate) const GROUP: (&str, u32) = ("nogroup", 65534);
/// An engine starts in two seconds; a loaded machine takes longer.
const STARTED: Duration = Duration::from_secs(60);
/// Programs without which there is no engine, or nothing to run in a container.
const PROGRAMS: [&str; 8] = [
    "dockerd",
    "docker",
    "containerd",
    "runc",
    "ip",
    "nsenter",
    "tar",
    "openssl",
];

pub(crate) struct Engine {
    daemon: ProcessGuard,
    /// The engine's network namespace, and one beside it.
    pub(crate) host: String,
    pub(crate) neighbour: String,
    /// Namespaces that end with the engine.
    own: Vec<String>,
    folder: TempDir,
}

/// Why no engine can run here.
pub(crate) fn obstacle() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("only root can start a Docker engine".to_owned());
    }
    let missing = PROGRAMS.into_iter().find(|program| which(program).is_none());
    missing.map(|program| format!("`{program}` is not installed"))
}

impl Engine {
    pub(crate) fn start() -> Self {
        let id = std::process::id();
        let host = format!("orfe-eng-{id}");
        ip(&["netns", "add", &host]);
        ip(&["-n", &host, "link", "set", "lo", "up"]);
        let neighbour = neighbour_of(&host);
        let own = vec![host.clone(), neighbour.clone()];
        Self::start_at(host, neighbour, own)
    }

    /// The same in a network namespace that somebody else made, with one beside it.
    pub(crate) fn start_beside(namespace: &str) -> Self {
        let neighbour = neighbour_of(namespace);
        Self::start_at(namespace.to_owned(), neighbour.clone(), vec![neighbour])
    }

    /// The same in a network namespace that somebody else made, and with none beside it.
    pub(crate) fn start_in(namespace: &str) -> Self {
        Self::start_at(namespace.to_owned(), String::new(), Vec::new())
    }

    fn start_at(host: String, neighbour: String, own: Vec<String>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("orfe-engine-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        let daemon = spawn(folder.path(), &host, "dockerd-1");
        let engine = Self {
            daemon,
            host,
            neighbour,
            own,
            folder,
        };
        engine.wait_until_it_answers();
        engine
    }

    fn wait_until_it_answers(&self) {
        wait_for_blocking("the engine to answer", STARTED, || {
            let output = self.docker(&["version"]);
            if output.status.success() {
                Ok(())
            } else {
                Err(self.daemon.stderr_lines().join("\n"))
            }
        })
        .unwrap();
    }

    /// For `DOCKER_HOST`.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    pub(crate) fn docker(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["60", "docker", "--host", &self.endpoint()]);
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// `openssl s_client` in a container on `network` with `input` on its stdin, ended after five seconds.
    pub(crate) fn client(&self, network: &str, arguments: &[&str], input: &str) -> Output {
        self.client_with(&["--network", network], arguments, input)
    }

    /// The same in a container that is made with these `options`.
    pub(crate) fn client_with(&self, options: &[&str], arguments: &[&str], input: &str) -> Output {
        use std::io::{Seek as _, Write as _};
        let mut file = tempfile::tempfile_in(self.folder.path()).unwrap();
        file.write_all(input.as_bytes()).unwrap();
        file.rewind().unwrap();
        let mut command = Command::new("timeout");
        // The first process of a container does not heed a signal that `docker` passes on.
        command.args([
            "--signal=KILL",
            "5",
            "docker",
            "--host",
            &self.endpoint(),
            "run",
            "-i",
        ]);
        command.args(options);
        command.args(["--name", "client", "client", "openssl", "s_client"]);
        let output = command.args(arguments).stdin(file).output().unwrap();
        self.docker(&["rm", "-f", "client"]);
        output
    }

    /// The same, which has to succeed; gives its stdout.
    pub(crate) fn answer(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Makes an image `client` of openssl with its libraries and the authority `ca`. Nothing in it knows of Orfe.
    pub(crate) fn make_client_image(&self, ca: &Path) {
        let tree = self.folder.path().join("client");
        let openssl = which("openssl").unwrap();
        let libraries = Command::new("ldd").arg(&openssl).output().unwrap();
        let mut files: BTreeSet<PathBuf> = String::from_utf8(libraries.stdout)
            .unwrap()
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .map(PathBuf::from)
            .collect();
        files.insert(openssl);
        for file in files {
            let to = tree.join(file.strip_prefix("/").unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(&file, to).unwrap();
        }
        std::fs::copy(ca, tree.join("ca.pem")).unwrap();
        let archive = self.folder.path().join("client.tar");
        let made = Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(made.unwrap().success());
        self.answer(&["import", archive.to_str().unwrap(), "client"]);
    }

    /// Ends the engine with everything in it, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.start_again();
    }

    /// Starts it after [`Self::end`].
    pub(crate) fn start_again(&mut self) {
        self.daemon = spawn(self.folder.path(), &self.host, "dockerd-2");
        self.wait_until_it_answers();
    }

    /// Ends the engine with everything in it. Its bridges stay.
    pub(crate) fn end(&mut self) {
        // `nsenter` becomes the engine, so the pid is the engine's.
        processes::send(self.daemon.pid(), Signal::SIGTERM);
        let _ = wait_for_blocking("the engine to end", Duration::from_secs(30), || {
            self.daemon.try_wait().ok().flatten().ok_or_else(String::new)
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Ok(list) = String::from_utf8(self.docker(&["ps", "-aq"]).stdout) {
            for container in list.split_whitespace() {
                self.docker(&["rm", "-f", container]);
            }
        }
        self.end();
        for namespace in &self.own {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Starts the engine in a network namespace. Not by `ip netns exec`: that mounts another /sys, without the control groups.
fn spawn(folder: &Path, namespace: &str, log: &str) -> ProcessGuard {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}"));
    command.args(["dockerd", "--group", GROUP.0]);
    command.args(["--data-root", &at("data"), "--exec-root", &at("exec")]);
    command.args([
        "--pidfile",
        &at("pid"),
        "--host",
        &format!("unix://{}", at("docker.sock")),
    ]);
    command.stdin(Stdio::null());
    ProcessGuard::spawn(&mut command, folder, log).unwrap()
}

/// A namespace with a cable to `host`, who is 10.77.0.1 on it and the way to everywhere else.
fn neighbour_of(host: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let neighbour = format!("orfe-nbr-{}-{number}", std::process::id());
    ip(&["netns", "add", &neighbour]);
    ip(&["-n", &neighbour, "link", "set", "lo", "up"]);
    ip(&[
        "-n", host, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &neighbour,
    ]);
    for (namespace, address) in [(host, "10.77.0.1/24"), (&neighbour, "10.77.0.2/24")] {
        ip(&["-n", namespace, "address", "add", address, "dev", "cable"]);
        ip(&["-n", namespace, "link", "set", "cable", "up"]);
    }
    ip(&["-n", &neighbour, "route", "add", "default", "via", "10.77.0.1"]);
    neighbour
}

pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {said}");
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
