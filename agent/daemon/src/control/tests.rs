use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use orfe_protocol::id::{DeviceId, Revision};
use orfe_protocol::observed::{Docker, Facts, Health};
use orfe_protocol::tag::Tags;
use orfe_tunnel::proxy::{Limits, Outlet, Routes, Target, TunnelWanted};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::status::{Device, Registry, Status};
use super::*;
use crate::control::server::ServerError;

struct Daemon {
    socket: PathBuf,
    status: watch::Sender<Option<Status>>,
    proxy: watch::Sender<PersonsProxy>,
    _routes: watch::Sender<Arc<Routes>>,
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
    let (proxy, proxy_seen) = watch::channel(PersonsProxy::Off);
    let mut table = Routes::new(TunnelWanted::Off);
    table
        .add_name("localhost", [100, 127, 0, 1].into(), 1..=u16::MAX)
        .unwrap();
    let (routes, routes_seen) = watch::channel(Arc::new(table));
    let outlet = Outlet::new(Limits::default(), routes_seen, watch::channel(None).1);
    let services = Services::new(receiver, proxy_seen, outlet);
    tasks.spawn(server.run(services, tasks.clone(), stop.clone()));
    Daemon {
        socket,
        status: sender,
        proxy,
        _routes: routes,
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
        tunnel_off: None,
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
    let failure = Server::bind(&daemon.socket).unwrap_err().at(&daemon.socket);
    let shown =
        crate::failure::render(&failure.into()).replace(&daemon.socket.display().to_string(), "SOCKET");
    insta::assert_snapshot!(shown, @r"
    error: the daemon cannot open its control socket SOCKET, by which commands reach it
      because: another daemon answers there
    hint: stop the other daemon, or choose another socket with `--control`
    ");
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
    assert!(matches!(Server::bind(&path), Err(ServerError::NotASocket)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_told_when_there_is_one() {
    let daemon = daemon();
    let ask = |socket: PathBuf| tokio::task::spawn_blocking(move || Client::proxy(&socket));
    let off = ask(daemon.socket.clone()).await.unwrap().unwrap_err();
    assert!(off.to_string().contains("[proxy] listen"), "{off}");
    let reason = "the proxy could not listen on 127.0.0.1:1080".to_owned();
    daemon.proxy.send_replace(PersonsProxy::NotListening(reason));
    let waiting = ask(daemon.socket.clone()).await.unwrap().unwrap_err();
    assert!(waiting.to_string().contains("127.0.0.1:1080"), "{waiting}");
    let urls = ProxyUrls {
        http: Secret::new("http://orfe:hunter2@127.0.0.1:1080".into()),
        socks: Secret::new("socks5h://orfe:hunter2@127.0.0.1:1080".into()),
    };
    daemon.proxy.send_replace(PersonsProxy::Listening(urls.clone()));
    let told = ask(daemon.socket.clone()).await.unwrap().unwrap();
    assert_eq!(told, urls);
    assert!(!format!("{told:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_bytes_and_each_end_alone() {
    let daemon = daemon();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // It speaks first, as ssh does, and answers after the client's end.
        stream.write_all(b"banner ").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).unwrap();
    });
    let socket = daemon.socket.clone();
    let answer = tokio::task::spawn_blocking(move || {
        let target = Target::parse(&format!("localhost:{port}"), None).unwrap();
        let Connection {
            mut reader,
            mut writer,
        } = Client::connect(&socket, &target).unwrap();
        writer.write_all(b"said").unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        reader.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(answer.await.unwrap(), "banner SAID");
    echo.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_had_is_an_error_with_its_reason() {
    let daemon = daemon();
    let failures = tokio::task::spawn_blocking(move || {
        let refused = Target::parse("169.254.169.254:80", None).unwrap();
        let failure = Client::connect(&daemon.socket, &refused).unwrap_err().to_string();
        // The status is answered beside it.
        assert!(Client::status(&daemon.socket).is_ok());
        failure
    });
    assert_eq!(
        failures.await.unwrap(),
        "cannot reach 169.254.169.254:80: the destination is a link-local address"
    );
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
