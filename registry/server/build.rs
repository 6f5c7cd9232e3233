//! Fetches the dashboard's browser library from the npm registry and leaves it for the crate to embed.
//!
//! `npm ci` runs in a copy of `package.json` and `package-lock.json` below `OUT_DIR`: nothing is written into
//! the source tree, nothing of a package is executed, and the lock file's digests say what is accepted. The
//! result is one file, `OUT_DIR/live.js`.
//!
//! Live updates are a comfort, so their absence never fails a build: without Node, without a
//! reachable registry, or with `ORFE_DASHBOARD_NO_NODE=1` the file is left empty, a warning says so,
//! and the dashboard's pages work by reload.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

/// What is embedded, in the order in which a browser must run it.
const SCRIPTS: [&str; 2] = [
    "node_modules/htmx.org/dist/htmx.min.js",
    "node_modules/htmx.org/dist/ext/hx-sse.min.js",
];

/// Files that say which versions are wanted.
const MANIFESTS: [&str; 2] = ["package.json", "package-lock.json"];

/// Forces a build without Node.
const NO_NODE: &str = "ORFE_DASHBOARD_NO_NODE";

/// How long npm may take before the build goes on without it.
const NPM_DEADLINE: Duration = Duration::from_secs(120);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed={NO_NODE}");
    for path in ["build.rs"].into_iter().chain(MANIFESTS) {
        println!("cargo::rerun-if-changed={path}");
    }
    let source = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let script = bundle(&source, &out.join("npm")).unwrap_or_else(|reason| {
        println!(
            "cargo::warning=the dashboard is built without live updates, its pages work by reload: {reason}"
        );
        String::new()
    });
    fs::write(out.join("live.js"), script)?;
    Ok(())
}

/// The scripts in one text, or why they could not be had.
fn bundle(source: &Path, workshop: &Path) -> Result<String, String> {
    if env::var_os(NO_NODE).is_some_and(|value| value != "0" && !value.is_empty()) {
        return Err(format!("{NO_NODE} is set"));
    }
    fs::create_dir_all(workshop).map_err(|error| format!("creating {}: {error}", workshop.display()))?;
    for name in MANIFESTS {
        fs::copy(source.join(name), workshop.join(name))
            .map_err(|error| format!("copying {name}: {error}"))?;
    }
    install(workshop)?;
    let mut bundle = String::new();
    for name in SCRIPTS {
        let script =
            fs::read_to_string(workshop.join(name)).map_err(|error| format!("reading {name}: {error}"))?;
        // A source map's address would send a browser's developer tools after a file that is not served.
        let lines = script
            .lines()
            .filter(|line| !line.starts_with("//# sourceMappingURL="));
        bundle.extend(lines.flat_map(|line| [line, "\n"]));
        bundle.push_str(";\n");
    }
    Ok(bundle)
}

/// Runs `npm ci` and waits for it, at most [`NPM_DEADLINE`].
fn install(workshop: &Path) -> Result<(), String> {
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    let log = workshop.join("npm.log");
    let output = fs::File::create(&log).map_err(|error| format!("creating {}: {error}", log.display()))?;
    let mut child = Command::new(npm)
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
        ])
        // npm's own patience with a registry that does not answer runs to minutes.
        .args([
            "--fetch-retries=1",
            "--fetch-retry-mintimeout=1000",
            "--fetch-timeout=30000",
        ])
        .current_dir(workshop)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(|error| error.to_string())?)
        .stderr(output)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "npm was not found; install Node and build again after `cargo clean -p orfe-registry`"
                    .to_owned()
            }
            _ => format!("starting {npm}: {error}"),
        })?;
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                return Err(format!(
                    "`npm ci` failed ({status}), {} says why; `cargo clean -p orfe-registry` makes the next build try again",
                    log.display()
                ));
            }
            Ok(None) if started.elapsed() < NPM_DEADLINE => thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                // It may have ended in this very moment; either way it is gone after `wait`.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("`npm ci` took longer than {} s", NPM_DEADLINE.as_secs()));
            }
            Err(error) => return Err(format!("waiting for npm: {error}")),
        }
    }
}
