//! `cargo xtask demo` as a person runs it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use orfe_test_support::process::ProcessGuard;
use orfe_test_support::wait::wait_for_blocking;
use serde_json::Value;
use tempfile::TempDir;

use crate::processes::{self, Seen};
use crate::programs;

/// Time for a build that has little to do, a start, and an end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// A demo that runs in temporary files of its own.
pub(crate) struct Demo {
    process: ProcessGuard,
    folder: TempDir,
}

impl Demo {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("e2e-")
            .tempdir_in("/tmp")
            .unwrap();
        let mut command = Command::new(programs::path("xtask"));
        command
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", folder.path())
            .env("CARGO_TARGET_DIR", programs::target_folder())
            // What a person has set for an Orfe of their own must not reach the demo's: none of this is valid.
            .env("ORFE_TUNNEL", "none of the demo's business")
            .env("ORFE_REGISTRY_PUBLIC_URL", "none of the demo's business");
        programs::forget_this_package(&mut command);
        let process = ProcessGuard::spawn(&mut command, folder.path(), "demo").unwrap();
        Self { process, folder }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The demo's own folder, once it has one.
    pub(crate) fn folder(&self) -> PathBuf {
        let what = format!("the demo's folder; it said {:?}", self.process.stderr_lines());
        wait_for_blocking(&what, PATIENCE, || {
            self.find_folder().ok_or("there is none yet".to_owned())
        })
        .unwrap()
    }

    fn find_folder(&self) -> Option<PathBuf> {
        let entries = self.folder.path().read_dir().unwrap();
        let names = entries.filter_map(Result::ok).map(|entry| entry.path());
        names.into_iter().find(|path| path.join("log").is_dir())
    }

    pub(crate) fn wait_until_healthy(&mut self) {
        wait_for_blocking("a healthy device on the demo's screen", PATIENCE, || {
            let lines = self.process.stdout_lines();
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!(
                    "the demo ended ({status}): {lines:?} {:?}",
                    self.process.stderr_lines()
                );
            }
            let healthy = lines.iter().any(|line| line.contains("demo-1: healthy"));
            healthy.then_some(()).ok_or_else(|| lines.join("\n"))
        })
        .unwrap();
    }

    /// Waits for the end; returns exit code, stdout and stderr.
    pub(crate) fn end(&mut self) -> (Option<i32>, Vec<String>, Vec<String>) {
        let status = wait_for_blocking("the end of the demo", PATIENCE, || {
            self.process
                .try_wait()
                .unwrap()
                .ok_or_else(|| self.process.stderr_lines().join("\n"))
        })
        .unwrap();
        (
            status.code(),
            self.process.stdout_lines(),
            self.process.stderr_lines(),
        )
    }

    /// Fails unless the demo's folder and every process of it are gone, or go within `within`.
    fn assert_nothing_is_left(&self, folder: &Path, within: Duration) {
        wait_for_blocking("the demo to leave nothing behind", within, || {
            let left = processes::of_folder(self.folder.path());
            let left: Vec<String> = left
                .into_iter()
                .filter(|&pid| pid != self.pid())
                .map(processes::command_line)
                .collect();
            match (left.is_empty(), folder.exists()) {
                (true, false) => Ok(()),
                (_, exists) => Err(format!("folder there: {exists}, processes: {left:?}")),
            }
        })
        .unwrap();
    }
}

/// Fails unless all of them are gone, or go within `within`. The tunnel's helper has no environment by which a folder could tell
/// whose it is: it is known by its place in the tree.
fn assert_all_ended(all: &[Seen], within: Duration) {
    assert!(all.len() >= 5, "demo, coder, registry, device, child: {all:?}");
    wait_for_blocking("the demo's processes to end", within, || {
        let left: Vec<String> = all
            .iter()
            .filter(|process| process.runs())
            .map(|process| processes::command_line(process.pid()))
            .collect();
        left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
    })
    .unwrap();
}

