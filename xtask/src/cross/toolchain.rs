//! The compilers for other systems: Debian's, because it comes with the sources of the standard library and builds it for any
//! target, which a compiler of rustup does only after a download.
//!
//! What is C in the dependencies (ring) is compiled by mingw-w64 for Windows and by zig for macOS, whose headers it has.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::process::Command;

use super::Target;
use crate::cargo;
use crate::test::{Environment, attempt, install_packages, say};

/// Debian packages, each with a file that shows whether it is there.
const PACKAGES: [(&str, &str); 5] = [
    ("rustc-web", RUSTC),
    ("cargo-web", CARGO),
    ("rust-web-clippy", "/usr/bin/cargo-clippy"),
    ("rust-web-src", "/usr/lib/rustlib/src/rust/library/Cargo.toml"),
    ("gcc-mingw-w64-x86-64", MINGW),
];
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const MINGW: &str = "/usr/bin/x86_64-w64-mingw32-gcc";

/// From the Python package index, at one version so that a run can be repeated.
const ZIG: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.1"];
const ZIGBUILD: &str = "cargo-zigbuild";

/// Why nothing can be checked here, if it cannot.
pub(crate) fn obstacle() -> Option<String> {
    let missing: Vec<&str> = PACKAGES[..4]
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if !missing.is_empty() {
        return Some(format!(
            "not installed (Debian's packages): {}",
            missing.join(", ")
        ));
    }
    let version = std::process::Command::new(RUSTC).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    (minor(&version) < minor(&format!("rustc {wanted}")))
        .then(|| format!("{RUSTC} is {version}, and {wanted} is needed"))
}

/// 96 of `rustc 1.96.0 (ac68faa20 2026-05-25)`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

/// What this target needs beside the compiler, and is not here.
pub(super) fn obstacle_to(target: Target) -> Option<String> {
    if target.is_mac() {
        let found = zig_folder().is_ok_and(|folder| folder.join(ZIGBUILD).is_file());
        (!found).then(|| {
            format!("{ZIGBUILD} is not in target/tools/zig (CONTRIBUTING.md says how it comes there)")
        })
    } else {
        (!Path::new(MINGW).exists()).then(|| "mingw-w64 is not installed (gcc-mingw-w64-x86-64)".to_owned())
    }
}

/// Debian's cargo for `target`, without a subcommand.
pub(super) fn cargo(environment: &Environment, target: Target) -> Result<Command> {
    let zig = zig_folder()?;
    let mut command = if target.is_mac() {
        cargo::command_of(zig.join(ZIGBUILD))?
    } else {
        cargo::command_of(CARGO)?
    };
    let folders = [zig, PathBuf::from("/usr/bin")];
    let path = folders
        .into_iter()
        .chain(std::env::split_paths(environment.path()));
    command
        .env("PATH", std::env::join_paths(path)?)
        .env("CARGO", CARGO)
        .env("RUSTC", RUSTC)
        // The standard library is built by a feature of unreleased compilers.
        .env("RUSTC_BOOTSTRAP", "1")
        // Of its own, so that two compilers do not build over each other.
        .env("CARGO_TARGET_DIR", cargo::target_folder()?.join("cross"))
        .env_remove("RUSTUP_TOOLCHAIN");
    Ok(command)
}

/// Installs what is missing and can be had.
pub(crate) async fn install() {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if !missing.is_empty() {
        say(&format!("installing {}: the stage `cross`", missing.join(", ")));
        install_packages(&missing).await;
    }
    let Ok(zig) = zig_folder() else { return };
    if zig.join(ZIGBUILD).is_file() {
        return;
    }
    say("installing zig and cargo-zigbuild: the stage `cross`");
    let Some(environment) = zig.parent() else { return };
    let python = || Command::new("python3");
    let mut made = attempt(python().args(["-m", "venv"]).arg(environment)).await;
    if !made && install_packages(&["python3-venv"]).await {
        made = attempt(python().args(["-m", "venv"]).arg(environment)).await;
    }
    if made {
        attempt(
            Command::new(zig.join("pip"))
                .args(["install", "--quiet"])
                .args(ZIG),
        )
        .await;
    }
}

/// The programs of a Python environment that is made for this alone.
fn zig_folder() -> Result<PathBuf> {
    Ok(cargo::target_folder()?.join("tools").join("zig").join("bin"))
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn a_compiler_is_told_by_its_version() {
        assert_eq!(minor("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some(96));
        assert_eq!(minor("rustc 1.95"), Some(95));
        assert_eq!(minor("not a compiler"), None);
    }
}
