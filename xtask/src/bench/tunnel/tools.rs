//! The programs that the tunnel is measured with and against, found or installed into `target/bench/tools`.
//!
//! Nothing is installed on the machine itself: Debian packages are downloaded and unpacked, Go and cargo install
//! into that folder. A program that cannot be had is no error; its rows say why.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// What is taken from Debian: `iperf3`, `ping`, `wg`, Debian 12's `wireguard-go`, and the libraries of the first.
const DEBIAN: [&str; 6] = [
    "iperf3",
    "libiperf0",
    "libsctp1",
    "iputils-ping",
    "wireguard-tools",
    "wireguard-go",
];
const WIREGUARD_GO: &str = "golang.zx2c4.com/wireguard@latest";
const BORINGTUN: [&str; 3] = ["boringtun-cli", "--version", "0.7.1"];
const ONETUN: [&str; 3] = ["onetun", "--version", "0.3.10"];

/// How long one installation may take. The two of cargo are compilations.
const INSTALL_WITHIN: Duration = Duration::from_mins(15);

/// A program's path, or why there is none.
pub(super) type Tool = std::result::Result<PathBuf, String>;

/// The programs.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) iperf3: Tool,
    pub(super) ping: Tool,
    pub(super) wireguard_go_debian: Tool,
    pub(super) wireguard_go: Tool,
    pub(super) boringtun: Tool,
    pub(super) onetun: Tool,
    /// Where iperf3 finds its libraries.
    libraries: PathBuf,
}

impl Tools {
    /// Finds what is there and installs what is not.
    pub(super) async fn provide(say: &mut impl FnMut(&str)) -> Result<Self> {
        let folder = crate::cargo::workspace_root()?.join("target/bench/tools");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let debian = folder.join("debian");
        let unpacked = unpack_debian(&debian, say)
            .await
            .map_err(|error| format!("{error:#}"));
        let packaged = |path: &str| -> Tool {
            unpacked.clone()?;
            existing(debian.join(path))
        };
        Ok(Self {
            iperf3: packaged("usr/bin/iperf3"),
            ping: packaged("bin/ping"),
            wireguard_go_debian: packaged("usr/bin/wireguard-go"),
            wireguard_go: go_install(&folder.join("go"), say).await,
            boringtun: cargo_install(&BORINGTUN, &folder.join("cargo"), say).await,
            onetun: cargo_install(&ONETUN, &folder.join("cargo"), say).await,
            libraries: debian.join("usr/lib").join(multiarch()),
        })
    }

    /// None of them, for measurements of Orfe alone.
    pub(super) fn none(reason: &str) -> Self {
        let none = || Err(reason.to_owned());
        Self {
            iperf3: none(),
            ping: none(),
            wireguard_go_debian: none(),
            wireguard_go: none(),
            boringtun: none(),
            onetun: none(),
            libraries: PathBuf::new(),
        }
    }

    /// The environment in which iperf3 starts.
    pub(super) fn library_path(&self) -> (&'static str, &Path) {
        ("LD_LIBRARY_PATH", &self.libraries)
    }
}

/// Debian's name of this architecture's library folder.
fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

fn existing(path: PathBuf) -> Tool {
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is not there", path.display()))
    }
}

async fn unpack_debian(folder: &Path, say: &mut impl FnMut(&str)) -> Result<()> {
    // Moved into place when whole, so a run that was cut short leaves nothing that looks done.
    if folder.is_dir() {
        return Ok(());
    }
    say("downloading Debian packages");
    let partial = folder.with_extension("partial");
    // Left by a run that was cut short; otherwise it is not there.
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial)?;
    let mut download = Command::new("apt-get");
    download.arg("download").args(DEBIAN).current_dir(&partial);
    run(download).await?;
    for entry in std::fs::read_dir(&partial)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("--extract").arg(&path).arg(&partial);
            run(unpack).await?;
        }
    }
    std::fs::rename(&partial, folder).context("cannot move the unpacked packages into place")
}

async fn go_install(folder: &Path, say: &mut impl FnMut(&str)) -> Tool {
    let program = folder.join("wireguard");
    if program.is_file() {
        return Ok(program);
    }
    say("installing the newest wireguard-go");
    let mut install = Command::new("go");
    install.args(["install", WIREGUARD_GO]).env("GOBIN", folder);
    run(install).await.map_err(|error| format!("{error:#}"))?;
    existing(program)
}

async fn cargo_install(package: &[&str; 3], root: &Path, say: &mut impl FnMut(&str)) -> Tool {
    let program = root.join("bin").join(package[0]);
    if program.is_file() {
        return Ok(program);
    }
    say(&format!("installing {} (a compilation, once)", package[0]));
    let install = async {
        let mut install = crate::cargo::command()?;
        install
            .arg("install")
            .args(package)
            .args(["--locked", "--quiet", "--root"])
            .arg(root)
            .env_remove("CARGO_TARGET_DIR");
        run(install).await
    };
    install.await.map_err(|error| format!("{error:#}"))?;
    existing(program)
}

/// Runs a command to its end, its output kept for the error.
async fn run(mut command: Command) -> Result<()> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(INSTALL_WITHIN, output)
        .await
        .with_context(|| format!("{name} took too long"))?
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed: {}", text.lines().last().unwrap_or_default());
    }
    Ok(())
}
