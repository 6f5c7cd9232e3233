//! Runs one recorded case against the stand-ins: builds what stands on the other side, starts the child with the
//! case's arguments and environment, does the case's actions at their times, and compares.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use orfe_test_support::process::ProcessGuard;
use orfe_test_support::relay::tcp::TcpRelay;
use orfe_test_support::scale::{TIME_SCALE, TimeScale};
use orfe_test_support::standin::server::{Config, Fault, StandIn, Tags};
use orfe_test_support::terraform::VERSION_VARIABLE;
use orfe_test_support::wait::wait_for;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::normalise::{self, Agreement};
use crate::recordings::Case;

/// Ten times as fast as recorded: the longest case takes ten seconds, and a slow machine still keeps the order.
pub(crate) const SCALE: f64 = 0.1;
/// How much later than recorded anything may come.
const PATIENCE: Duration = Duration::from_secs(30);
/// The stand-in child.
pub(crate) const CHILD: &str = env!("CARGO_BIN_EXE_coder-stand-in-child");
const KEY: &str = "<provisioner key, 43 characters>";
const KEY_NAME: &str = "rec-key-1";

/// The other side of a case.
pub(crate) struct World {
    pub(crate) server: Option<StandIn>,
    pub(crate) relay: Option<TcpRelay>,
    /// A port that is held for the child to stumble over.
    taken: Option<TcpListener>,
    key: String,
    folder: TempDir,
    /// How fast the child and its server live.
    scale: f64,
}

/// What came of a case.
pub(crate) struct Outcome {
    pub(crate) case: String,
    pub(crate) lines: usize,
    /// Differences; empty when it agrees.
    pub(crate) differences: Vec<String>,
    pub(crate) strict: bool,
    /// The heads of the child's requests, where a relay saw them.
    pub(crate) heads: Vec<Vec<u8>>,
}

impl World {
    pub(crate) async fn build(case: &Case) -> Self {
        Self::build_at(case, SCALE).await
    }

