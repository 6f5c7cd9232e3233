//! Builds packages with cargo and finds the programs that came out.
//!
//! Cargo says itself where an executable lies (`--message-format`), so a target folder of the
//! caller's choice, a profile or a cross target need no guess here. Cargo's own progress and
//! diagnostics go to stderr as they come.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::cargo;

/// What to build.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub packages: &'a [&'a str],
    pub release: bool,
}

/// The built programs by name.
#[derive(Debug)]
pub(crate) struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// Programs that were built elsewhere and lie in `folder`, for machines on which nothing can be built.
    #[cfg(target_os = "linux")]
    pub(crate) fn in_folder(folder: &Path, names: &[&str]) -> Result<Self> {
        let found = names.iter().map(|name| {
            let path = folder.join(name);
            if !path.is_file() {
                bail!(
                    "there is no {}; hint: build it with `cargo build --release --bin {name}`",
                    path.display()
                );
            }
            Ok(((*name).to_owned(), path))
        });
        found.collect::<Result<_>>().map(Self)
    }

    /// These programs, with those of `other` in place of their namesakes.
    #[must_use]
    pub(crate) fn with(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The path of the program `name`; fails when no built package has it.
    pub(crate) fn path(&self, name: &str) -> Result<&Path> {
        self.0
            .get(name)
            .map(PathBuf::as_path)
            .with_context(|| format!("the build made no program `{name}`"))
    }
}

/// Builds the binaries of `request` and returns where they lie.
pub(crate) async fn build(request: &Request<'_>) -> Result<Programs> {
    let mut command = cargo::command()?;
    command.args(["build", "--bins"]);
    for package in request.packages {
        command.args(["--package", package]);
    }
    if request.release {
        command.arg("--release");
    }
    run(command).await
}

/// Builds these optimised programs of `package`, and none of its others.
#[cfg(target_os = "linux")]
pub(crate) async fn build_optimised(package: &str, programs: &[&str]) -> Result<Programs> {
    let mut command = cargo::command()?;
    command.args(["build", "--release", "--package", package]);
    for program in programs {
        command.args(["--bin", program]);
    }
    run(command).await
}

/// Runs `cargo build`, and finds what came out.
async fn run(mut command: Command) -> Result<Programs> {
    let mut child = command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut programs = BTreeMap::new();
    while let Some(line) = lines.next_line().await.context("cannot read what cargo says")? {
        programs.extend(program_of(&line));
    }
    let status = child.wait().await.context("cannot wait for cargo")?;
    if !status.success() {
        bail!("`cargo build` failed ({status}); its messages stand above");
    }
    Ok(Programs(programs))
}

/// The program that a line of cargo's messages announces, if it is one.
fn program_of(line: &str) -> Option<(String, PathBuf)> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let message: Message = serde_json::from_str(line).ok()?;
    Some((message.target?.name, message.executable?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::program_of;

    #[test]
    fn only_executables_are_taken_from_cargos_messages() {
        let binary = r#"{"reason":"compiler-artifact","target":{"name":"orfe","kind":["bin"]},"executable":"/t/debug/orfe"}"#;
        let (name, path) = program_of(binary).expect("a program");
        assert_eq!(
            (name.as_str(), path.as_path()),
            ("orfe", Path::new("/t/debug/orfe"))
        );

        for other in [
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "not json",
        ] {
            assert_eq!(program_of(other), None, "{other}");
        }
    }
}
