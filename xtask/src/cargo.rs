//! The cargo that runs us, for what we have it do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::process::Command;

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn workspace_root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in no workspace")
}

/// Where cargo builds the workspace.
pub(crate) fn target_folder() -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => workspace_root()?.join(folder),
        None => workspace_root()?.join("target"),
    })
}

/// A `cargo` command that runs in the workspace, with the cargo that runs us.
///
/// It is killed when its future is dropped.
pub(crate) fn command() -> Result<Command> {
    command_of(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The same with another cargo.
pub(crate) fn command_of(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if describes_us(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(workspace_root()?)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

/// Whether cargo set this variable to describe the package that it runs. Build scripts of dependencies watch these: handed
/// on, they would be built anew here, and anew again by the next cargo that a person starts.
fn describes_us(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}
