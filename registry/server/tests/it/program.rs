//! The program as a process: what it prints, how it exits, what is left when it is killed, and what it keeps to itself.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use orfe_platform::private;
use orfe_protocol::id::Revision;
use orfe_protocol::join_code::JoinCode;
use orfe_protocol::key::NoisePrivateKey;
use orfe_registry::api::Ready;
use tempfile::TempDir;

use crate::agent::{Agent, Identity};

const PSK: &str = "a-psk-that-must-not-be-seen";

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orfe-registry"));
    command.args(args).env_clear().env("HOME", "/nonexistent");
    command
}

fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

/// Standard error, with the folder's random name taken out.
fn stderr(output: &Output, folder: &TempDir) -> String {
    String::from_utf8_lossy(&output.stderr).replace(&folder.path().display().to_string(), "FOLDER")
}

/// A running registry, killed when the test is done with it.
struct Server {
    child: Child,
    ready: Ready,
}

impl Server {
    fn start(folder: &Path) -> Self {
        Self::start_by(Command::new("env"), folder)
    }

    /// Started by another program, which ends its command line with this one's and becomes it.
    fn start_by(mut command: Command, folder: &Path) -> Self {
        private::write(&folder.join("psk"), PSK.as_bytes()).unwrap();
        let config = folder.join("registry.toml");
        std::fs::write(
            &config,
            "data = \"data\"\nlisten = \"127.0.0.1:0\"\nwireguard = \"127.0.0.1:0\"\ndashboard = \"127.0.0.1:0\"\n\
             [coder]\nurl = \"https://coder.internal\"\npsk_file = \"psk\"\n\
             [[policy.allow]]\nname = \"coder.internal\"\nports = [443]\n",
        )
        .unwrap();
        command.arg(env!("CARGO_BIN_EXE_orfe-registry")).args([
            "--config",
            config.to_str().unwrap(),
            "--log",
            "trace",
            "serve",
            "--json",
            "--ready-file",
            folder.join("ready.json").to_str().unwrap(),
        ]);
        let mut child = command
            .env_clear()
            .env("HOME", "/nonexistent")
            .stdout(Stdio::piped())
            .stderr(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(folder.join("log"))
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            panic!("{error}: {line}\n{log}")
        });
        Self { child, ready }
    }

    fn argv(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/cmdline", self.child.id())).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone when the test ended it itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn join_code(folder: &Path) -> (String, JoinCode) {
    let data = folder.join("data");
    let output = run(&["--data", data.to_str().unwrap(), "join-code", "create"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let code = text.parse().unwrap();
    (text, code)
}

#[tokio::test]
async fn a_killed_registry_knows_its_devices_and_no_secret_was_written_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (path, data) = (folder.path(), folder.path().join("data"));
    let mut server = Server::start(path);
    let (text, code) = join_code(path);
    let identity = Identity::new();
    let mut agent = Agent::connect_to(&data, server.ready.https, code.registry_key, &identity).await;
    let claimed = agent.claim(&identity, &code).await.unwrap();
    agent.begin(Revision::default()).await.unwrap();
    let argv = server.argv();

    // kill -9, with the session standing.
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert_eq!(agent.closed_with().await, 1006);
    let server = Server::start(path);
    let mut agent = Agent::connect_to(&data, server.ready.https, code.registry_key, &identity).await;
    let welcome = agent.begin(Revision::default()).await.unwrap();
    assert_eq!((welcome.device, welcome.session_epoch), (claimed.device, 2));

    let log = std::fs::read_to_string(path.join("log")).unwrap();
    assert!(
        log.contains("session begins"),
        "the log is empty, so it proves nothing"
    );
    let secret = code.secret.to_text();
    let link = server.ready.dashboard.rsplit_once('/').unwrap().1.to_owned();
    for (what, secret) in [
        ("PSK", PSK),
        ("join code", &text),
        ("secret", secret.expose()),
        ("link", &link),
    ] {
        assert!(!log.contains(secret), "the log holds the {what}");
        assert!(!argv.contains(secret), "argv holds the {what}");
    }
    let mut database = Vec::new();
    for file in ["registry.sqlite", "registry.sqlite-wal"] {
        if let Ok(mut file) = std::fs::File::open(data.join(file)) {
            file.read_to_end(&mut database).unwrap();
        }
    }
    for secret in [PSK, secret.expose()] {
        let found = database
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "the database holds a secret");
    }
}

