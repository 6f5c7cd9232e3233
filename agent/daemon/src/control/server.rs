//! The daemon's end of the control socket.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orfe_platform::private::{self, PrivateFileError};
use orfe_tunnel::AcceptFailures;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::status::Status;
use super::{Answer, AnswerLine, REQUEST_MAX, Request, RequestLine, Services, VERSION};
use crate::failure::{Exit, Failure};

/// Clients at a time. A person opens one or two; beyond this, new ones wait for a place.
const CLIENTS_MAX: usize = 32;

/// How long a client may take to say what it wants; then its place is free again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("another daemon answers there")]
    Taken,
    #[error("something else is there already, and is no socket")]
    NotASocket,
    #[error("its folder cannot be used")]
    Folder(#[source] PrivateFileError),
    #[error("the system refuses it")]
    Bind(#[source] io::Error),
}

impl ServerError {
    /// The failure of a daemon that was to listen at `path`.
    pub(crate) fn at(self, path: &Path) -> Failure {
        let denied = match &self {
            Self::Folder(error) => matches!(error, PrivateFileError::Denied { .. }),
            Self::Bind(error) => error.kind() == io::ErrorKind::PermissionDenied,
            Self::Taken | Self::NotASocket => false,
        };
        Failure::new(format!(
            "the daemon cannot open its control socket {}, by which commands reach it",
            path.display()
        ))
        .hint(self.hint())
        .exit(if denied { Exit::NotPermitted } else { Exit::Failed })
        .because(self)
    }

    fn hint(&self) -> String {
        match self {
            Self::Taken => "stop the other daemon, or choose another socket with `--control`".to_owned(),
            Self::Folder(PrivateFileError::Exposed { .. } | PrivateFileError::ForeignOwner { .. }) => {
                "name a folder that only you can write to with `--control`; one that is missing is made so"
                    .to_owned()
            }
            Self::Folder(error) => error
                .hint()
                .unwrap_or_else(|| "choose another place with `--control`".to_owned()),
            Self::NotASocket | Self::Bind(_) => "choose another place with `--control`".to_owned(),
        }
    }
}

/// The listening socket; its file is removed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Opens the socket. One that a dead daemon left behind is replaced, one that a living daemon answers on is not.
    pub(crate) fn bind(path: &Path) -> Result<Self, ServerError> {
        // A bare name is a file of the current folder.
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        private::create_missing_dir(folder).map_err(ServerError::Folder)?;
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ServerError::Taken);
        }
        if fs_err::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
            return Err(ServerError::NotASocket);
        }
        match fs_err::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ServerError::Bind(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(ServerError::Bind)?;
        // Nobody else can put anything in its place, but a folder that was there may be open for looking in.
        restrict(path).map_err(ServerError::Bind)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves clients until `stop`.
    pub(crate) async fn run(self, services: Services, tasks: TaskTracker, stop: CancellationToken) {
        let places = std::sync::Arc::new(Semaphore::new(CLIENTS_MAX));
        let failures = AcceptFailures::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    failures.pause_after(&error).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let (services, stop) = (services.clone(), stop.clone());
            tasks.spawn(async move {
                let serving = serve(stream, place, services);
                // A client that went away is no news to anybody.
                let _ = stop.run_until_cancelled(serving).await;
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Best effort: a socket file that stays is replaced by the next daemon.
        let _ = fs_err::remove_file(&self.path);
    }
}

fn restrict(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

async fn serve(stream: UnixStream, place: OwnedSemaphorePermit, services: Services) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let request = tokio::time::timeout(REQUEST_TIMEOUT, read_request(&mut stream)).await??;
    match request {
        Ok(Request::Status) => tell(stream, services.status, false).await,
        Ok(Request::Watch) => tell(stream, services.status, true).await,
        Ok(Request::Proxy) => write(&mut stream, services.proxy()).await,
        Ok(Request::Connect { host, port }) => {
            // Connections are counted by themselves: many of them must not keep anybody from the status.
            drop(place);
            services.connect(stream, &host, port).await
        }
        Err(text) => write(&mut stream, Answer::Error(text)).await,
    }
}

/// Tells the status, once or whenever it changes.
async fn tell(
    mut stream: BufReader<UnixStream>,
    mut status: watch::Receiver<Option<Status>>,
    watching: bool,
) -> io::Result<()> {
    loop {
        let current = status
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| status.clone());
        // The daemon is gone; so is this.
        let Some(current) = current else { return Ok(()) };
        status.mark_unchanged();
        write(&mut stream, Answer::Status(Box::new(current))).await?;
        if !watching || status.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Reads the request's line; what follows it stays in the buffer.
async fn read_request(stream: &mut BufReader<UnixStream>) -> io::Result<Result<Request, String>> {
    let mut line = String::new();
    stream.take(REQUEST_MAX as u64).read_line(&mut line).await?;
    Ok(match serde_json::from_str::<RequestLine>(&line) {
        Ok(RequestLine { v: VERSION, request }) => Ok(request),
        Ok(RequestLine { v, .. }) => Err(format!("this daemon speaks version {VERSION}, not {v}")),
        Err(_) => Err("this daemon does not know that request; is it older than this program?".to_owned()),
    })
}

pub(super) async fn write(writer: &mut (impl AsyncWrite + Unpin), answer: Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(&AnswerLine { v: VERSION, answer })?;
    line.push(b'\n');
    writer.write_all(&line).await
}
