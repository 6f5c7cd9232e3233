//! What the stages need from the machine, and how continuous integration gets it.
//!
//! On a person's machine nothing is ever installed: a stage or a test that lacks something says so.
//! In continuous integration (`CI=true`), as root and where apt is, the Debian packages below are
//! installed first, and into the target folder wireguard-go with Go's own installer, cargo-deny with cargo's,
//! systemd-resolved as an unpacked package, and the compilers for other systems ([`cross`]). What cannot be had is no
//! error here; the stage or test that needs it is then skipped, with its reason.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::stage::Stage;
use crate::cross;

/// Debian packages, each with the program that shows whether it is there, and who needs it.
const PACKAGES: [(&str, &str, &str); 7] = [
    ("iproute2", "ip", "network namespaces of the gateway's tests"),
    (
        "docker.io",
        "dockerd",
        "the engine of the test of workspace containers",
    ),
    ("openssl", "openssl", "the client in that test's containers"),
    ("dbus-daemon", "dbus-daemon", "the bus of the test of split DNS"),
    ("nftables", "nft", "what the tests of TUN mode cut and count"),
    (
        "wireguard-tools",
        "wg",
        "the witness of the tests against wireguard-go",
    ),
    ("curl", "curl", "a person's client in the tests of the proxy"),
];

/// Debian packages that are unpacked into `target/tools/debian` and not installed: to install systemd-resolved takes over the
/// machine's `/etc/resolv.conf`.
const UNPACKED: [&str; 2] = ["systemd-resolved", "libsystemd-shared"];

/// cargo-deny's version; built without optimisation, because it runs once.
const CARGO_DENY: &str = "0.20.2";

/// wireguard-go, at one version so that a run can be repeated.
const WIREGUARD_GO: &str = "golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446";

/// How long one installation may take.
const INSTALL_WITHIN: Duration = Duration::from_secs(300);

/// Where the stages look for programs.
#[derive(Debug)]
pub(crate) struct Environment {
    path: OsString,
}

impl Environment {
    fn of(extra: Option<PathBuf>) -> Self {
        let own = std::env::var_os("PATH").unwrap_or_default();
        let all = std::env::split_paths(&own).chain(extra);
        Self {
            path: std::env::join_paths(all).unwrap_or(own),
        }
    }

    pub(crate) fn path(&self) -> &OsStr {
        &self.path
    }

    /// Whether `program` is on the PATH.
    pub(crate) fn has(&self, program: &str) -> bool {
        let file = format!("{program}{}", std::env::consts::EXE_SUFFIX);
        std::env::split_paths(&self.path).any(|folder| folder.join(&file).is_file())
    }
}

/// Installs what `stages` need where that is wanted, and says what there is.
pub(crate) async fn prepare(stages: &[Stage]) -> Environment {
    let tools = tools_folder();
    let environment = Environment::of(tools.clone());
    if !wanted() || !environment.has("apt-get") {
        return environment;
    }
    if stages
        .iter()
        .any(|stage| matches!(stage, Stage::Tests | Stage::E2e))
    {
        let missing: Vec<&str> = PACKAGES
            .iter()
            .filter(|(_, program, _)| !environment.has(program))
            .map(|(package, _, need)| {
                say(&format!("installing {package}: {need}"));
                *package
            })
            .collect();
        install_packages(&missing).await;
        if let Some(tools) = &tools {
            install_wireguard_go(&environment, tools).await;
            unpack_resolved(tools).await;
        }
    }
    if let Some(tools) = tools.filter(|_| stages.contains(&Stage::Deny)) {
        install_cargo_deny(&environment, &tools).await;
    }
    if stages.contains(&Stage::Cross) {
        cross::install().await;
    }
    environment
}

/// Continuous integration, with the right to install.
fn wanted() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true") && is_root()
}

#[cfg(unix)]
fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// `target/tools/bin`, beside the build that this program came from.
fn tools_folder() -> Option<PathBuf> {
    // target/debug/xtask
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.parent()?.join("tools").join("bin"))
}

/// Installs Debian packages; false when they cannot be had.
pub(crate) async fn install_packages(packages: &[&str]) -> bool {
    if packages.is_empty() {
        return true;
    }
    let mut install = Command::new("apt-get");
    install
        .args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(packages);
    attempt(Command::new("apt-get").args(["update", "--quiet"])).await && attempt(&mut install).await
}

async fn install_wireguard_go(environment: &Environment, tools: &Path) {
    if environment.has("wireguard-go") {
        return;
    }
    if !environment.has("go") {
        say("not installing wireguard-go: there is no `go`");
        return;
    }
    say("installing wireguard-go: a client of the gateway that is not ours");
    attempt(
        Command::new("go")
            .args(["install", WIREGUARD_GO])
            .env("GOBIN", tools),
    )
    .await;
    // Go names it after its module. Where there is none, the installation has said why.
    let _ = std::fs::rename(tools.join("wireguard"), tools.join("wireguard-go"));
}

async fn unpack_resolved(tools: &Path) {
    let folder = tools.with_file_name("debian");
    let programs = [
        Path::new("/usr/lib/systemd/systemd-resolved").to_owned(),
        folder.join("lib/systemd/systemd-resolved"),
        folder.join("usr/lib/systemd/systemd-resolved"),
    ];
    if programs.iter().any(|program| program.is_file()) {
        return;
    }
    say("unpacking systemd-resolved: the resolver of the test of split DNS");
    if let Err(error) = std::fs::create_dir_all(&folder) {
        say(&format!("no folder {}: {error}", folder.display()));
        return;
    }
    let script = "apt-get download --quiet \"$@\" && for package in *.deb; do dpkg --extract \"$package\" . || exit; done";
    let mut unpack = Command::new("sh");
    unpack
        .args(["-c", script, "sh"])
        .args(UNPACKED)
        .current_dir(&folder);
    attempt(&mut unpack).await;
}

async fn install_cargo_deny(environment: &Environment, tools: &Path) {
    let Some(root) = tools.parent().filter(|_| !environment.has("cargo-deny")) else {
        return;
    };
    say("installing cargo-deny: the stage `deny`");
    let mut install = Command::new("cargo");
    install.args([
        "install",
        "cargo-deny",
        "--version",
        CARGO_DENY,
        "--locked",
        "--debug",
        "--quiet",
        "--root",
    ]);
    attempt(install.arg(root)).await;
}

/// Runs an installation; a failure is told, and left to the test that misses the program.
pub(crate) async fn attempt(command: &mut Command) -> bool {
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let what = format!("{:?}", command.as_std());
    let problem = match timeout(INSTALL_WITHIN, command.status()).await {
        Ok(Ok(status)) if status.success() => return true,
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("took more than {} s", INSTALL_WITHIN.as_secs()),
    };
    say(&format!("could not run {what}: {problem}"));
    false
}

pub(crate) fn say(text: &str) {
    // Nobody is left to tell it to when stdout is gone.
    let _ = writeln!(std::io::stdout(), "{text}");
}