    /// A world in which a recorded second takes `scale` seconds; a real program lives at 1.
    pub(crate) async fn build_at(case: &Case, scale: f64) -> Self {
        let licensed = Config {
            psk: Some("psk-for-recordings".to_owned()),
            session_token: Some("owner".to_owned()),
            time_scale: TimeScale::new(scale).unwrap(),
            ..Config::default()
        };
        let faulty = |fault: Fault| {
            Some(Config {
                fault: Some(fault),
                ..licensed.clone()
            })
        };
        let config = match case.server.as_str() {
            "none" | "connection refused" => None,
            "licensed" | "licensed, behind a TCP relay" | "plain HTTP where TLS is expected" => {
                Some(licensed)
            }
            "real server, no licence" => Some(Config {
                licensed: false,
                ..licensed
            }),
            "accepts TCP, never answers" => faulty(Fault::NeverAnswer),
            "a server that answers every request with 403" => faulty(Fault::BLOCKED),
            "a server that answers every request with 502" => faulty(Fault::BAD_GATEWAY),
            "a server that answers every request with 429" => faulty(Fault::RATE_LIMITED),
            "a server that answers every request with 400" => faulty(Fault::OLD_SERVER),
            "a server that answers every request with 404" => faulty(Fault::NOT_FOUND),
            "a server that answers every request with 200"
            | "a server that answers every request with 200 and a page" => faulty(Fault::CAPTIVE_PORTAL),
            "a forward proxy that answers 403" => faulty(Fault::PROXY_FORBIDS),
            "a forward proxy that refuses CONNECT" => faulty(Fault::PROXY_WITHOUT_CONNECT),
            other => panic!("{}: no world for the server {other:?}", case.name),
        };
        let server = match config {
            Some(config) => Some(StandIn::start(config).await.unwrap()),
            None => None,
        };
        let relayed = case.server.contains("relay") || case.server.contains("forward proxy");
        let relay = match &server {
            Some(server) if relayed => Some(TcpRelay::start(server.address()).await.unwrap()),
            _ => None,
        };
        let key = server
            .as_ref()
            .and_then(|server| server.create_key(KEY_NAME, &key_tags(case)));
        let taken = case
            .name
            .contains("port-taken")
            .then(|| TcpListener::bind("127.0.0.1:0").unwrap());
        Self {
            server,
            relay,
            taken,
            key: key.unwrap_or_default(),
            folder: tempfile::tempdir().unwrap(),
            scale,
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        let server = self.server.as_ref().map(StandIn::address);
        self.relay.as_ref().map(TcpRelay::address).or(server)
    }

    /// A recorded argument or variable with this run's addresses, folders and key.
    fn adapted(&self, case: &Case, text: &str) -> String {
        let mut text = text
            .replace(&format!("<tmp>/{}", case.name), &self.root(case))
            .replace(KEY, &self.key);
        if let Some(taken) = &self.taken {
            text = text.replace("127.0.0.1:5432", &taken.local_addr().unwrap().to_string());
        }
        // The ports that the recorded servers had; 1 is meant to refuse.
        for port in [3999, 33891, 33969, 39153, 42877] {
            if let Some(address) = self.address() {
                text = text.replace(&format!("127.0.0.1:{port}"), &address.to_string());
            }
        }
        text
    }

    fn root(&self, case: &Case) -> String {
        self.folder.path().join(&case.name).to_str().unwrap().to_owned()
    }
}

/// g05 shows a key with one tag, the others have two.
fn key_tags(case: &Case) -> Tags {
    let both = [("arch", "amd64"), ("gpu", "none")];
    let tags = if case.name.starts_with("g05") {
        &both[1..]
    } else {
        &both[..]
    };
    tags.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// Runs `case` in a world of its own.
pub(crate) async fn run(case: &Case) -> Outcome {
    run_in(case, &World::build(case).await, Path::new(CHILD)).await
}

/// Runs `case` in `world` with `program` as the child.
pub(crate) async fn run_in(case: &Case, world: &World, program: &Path) -> Outcome {
    let root = PathBuf::from(world.root(case));
    for folder in ["home", "t", "bin"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let outputs = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut child = ProcessGuard::spawn(
        &mut command(case, world, &root, program),
        outputs.path(),
        &case.name,
    )
    .unwrap();
    let mut differences = Vec::new();
    for (at, action) in &case.actions {
        if let Err(problem) = act(case, world, &child, started, *at, action).await {
            differences.push(format!("{action}: {problem}"));
        }
    }
    let patience = Duration::from_secs_f64(case.seconds * world.scale) + PATIENCE;
    match child.wait(patience).await {
        Ok(status) => {
            let code = status.code().unwrap_or_else(|| -status.signal().unwrap());
            if code != case.exit_code {
                differences.push(format!("exit code: recorded {}, actual {code}", case.exit_code));
            }
        }
        Err(error) => differences.push(error.to_string()),
    }
    let mut strict = true;
    // The real program tells people to run it by the path that it was run by; the recordings say `coder`.
    let own = program.display().to_string();
    for (name, lines) in [("stdout", child.stdout_lines()), ("stderr", child.stderr_lines())] {
        let recorded = normalise::stream(&case.stream(name), &format!("<tmp>/{}", case.name));
        let lines: Vec<String> = lines.iter().map(|line| line.replace(&own, "coder")).collect();
        let actual = normalise::stream(&lines, root.to_str().unwrap());
        match normalise::compare(&recorded, &actual) {
            Agreement::Strict => {}
            Agreement::EachGoroutine => strict = false,
            Agreement::Differs(difference) => differences.push(format!("{name}, {difference}")),
        }
    }
    differences.extend(compare_files(case, &root));
    Outcome {
        case: case.name.clone(),
        lines: case.lines.len(),
        differences,
        strict,
        heads: world
            .relay
            .as_ref()
            .map(TcpRelay::first_bytes)
            .unwrap_or_default(),
    }
}

fn command(case: &Case, world: &World, root: &Path, program: &Path) -> Command {
    let bin = root.join("bin");
    if !case.name.contains("no-terraform") {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_terraform-stand-in"), bin.join("terraform")).unwrap();
    }
    let mut command = Command::new(program);
    command
        .args(case.argv[1..].iter().map(|word| world.adapted(case, word)))
        .env_clear();
    let environment: BTreeMap<&String, String> = case
        .env
        .iter()
        .map(|(name, value)| (name, world.adapted(case, value)))
        .collect();
    command
        .envs(environment)
        .env("PATH", &bin)
        .env(TIME_SCALE, world.scale.to_string());
    if case.name.contains("too-old") {
        command.env(VERSION_VARIABLE, "1.0.11");
    } else if case.name.contains("newer-than-known") {
        command.env(VERSION_VARIABLE, "1.99.0");
    }
    command
}

/// Does an action at its time, and not before the child has said what it had said by then when it was recorded.
async fn act(
    case: &Case,
    world: &World,
    child: &ProcessGuard,
    started: Instant,
    at: f64,
    action: &str,
) -> Result<(), String> {
    let due = Duration::from_secs_f64(at * world.scale);
    tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
    let expected = case.lines_before(at);
    wait_for("the lines before it", PATIENCE, || {
        let said = child.stdout_lines().len() + child.stderr_lines().len();
        if said >= expected {
            Ok(())
        } else {
            Err(format!("{said} of {expected} lines"))
        }
    })
    .await
    .map_err(|error| error.to_string())?;
    let relay = world.relay.as_ref();
    match action {
        "signal TERM" => child.signal(Signal::TERM).map_err(|error| error.to_string()),
        "signal INT" => child.signal(Signal::INT).map_err(|error| error.to_string()),
        "signal HUP" => child.signal(Signal::HUP).map_err(|error| error.to_string()),
        "signal QUIT" => child.signal(Signal::QUIT).map_err(|error| error.to_string()),
        "signal KILL" => child.signal(Signal::KILL).map_err(|error| error.to_string()),
        "cut" => relay.map(TcpRelay::cut).ok_or_else(|| "no relay".to_owned()),
        "restore" => relay.map(TcpRelay::restore).ok_or_else(|| "no relay".to_owned()),
        "blackhole" => relay
            .map(TcpRelay::blackhole)
            .ok_or_else(|| "no relay".to_owned()),
        "delete_key: 204" => {
            let deleted = world
                .server
                .as_ref()
                .is_some_and(|server| server.delete_key(KEY_NAME));
            if deleted {
                Ok(())
            } else {
                Err("there was no key to delete".to_owned())
            }
        }
        metrics if metrics.starts_with("metrics: ") => compare_metrics(child, &metrics[9..]).await,
        // The second of two daemons with one name looked at the listing.
        listing if listing.starts_with("<lambda>: ") => {
            let daemons = world.server.as_ref().map(StandIn::daemons).unwrap_or_default();
            let names: Vec<&str> = daemons.iter().map(|daemon| daemon.name.as_str()).collect();
            if names == ["twin"] && daemons[0].online {
                Ok(())
            } else {
                Err(format!("listed: {names:?}"))
            }
        }
        other => Err(format!("unknown action {other}")),
    }
}

async fn compare_metrics(child: &ProcessGuard, recorded: &str) -> Result<(), String> {
    let lines = child.stderr_log();
    let listening = lines
        .iter()
        .find(|line| line.message() == "http server listening");
    let Some(orfe_test_support::logs::LogLine::Json(line)) = listening else {
        return Err("the metrics listener did not say where it is".to_owned());
    };
    let address = line["fields"]["addr"].as_str().unwrap_or_default();
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let mut answer = String::new();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream
        .write_all(request)
        .await
        .map_err(|error| error.to_string())?;
    stream
        .read_to_string(&mut answer)
        .await
        .map_err(|error| error.to_string())?;
    if answer.contains(recorded) {
        Ok(())
    } else {
        Err(format!("metrics were\n{answer}"))
    }
}

/// Files and folders that the program left, with random names set aside.
fn compare_files(case: &Case, root: &Path) -> Option<String> {
    let normal = |path: &str| match path.rsplit_once("/provisionerd") {
        Some((parent, _)) => format!("{parent}/provisionerd…"),
        None => path.to_owned(),
    };
    let prefix = format!("<tmp>/{}/", case.name);
    let mut recorded: Vec<String> = case
        .files_left
        .iter()
        .filter_map(|path| path.strip_prefix(&prefix))
        .filter(|path| !path.starts_with("bin"))
        .map(normal)
        .collect();
    let mut actual = Vec::new();
    list(root, root, &mut actual);
    // The recordings do not list what is hidden, and the real program makes `home/.config/coderv2`.
    actual.retain(|path| !path.starts_with("bin") && !path.contains("/."));
    let mut actual: Vec<String> = actual.iter().map(|path| normal(path)).collect();
    recorded.sort();
    actual.sort();
    (recorded != actual).then(|| format!("files left: recorded {recorded:?}, actual {actual:?}"))
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        if path.is_dir() && !path.is_symlink() {
            list(root, &path, found);
        }
    }
}
