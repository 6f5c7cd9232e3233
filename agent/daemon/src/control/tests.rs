use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use orfe_protocol::id::{DeviceId, Revision};
use orfe_protocol::observed::{Docker, Facts, Health};
use orfe_protocol::tag::Tags;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::status::{Device, Registry, Status};
use super::*;
use crate::control::server::ServerError;

struct Daemon {
    socket: PathBuf,
    status: watch::Sender<Option<Status>>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

fn daemon() -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/agent.sock");
    let (sender, receiver) = watch::channel(Some(status(Health::Starting)));
    let stop = CancellationToken::new();
    let server = Server::bind(&socket).unwrap();
    let tasks = TaskTracker::new();
    tasks.spawn(server.run(receiver, tasks.clone(), stop.clone()));
    Daemon {
        socket,
        status: sender,
        stop,
        _folder: folder,
    }
}

fn status(health: Health) -> Status {
    Status {
        version: status::VERSION,
        device: Device {
            id: DeviceId::generate(),
            name: "box".parse().unwrap(),
            agent_version: "0.1.0".into(),
        },
        health,
        registry: Registry {
            url: "https://orfe.example.com".parse().unwrap(),
            state: "connected".into(),
            reason: None,
        },
        checks: vec![],
        tunnel: None,
        containers: None,
        provisioners: vec![],
        tags: Tags::default(),
        facts: Facts {
            hostname: "box".into(),
            os: "linux".into(),
            os_version: String::new(),
            arch: "amd64".into(),
            cpu_model: String::new(),
            cpu_cores: 2,
            memory_mib: 1,
            chassis: String::new(),
            docker: Docker::Unknown,
            gpus: vec![],
        },
        desired: Revision::default(),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        pid: 1,
        state: PathBuf::from("/var/lib/orfe"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_the_status_and_a_watcher_every_change() {
    let daemon = daemon();
    let socket = daemon.socket.clone();
    let changes = tokio::task::spawn_blocking(move || {
        assert_eq!(Client::status(&socket).unwrap().health, Health::Starting);
        let mut watcher = Client::watch(&socket).unwrap();
        assert_eq!(watcher.next().unwrap().unwrap().health, Health::Starting);
        daemon.status.send_replace(Some(status(Health::Healthy)));
        assert_eq!(watcher.next().unwrap().unwrap().health, Health::Healthy);
        daemon.stop.cancel();
        watcher.next().unwrap().is_none()
    });
    assert!(changes.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_the_owners_alone_and_a_second_daemon_is_refused() {
    let daemon = daemon();
    assert_eq!(
        std::fs::metadata(&daemon.socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let folder = daemon.socket.parent().unwrap();
    assert_eq!(
        std::fs::metadata(folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert!(matches!(Server::bind(&daemon.socket), Err(ServerError::Taken(_))));
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/agent.sock");
    std::fs::create_dir(socket.parent().unwrap()).unwrap();
    std::fs::set_permissions(socket.parent().unwrap(), std::fs::Permissions::from_mode(0o700)).unwrap();
    // Dropping a listener closes it and leaves its file, as a kill does.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let server = Server::bind(&socket).unwrap();
    drop(server);
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_file_of_somebodys_is_not_taken_for_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious.txt");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&path), Err(ServerError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_answered_with_an_error() {
    let daemon = daemon();
    let answers = tokio::task::spawn_blocking(move || {
        [
            "hello\n",
            "{\"v\":9,\"request\":\"status\"}\n",
            "{\"v\":1,\"request\":\"teleport\"}\n",
        ]
        .map(|line| {
            let mut stream = UnixStream::connect(&daemon.socket).unwrap();
            stream.write_all(line.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    });
    for answer in answers.await.unwrap() {
        assert!(answer.starts_with("{\"v\":1,\"error\":"), "{answer}");
    }
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let failure = Client::status(std::path::Path::new("/nonexistent/agent.sock")).unwrap_err();
    let text = crate::failure::render(&failure.into());
    assert!(
        text.starts_with("error: no daemon answers on /nonexistent/agent.sock\n"),
        "{text}"
    );
    assert!(text.contains("hint: start it with `orfe run`"), "{text}");
}