#[test]
fn every_file_of_a_running_registry_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::start(folder.path());
    let data = folder.path().join("data");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap().path();
        assert_eq!(mode(&entry), 0o600, "{}", entry.display());
        names.push(entry.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    let expected = [
        "admin.sock",
        "lock",
        "noise.key",
        "registry.sqlite",
        "tls.key",
        "tls.pem",
        "wireguard.key",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_ready_file_says_what_standard_output_says_and_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ready.json");
    std::fs::write(&path, "of an earlier life").unwrap();
    let server = Server::start(folder.path());
    let written: Ready = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        (written.https, written.dashboard, written.pid),
        (
            server.ready.https,
            server.ready.dashboard.clone(),
            server.child.id()
        )
    );
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn it_stops_on_sigterm_and_takes_its_socket_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let killed = Command::new("kill")
        .args(["-TERM", &server.child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let status = server.child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let data = folder.path().join("data");
    assert!(!data.join("admin.sock").exists());
    let output = run(&["--data", data.to_str().unwrap(), "device", "list"]);
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn a_second_registry_and_a_taken_port_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let data = folder.path().join("data");
    let output = run(&[
        "serve",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stderr(&output, &folder);
    assert!(
        shown.contains(&format!(
            "error: FOLDER/data is in use by process {}",
            server.child.id()
        )),
        "{shown}"
    );
    assert!(shown.contains("\nhint: "), "{shown}");

    let other = folder.path().join("other");
    let address = server.ready.https.to_string();
    let output = run(&["serve", "--data", other.to_str().unwrap(), "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stderr(&output, &folder);
    assert!(
        shown.contains(&format!(
            "error: the HTTPS listener could not listen on {address}: "
        )),
        "{shown}"
    );
    assert!(
        shown.contains(&format!("`ss -ltnp 'sport = :{}'`", server.ready.https.port())),
        "{shown}"
    );

    let address = server.ready.wireguard.unwrap().to_string();
    let args = [
        "--listen",
        "127.0.0.1:0",
        "--dashboard",
        "127.0.0.1:0",
        "--wireguard",
        &address,
    ];
    let output = run(&[&["serve", "--data", other.to_str().unwrap()], &args[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let shown = stderr(&output, &folder);
    assert!(
        shown.contains(&format!("could not listen on UDP {address}")),
        "{shown}"
    );
    assert!(shown.contains("hint: `ss -lunp"), "{shown}");
}

#[test]
fn what_is_wrong_on_the_way_in_has_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(
        path.join("bad.toml"),
        "[coder]\nurl = \"https://coder\"\npskfile = \"x\"\n",
    )
    .unwrap();
    std::fs::write(
        path.join("good.toml"),
        "public_url = \"https://orfe.example.com\"\n",
    )
    .unwrap();
    let (bad, good) = (path.join("bad.toml"), path.join("good.toml"));
    let (bad, good) = (bad.to_str().unwrap(), good.to_str().unwrap());

    let output = run(&["config", "check", "--config", bad]);
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(stderr(&output, &folder), @r"
    error: FOLDER/bad.toml:3:1: unknown field `pskfile`, expected one of `url`, `psk_file`, `ca_file`, `slots`
    hint: `orfe-registry config check --help` shows a whole example
    ");
    let output = run(&["config", "check", "--config", good]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .ends_with("good.toml is good\n")
    );
    assert_eq!(run(&["config", "check"]).status.code(), Some(2));
    let twice = ["join-code", "create", "--tag", "owner=a", "--tag", "owner=b"];
    assert_eq!(run(&twice).status.code(), Some(2));
    assert_eq!(run(&["serve", "--listen", "nowhere"]).status.code(), Some(2));
    for filter in ["==", "infoo"] {
        let output = run(&["--log", filter, "device", "list"]);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("levels are off, error, warn, info, debug, trace"),
            "{said}"
        );
    }
    assert_eq!(run(&[]).status.code(), Some(2));

    // A folder that cannot be made, for whomever.
    let output = run(&["serve", "--data", "/proc/orfe"]);
    assert_ne!(output.status.code(), Some(0));
    assert!(
        stderr(&output, &folder).contains("/proc/orfe"),
        "{}",
        stderr(&output, &folder)
    );

    // Something that is no database in its place is refused and left alone.
    let data = path.join("data");
    private::create_dir(&data).unwrap();
    for key in ["noise.key", "wireguard.key"] {
        let key = data.join(key);
        private::write(&key, NoisePrivateKey::generate().unwrap().to_base64().as_bytes()).unwrap();
    }
    private::write(
        &data.join("registry.sqlite"),
        &b"no database at all, just a text\n".repeat(9),
    )
    .unwrap();
    let output = run(&[
        "serve",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(stderr(&output, &folder).lines().filter(|line| !line.contains("WARN") && !line.contains(" INFO ")).collect::<Vec<_>>().join("\n"), @r"
    error: open the database: FOLDER/data/registry.sqlite is not a SQLite database: (code: 26) file is not a database
    hint: move the file away, or name another folder with `--data`
    ");
}

#[test]
fn the_environment_counts_below_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let output = program(&["device", "list"])
        .env("ORFE_REGISTRY_DATA", folder.path().join("env"))
        .output()
        .unwrap();
    assert!(stderr(&output, &folder).contains("FOLDER/env"));
    let flag = folder.path().join("flag");
    let output = program(&["--data", flag.to_str().unwrap(), "device", "list"])
        .env("ORFE_REGISTRY_DATA", folder.path().join("env"))
        .output()
        .unwrap();
    assert!(stderr(&output, &folder).contains("FOLDER/flag"));
}

#[test]
fn it_takes_as_many_files_as_it_may_and_says_when_that_is_little() {
    let folder = tempfile::tempdir().unwrap();
    let script = "ulimit -Sn 256 && ulimit -Hn 4096 && exec \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]);
    let server = Server::start_by(shell, folder.path());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["4096", "4096"], "{limits}");
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("files=4096"), "{log}");
    assert!(
        log.contains("only some 2048 devices") && log.contains("LimitNOFILE") && log.contains("wanted=52048"),
        "{log}"
    );
}