#[test]
fn check_finds_the_device_healthy_and_leaves_nothing_behind() {
    if !processes::shown() {
        return;
    }
    let mut demo = Demo::start(&["--check", "--devices", "2"]);
    let folder = demo.folder();

    let (code, stdout, stderr) = demo.end();

    assert_eq!(code, Some(0), "stdout {stdout:?}, stderr {stderr:?}");
    let said = stderr
        .iter()
        .any(|line| line.starts_with("all 2 devices are healthy"));
    assert!(said, "{stderr:?}");
    let [line] = stdout.as_slice() else {
        panic!("stdout carries the result alone, not {stdout:?}")
    };
    let report: Value = serde_json::from_str(line).unwrap();
    assert_eq!(report["healthy"], true, "{report}");
    assert!(
        report["seconds_to_healthy"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0),
        "{report}"
    );
    assert_eq!(report["device"]["health"], "healthy", "{report}");
    assert_eq!(report["devices"].as_array().map(Vec::len), Some(2), "{report}");
    for needed in ["tunnel", "connected", "terraform", "disk"] {
        let checks = report["device"]["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["code"] == needed).unwrap();
        assert_eq!(
            (&check["outcome"], &check["required"]),
            (&"ok".into(), &true.into()),
            "{check}"
        );
    }
    demo.assert_nothing_is_left(&folder, Duration::ZERO);
}

#[test]
fn an_interrupt_ends_every_process_and_the_whole_was_twenty_lines_at_most() {
    if !processes::shown() {
        return;
    }
    let mut demo = Demo::start(&[]);
    demo.wait_until_healthy();
    let folder = demo.folder();
    assert!(
        processes::of_folder(&folder).len() >= 3,
        "coder, registry, device and its child run"
    );
    let all = processes::seen_tree(demo.pid());

    processes::send(demo.pid(), Signal::SIGINT);
    let (code, stdout, stderr) = demo.end();

    assert_eq!(code, Some(0), "{stdout:?} {stderr:?}");
    assert!(stdout.len() <= 20, "{stdout:#?}");
    // What is pasted must not be broken by the terminal; a word that is longer has a line of its own.
    let broken = |line: &&String| line.chars().count() > 80 && line.trim().contains(' ');
    assert_eq!(stdout.iter().find(broken), None, "more than 80 columns");
    for told in ["dashboard", "--control", "Ctrl-C", "STAND-IN", "nothing is left"] {
        assert!(
            stdout.iter().any(|line| line.contains(told)),
            "no line with {told:?} in {stdout:#?}"
        );
    }
    demo.assert_nothing_is_left(&folder, Duration::ZERO);
    assert_all_ended(&all, Duration::ZERO);
}

#[test]
fn a_child_that_is_gone_for_a_moment_is_shown() {
    if !processes::shown() {
        return;
    }
    let mut demo = Demo::start(&[]);
    demo.wait_until_healthy();
    let all = processes::seen_tree(demo.pid());
    let child = all
        .iter()
        .map(|seen| seen.pid())
        .find(|&pid| processes::command_line(pid).contains("provisionerd start"))
        .expect("a provisioner runs");
    let before = demo.process.stdout_lines().len();

    processes::kill_9(child);

    wait_for_blocking("the outage and its end on the screen", PATIENCE, || {
        let lines = demo.process.stdout_lines();
        let mut shown = lines
            .iter()
            .skip(before)
            .map(|line| line.contains("demo-1: healthy"));
        let whole = shown.any(|healthy| !healthy) && shown.any(|healthy| healthy);
        whole.then_some(()).ok_or_else(|| lines.join("\n"))
    })
    .unwrap();
    processes::send(demo.pid(), Signal::SIGINT);
    let (code, stdout, stderr) = demo.end();
    assert_eq!(code, Some(0), "{stdout:?} {stderr:?}");
}

#[test]
fn a_killed_demo_is_cleaned_up_after() {
    if !processes::shown() {
        return;
    }
    let mut demo = Demo::start(&[]);
    demo.wait_until_healthy();
    let folder = demo.folder();
    let all = processes::seen_tree(demo.pid());

    processes::kill_9(demo.pid());

    demo.end();
    demo.assert_nothing_is_left(&folder, Duration::from_secs(60));
    assert_all_ended(&all, Duration::from_secs(10));
}

/// The inputs of a Coder that is not the demo's own.
struct RealCoder {
    folder: TempDir,
}

impl RealCoder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let psk = folder.path().join("psk");
        std::fs::write(&psk, "a-psk-of-some-length").unwrap();
        std::fs::set_permissions(&psk, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder }
    }

    fn psk_file(&self) -> PathBuf {
        self.folder.path().join("psk")
    }

    fn check(&self, url: &str) -> Demo {
        let child = programs::path("coder-stand-in-child");
        let (psk_file, child) = (self.psk_file(), child.to_str().unwrap().to_owned());
        let psk_file = psk_file.to_str().unwrap();
        Demo::start(&[
            "--check",
            "--coder-url",
            url,
            "--psk-file",
            psk_file,
            "--coder-bin",
            &child,
        ])
    }
}

#[test]
fn a_coder_at_plain_http_on_loopback_is_reached_through_the_tunnel() {
    if !processes::shown() {
        return;
    }
    let coder = RealCoder::new();
    let record = coder.folder.path().join("record.jsonl");
    let mut command = Command::new(programs::path("coder-stand-in"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--psk-file"])
        .arg(coder.psk_file());
    command.arg("--record").arg(&record);
    let server = ProcessGuard::spawn(&mut command, coder.folder.path(), "coder").unwrap();
    let ready = wait_for_blocking("the stand-in to be ready", PATIENCE, || {
        server
            .stdout_lines()
            .into_iter()
            .next()
            .ok_or_else(|| server.stderr_lines().join("\n"))
    })
    .unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let mut demo = coder.check(&format!("http://{}", ready["listening"].as_str().unwrap()));
    let folder = demo.folder();

    let (code, stdout, stderr) = demo.end();

    assert_eq!(code, Some(0), "{stdout:?} {stderr:?}");
    let named = stderr
        .iter()
        .any(|line| line.contains("http://coder.demo.internal"));
    assert!(named, "the device knows it by the demo's name: {stderr:?}");
    assert!(
        std::fs::read_to_string(&record)
            .unwrap()
            .contains("provisionerdaemons/serve")
    );
    demo.assert_nothing_is_left(&folder, Duration::ZERO);
}

#[test]
fn a_coder_that_is_not_there_is_what_check_reports_as_missing() {
    if !processes::shown() {
        return;
    }
    let coder = RealCoder::new();
    // Nothing listens on port 1.
    let mut demo = coder.check("http://127.0.0.1:1");
    let folder = demo.folder();

    let (code, stdout, stderr) = demo.end();

    assert_eq!(code, Some(1), "{stdout:?} {stderr:?}");
    let report: Value = serde_json::from_str(&stdout.join("\n")).unwrap();
    assert_eq!(report["healthy"], false);
    let missing = report["missing"].to_string();
    assert!(missing.contains("connected"), "{missing}");
    assert!(
        !missing.contains("tunnel is"),
        "the tunnel itself is up: {missing}"
    );
    demo.assert_nothing_is_left(&folder, Duration::ZERO);
}
