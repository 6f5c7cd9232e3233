//! The CLI's way to the registry that runs on this machine: HTTP over its admin socket.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use orfe_platform::paths::check_socket_path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::Failure;
use crate::api;
use crate::state_folder::admin_socket;

/// For one question and its answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer; 50 000 devices with all their facts are below it.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// Asks the registry that works on a data folder.
#[derive(Debug)]
pub(super) struct Client {
    data: PathBuf,
}

impl Client {
    pub(super) fn new(data: PathBuf) -> Self {
        Self { data }
    }

    pub(super) async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Q,
    ) -> Result<A, Failure> {
        let json = serde_json::to_vec(body)
            .map_err(|error| Failure::new(format!("the question could not be written: {error}")))?;
        self.ask(Method::POST, path, json.into()).await
    }

    async fn ask<A: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<A, Failure> {
        let socket = admin_socket(&self.data);
        let broken = |error: &dyn std::error::Error| {
            Failure::new(format!(
                "the registry at {} did not answer: {}",
                socket.display(),
                crate::chain(error)
            ))
        };
        let stream = self.connect().await?;
        let exchange = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "registry")
                .header("content-type", "application/json")
                .body(Full::new(body));
            let request =
                request.map_err(|error| -> Box<dyn std::error::Error + Send + Sync> { error.into() })?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await?
                .to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
        };
        let (status, body) = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .map_err(|elapsed| broken(&elapsed))?
            .map_err(|error| broken(error.as_ref()))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| broken(&error));
        }
        match serde_json::from_slice::<api::ErrorAnswer>(&body) {
            Ok(answer) => {
                // What the registry calls a bad request is what was asked for.
                let failure = if status == StatusCode::BAD_REQUEST {
                    Failure::usage(answer.error.message)
                } else {
                    Failure::new(answer.error.message)
                };
                Err(match answer.error.hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                })
            }
            Err(_) => Err(Failure::new(format!("the registry answered {status}"))
                .hint("see that CLI and registry have the same version")),
        }
    }

    async fn connect(&self) -> Result<UnixStream, Failure> {
        let socket = admin_socket(&self.data);
        check_socket_path(&socket)
            .map_err(|error| Failure::usage(error.to_string()).hint("choose a shorter path with `--data`"))?;
        UnixStream::connect(&socket)
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Failure::not_running(format!("no registry runs on {}", self.data.display()))
                        .hint("start one with `orfe-registry serve`, or name its data folder with `--data`")
                }
                io::ErrorKind::PermissionDenied => {
                    Failure::not_permitted(format!("this user may not open {}", socket.display()))
                        .hint("run it as the user that the registry runs as")
                }
                _ => Failure::new(format!("{} could not be opened: {error}", socket.display())),
            })
    }
}
