//! The HTTPS listener: accepts, shakes hands, and serves routes, with a bound on each.
//!
//! An accept loop of our own, because the limits that keep a connection small and a slow one short have to be set on
//! the socket, on TLS and on HTTP: 64 KiB of send buffer, [`HANDSHAKES_MAX`] handshakes at a time of
//! 10 s at most, 10 s for a request's head, 16 KiB of buffer. A connection that became a WebSocket is
//! the session's from then on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use orfe_tunnel::AcceptFailures;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// TLS handshakes at a time; the next wait in the kernel's queue. Many, because one that is stalled costs a little
/// memory and no time, and few could be held by one attacker.
const HANDSHAKES_MAX: usize = 1024;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// Kernel memory for what a device has not taken yet. Linux doubles it; the largest desired state fits.
const SEND_BUFFER: u32 = 64 * 1024;

/// For a TLS handshake, and for the head of a request.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// What HTTP buffers before a request's head must be whole.
const HTTP_BUFFER: usize = 16 * 1024;

/// Address of the other end of a connection, as the routes see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source(pub(crate) SocketAddr);

/// Binds a TCP address.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    // Accepted sockets take it over.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `shutdown`, with each connection as a task of `tasks`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let failures = AcceptFailures::default();
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                failures.pause_after(&error).await;
                continue;
            }
        };
        let Some(Ok(permit)) = shutdown
            .run_until_cancelled(handshakes.clone().acquire_owned())
            .await
        else {
            break;
        };
        let connection = connection(stream, source, acceptor.clone(), router.clone(), permit);
        let shutdown = shutdown.clone();
        tasks.spawn(async move { shutdown.run_until_cancelled(connection).await });
    }
}

async fn connection(
    stream: TcpStream,
    source: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    permit: tokio::sync::OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%source, %error, "small frames may wait");
    }
    let stream = match tokio::time::timeout(STEP_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%source, error = crate::chain(&error), "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%source, "TLS handshake took too long");
            return;
        }
    };
    drop(permit);
    let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Source(source));
        request.map(axum::body::Body::new)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(STEP_TIMEOUT)
        .max_buf_size(HTTP_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%source, error = crate::chain(&error), "HTTP connection failed");
    }
}
