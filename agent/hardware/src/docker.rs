//! Whether a Docker engine answers: ping and version over its socket, within a time limit.
//!
//! The endpoint is the one that `DOCKER_HOST` names, else Docker's usual socket: the same that terraform's Docker
//! provider would use. What can go wrong is told apart, because a person does different things about it: install
//! it, start it, join the `docker` group.

use std::error::Error as _;
use std::time::Duration;
use std::{fs, io};

use bollard::API_DEFAULT_VERSION;
use bollard::errors::Error;

use crate::facts::{Docker, DockerAbsence};
use crate::parse::one_line;
use crate::root::Root;

/// How long the engine may take for both answers. It takes milliseconds; a machine under load gets the rest.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Where the engine listens unless it is told otherwise.
#[cfg(not(windows))]
const DEFAULT_ENDPOINT: &str = "/var/run/docker.sock";
#[cfg(windows)]
const DEFAULT_ENDPOINT: &str = "npipe:////./pipe/docker_engine";

/// Programs whose presence means that Docker is installed.
const PROGRAMS: &[&str] = &[
    "/usr/bin/docker",
    "/usr/bin/dockerd",
    "/usr/local/bin/docker",
    "/usr/local/bin/dockerd",
    "/snap/bin/docker",
    "/Program Files/Docker/Docker/resources/bin/docker.exe",
];

/// Asks the engine at the root's endpoint.
pub(crate) async fn probe(root: &Root) -> Docker {
    ask(root, &endpoint(root), TIMEOUT).await
}

/// A client of the engine that facts are told of: the one that `DOCKER_HOST` names, else Docker's usual socket. Each answer
/// may take `timeout`.
///
/// # Errors
/// There is no socket, or the endpoint is of a kind that is not spoken to. Whether somebody answers shows with the first request.
pub fn engine(root: &Root, timeout: Duration) -> Result<bollard::Docker, Error> {
    connect(&endpoint(root), timeout)
}

/// Whether asking the engine could bring more than "there is none": without asking. False where its socket is missing.
pub fn may_have_engine(root: &Root) -> bool {
    let endpoint = endpoint(root);
    match endpoint.strip_prefix("unix://") {
        Some(socket) => {
            !matches!(fs::metadata(socket), Err(error) if error.kind() == io::ErrorKind::NotFound)
        }
        None => true,
    }
}

/// Where that engine is looked for, as a URL.
pub fn endpoint(root: &Root) -> String {
    match root.docker_host() {
        Some(host) => host.to_owned(),
        None if cfg!(windows) => DEFAULT_ENDPOINT.to_owned(),
        None => format!("unix://{}", root.resolve(DEFAULT_ENDPOINT).display()),
    }
}

async fn ask(root: &Root, endpoint: &str, timeout: Duration) -> Docker {
    let absent = |reason, detail: &str| Docker::Absent {
        reason,
        endpoint: endpoint.to_owned(),
        detail: one_line(detail).unwrap_or_default(),
    };
    match tokio::time::timeout(timeout, version(endpoint)).await {
        Ok(Ok(version)) => Docker::Present {
            version,
            endpoint: endpoint.to_owned(),
        },
        Ok(Err(failure)) => {
            let reason = match failure.absence {
                DockerAbsence::NotInstalled if is_installed(root) => DockerAbsence::NotRunning,
                reason => reason,
            };
            absent(reason, &failure.detail)
        }
        Err(_elapsed) => absent(
            DockerAbsence::NoAnswer,
            &format!("no answer within {} ms", timeout.as_millis()),
        ),
    }
}

fn is_installed(root: &Root) -> bool {
    PROGRAMS.iter().any(|path| root.exists(path))
}

/// Why an attempt failed.
struct Failure {
    absence: DockerAbsence,
    detail: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            absence: absence(&error),
            detail: chain(&error),
        }
    }
}

async fn version(endpoint: &str) -> Result<String, Failure> {
    // Its own timeout is longer than ours, which also covers the dial.
    let engine = connect(endpoint, TIMEOUT * 2)?;
    engine.ping().await?;
    // Engines refuse a version of the API that is newer than their own.
    let engine = engine.negotiate_version().await?;
    let version = engine.version().await?.version;
    version.as_deref().and_then(one_line).ok_or_else(|| Failure {
        absence: DockerAbsence::BadAnswer,
        detail: "the answer names no version".to_owned(),
    })
}

/// A client for the endpoint.
fn connect(endpoint: &str, timeout: Duration) -> Result<bollard::Docker, Error> {
    let timeout_s = timeout.as_secs();
    match endpoint.split_once("://").map_or("", |(scheme, _)| scheme) {
        "unix" if cfg!(unix) => {
            // Asked here because the client takes a socket in a folder that it may not enter for one that is not there.
            fs::metadata(endpoint.trim_start_matches("unix://"))?;
            bollard::Docker::connect_with_socket(endpoint, timeout_s, API_DEFAULT_VERSION)
        }
        "npipe" if cfg!(windows) => {
            bollard::Docker::connect_with_socket(endpoint, timeout_s, API_DEFAULT_VERSION)
        }
        "tcp" | "http" => bollard::Docker::connect_with_http(endpoint, timeout_s, API_DEFAULT_VERSION),
        _ => Err(Error::UnsupportedURISchemeError {
            uri: endpoint.to_owned(),
        }),
    }
}

fn absence(error: &Error) -> DockerAbsence {
    match error {
        Error::SocketNotFoundError(_) => DockerAbsence::NotInstalled,
        Error::UnsupportedURISchemeError { .. } => DockerAbsence::UnsupportedEndpoint,
        Error::RequestTimeoutError => DockerAbsence::NoAnswer,
        // Its `source` is the cause of the inner error, not the inner error itself.
        Error::IOError { err } => absence_of_io(err.kind()),
        _ => io_cause(error).map_or(DockerAbsence::BadAnswer, absence_of_io),
    }
}

