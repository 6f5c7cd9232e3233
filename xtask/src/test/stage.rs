//! The stages of `cargo xtask test`: what each runs, and what it needs.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::provision::Environment;
use super::summary::Verdict;
use super::tally::{Reader, Tally};
use crate::{cargo, cross};

/// Lines of a test's output in flight. A full queue makes the readers wait, and so the tests.
const LINES_IN_FLIGHT: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    Fmt,
    Arch,
    Clippy,
    Docs,
    Deny,
    Tests,
    Fuzz,
    Model,
    E2e,
    Cross,
}

impl Stage {
    /// In the order in which they run: what is cheap and fails often comes first.
    pub(crate) const ALL: [Self; 10] = [
        Self::Fmt,
        Self::Arch,
        Self::Clippy,
        Self::Docs,
        Self::Deny,
        Self::Tests,
        Self::Fuzz,
        Self::Model,
        Self::E2e,
        Self::Cross,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Arch => "arch",
            Self::Clippy => "clippy",
            Self::Docs => "docs",
            Self::Deny => "deny",
            Self::Tests => "tests",
            Self::Fuzz => "fuzz",
            Self::Model => "model",
            Self::E2e => "e2e",
            Self::Cross => "cross",
        }
    }

    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Fmt => "the code is formatted",
            Self::Arch => "the crates depend on each other in the allowed directions only",
            Self::Clippy => "no warning, in tests neither",
            Self::Docs => "the documentation builds without a warning",
            Self::Deny => "licences, bans and sources of the dependencies",
            Self::Tests => "the tests of every crate",
            Self::Fuzz => "the fuzz targets, each for some seconds",
            Self::Model => "WireGuard over hours of simulated time, against a reference",
            Self::E2e => "the whole system: the demo, its faults, what it leaves behind",
            Self::Cross => "what is written for macOS and Windows compiles there",
        }
    }

    /// Why the stage cannot run here, if it cannot.
    pub(crate) fn obstacle(self, environment: &Environment) -> Option<String> {
        match self {
            Self::Deny if !environment.has("cargo-deny") => Some("cargo-deny is not installed".to_owned()),
            Self::Cross => cross::obstacle(),
            Self::E2e if !cfg!(unix) => Some("the demo runs on Linux and macOS only".to_owned()),
            _ => None,
        }
    }

    /// Runs the stage.
    pub(crate) async fn run(self, environment: &Environment) -> Result<Verdict> {
        let tally = match self {
            Self::Fmt => check(cargo(environment, &["fmt", "--all", "--check"])?).await?,
            Self::Clippy => {
                let arguments = [
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--quiet",
                    "--",
                    "-D",
                    "warnings",
                ];
                check(cargo(environment, &arguments)?).await?
            }
            Self::Docs => {
                let arguments = [
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                    "--quiet",
                ];
                let mut command = cargo(environment, &arguments)?;
                command.env("RUSTDOCFLAGS", "-D warnings");
                check(command).await?
            }
            // The advisory database is fetched from the network, so it is not part of this stage.
            Self::Deny => {
                let arguments = [
                    "deny",
                    "--all-features",
                    "check",
                    "--hide-inclusion-graph",
                    "bans",
                    "licenses",
                    "sources",
                ];
                check(cargo(environment, &arguments)?).await?
            }
            Self::Arch => tests(cargo_test(environment, &["--package", "orfe-arch"])?).await?,
            Self::Tests => {
                let all = ["--workspace", "--exclude", "orfe-arch", "--exclude", "orfe-e2e"];
                tests(cargo_test(environment, &all)?).await?
            }
            Self::Fuzz => super::fuzz::run(environment).await?,
            // A workspace of its own, in which a feature replaces the clock of the WireGuard engine.
            Self::Model => {
                let model = ["--manifest-path", "tests/wireguard-model/Cargo.toml", "--locked"];
                let mut command = cargo_test(environment, &model)?;
                command.env("CARGO_TARGET_DIR", cargo::target_folder()?.join("model"));
                tests(command).await?
            }
            Self::E2e => tests(cargo_test(environment, &["--package", "orfe-e2e"])?).await?,
            Self::Cross => {
                let table = cross::check_systems(environment).await?;
                Tally {
                    passed: table.passed(),
                    failed: table.failed(),
                    skipped: table.skipped(),
                }
            }
        };
        Ok(Verdict::Ran(tally))
    }
}

/// A `cargo` command that finds the tools which the machine was provided with.
fn cargo(environment: &Environment, arguments: &[&str]) -> Result<Command> {
    let mut command = cargo::command()?;
    command.args(arguments).env("PATH", environment.path());
    Ok(command)
}

fn cargo_test(environment: &Environment, packages: &[&str]) -> Result<Command> {
    let mut arguments = vec!["test", "--no-fail-fast"];
    arguments.extend(packages);
    // The output of tests that passed holds their `SKIPPED:` lines.
    arguments.extend(["--", "--show-output"]);
    cargo(environment, &arguments)
}

/// A command that passes or fails as a whole.
async fn check(mut command: Command) -> Result<Tally> {
    let status = command.status().await.context("cannot run cargo")?;
    Ok(if status.success() {
        Tally {
            passed: 1,
            ..Tally::default()
        }
    } else {
        Tally {
            failed: 1,
            ..Tally::default()
        }
    })
}

/// A run of `cargo test`, its output shown as it comes and counted.
async fn tests(mut command: Command) -> Result<Tally> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `cargo test`")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let stderr = child.stderr.take().context("cargo has no stderr")?;
    let (sender, mut lines) = mpsc::channel(LINES_IN_FLIGHT);
    let mut readers = tokio::task::JoinSet::new();
    readers.spawn(forward(stdout, sender.clone()));
    readers.spawn(forward(stderr, sender));

    let mut reader = Reader::default();
    let mut out = std::io::stdout();
    while let Some(line) = lines.recv().await {
        if reader.line(&line) {
            use std::io::Write as _;
            writeln!(out, "{line}")?;
        }
    }
    let status = child.wait().await.context("cannot wait for `cargo test`")?;
    let mut tally = reader.tally();
    if !status.success() && tally.failed == 0 {
        // It did not compile, or a test binary was killed.
        tally.failed = 1;
    }
    Ok(tally)
}

/// Sends the lines of `from` on, whatever bytes they hold.
async fn forward(from: impl AsyncRead + Unpin, to: mpsc::Sender<String>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if to.send(text).await.is_err() {
            return;
        }
        line.clear();
    }
}