/// The operating system's error at the bottom of the chain.
fn io_cause(error: &Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

const fn absence_of_io(kind: io::ErrorKind) -> DockerAbsence {
    match kind {
        io::ErrorKind::NotFound => DockerAbsence::NotInstalled,
        io::ErrorKind::PermissionDenied => DockerAbsence::PermissionDenied,
        io::ErrorKind::ConnectionRefused => DockerAbsence::NotRunning,
        io::ErrorKind::TimedOut => DockerAbsence::NoAnswer,
        _ => DockerAbsence::BadAnswer,
    }
}

/// The error and its causes in one line. Some layers repeat their cause in their own text; those are left out.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};
    use tokio::task::JoinSet;

    use super::*;

    const VERSION: &str = r#"{"Version":"27.3.1","ApiVersion":"1.47"}"#;

    #[tokio::test]
    async fn an_engine_on_the_usual_socket_tells_its_version() {
        let (folder, root) = tree();
        let _engine = engine(&socket(&folder), "200 OK", VERSION);
        let docker = probe(&root).await;
        let endpoint = format!("unix://{}", socket(&folder).display());
        assert_eq!(
            docker,
            Docker::Present {
                version: "27.3.1".into(),
                endpoint
            }
        );
    }

    #[tokio::test]
    async fn an_engine_on_tcp_is_asked_when_docker_host_names_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, "200 OK", VERSION).await;
            }
        });
        let (_folder, root) = tree();
        let docker = probe(&root.with_docker_host(&endpoint)).await;
        assert_eq!(
            docker,
            Docker::Present {
                version: "27.3.1".into(),
                endpoint
            }
        );
    }

    #[tokio::test]
    async fn no_socket_is_not_installed_or_not_running() {
        let (folder, root) = tree();
        assert_eq!(reason(probe(&root).await), DockerAbsence::NotInstalled);
        assert!(!may_have_engine(&root));

        std::fs::create_dir_all(folder.path().join("usr/bin")).unwrap();
        std::fs::write(folder.path().join("usr/bin/dockerd"), "").unwrap();
        assert_eq!(reason(probe(&root).await), DockerAbsence::NotRunning);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_serves_is_not_running() {
        let (folder, root) = tree();
        drop(UnixListener::bind(socket(&folder)).unwrap());
        assert_eq!(reason(probe(&root).await), DockerAbsence::NotRunning);
        assert!(may_have_engine(&root), "it may be started at any moment");
    }

    #[tokio::test]
    async fn silence_ends_at_the_time_limit() {
        let (folder, root) = tree();
        let _silent = UnixListener::bind(socket(&folder)).unwrap();
        let docker = ask(&root, &endpoint(&root), Duration::from_millis(50)).await;
        assert_eq!(reason(docker), DockerAbsence::NoAnswer);
    }

    #[tokio::test]
    async fn wrong_answers_are_told_from_no_answer() {
        for (status, body) in [
            ("500 Internal Server Error", r#"{"message":"broken"}"#),
            ("200 OK", "not json"),
            ("200 OK", "{}"),
            ("200 OK", r#"{"Version":"\u0000"}"#),
        ] {
            let (folder, root) = tree();
            let _engine = engine(&socket(&folder), status, body);
            assert_eq!(
                reason(probe(&root).await),
                DockerAbsence::BadAnswer,
                "{status} {body}"
            );
        }
    }

    #[tokio::test]
    async fn other_kinds_of_endpoint_are_named_as_such() {
        let (_folder, root) = tree();
        for endpoint in [
            "ssh://user@host",
            "nonsense",
            "unix:/half",
            "npipe:////./pipe/docker_engine",
        ] {
            let docker = probe(&root.clone().with_docker_host(endpoint)).await;
            assert_eq!(reason(docker), DockerAbsence::UnsupportedEndpoint, "{endpoint}");
        }
    }

    /// Root may open every socket, so the refusal itself cannot be made here; its way through the errors can.
    #[test]
    fn a_refusal_by_permission_is_found_in_the_error() {
        let refusal = Error::from(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(absence(&refusal), DockerAbsence::PermissionDenied);
    }

    #[track_caller]
    fn reason(docker: Docker) -> DockerAbsence {
        match docker {
            Docker::Absent { reason, detail, .. } => {
                assert!(!detail.is_empty(), "{reason:?} comes without a detail");
                reason
            }
            Docker::Present { .. } => panic!("nothing should have answered: {docker:?}"),
        }
    }

    fn tree() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("var/run")).unwrap();
        let root = Root::at(folder.path());
        (folder, root)
    }

    fn socket(folder: &tempfile::TempDir) -> std::path::PathBuf {
        folder.path().join("var/run/docker.sock")
    }

    /// Answers pings properly and everything else as told, until the returned set is dropped.
    fn engine(path: &Path, status: &'static str, body: &'static str) -> JoinSet<()> {
        let listener = UnixListener::bind(path).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, status, body).await;
            }
        });
        tasks
    }

    async fn answer(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, status: &str, body: &str) {
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut request).await.unwrap() == 0 {
                return;
            }
        }
        let is_ping = String::from_utf8_lossy(&request).contains("/_ping ");
        let (status, body) = if is_ping { ("200 OK", "OK") } else { (status, body) };
        let length = body.len();
        let response = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        stream.write_all(response.as_bytes()).await.unwrap();
    }
}
