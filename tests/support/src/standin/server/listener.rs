//! Accepting and serving connections. A connection ends when its peer goes, when it is cut, or with the stand-in.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::Fault;
use super::routes;
use super::state::State;

/// Pause after an accept that failed, so that a machine out of descriptors is not kept busy, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One connection, as the requests on it need to know it.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    /// Cancelled when the connection is to be cut.
    pub(super) cut: CancellationToken,
    /// Where the sessions that grow out of requests live.
    pub(super) tasks: TaskTracker,
}

pub(super) async fn accept_loop(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    state: Arc<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // Out of descriptors, or a peer that was gone at once: the next accept, a little later, decides.
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (id, cut) = state.open(peer);
        let connection = Connection {
            id,
            peer,
            cut,
            tasks: tasks.clone(),
        };
        tasks.spawn(serve(stream, acceptor.clone(), Arc::clone(&state), connection));
    }
}

async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, state: Arc<State>, connection: Connection) {
    let id = connection.id;
    let cut = connection.cut.clone();
    let serving = async {
        match (state.fault(), acceptor) {
            (Some(Fault::CloseAfterAccept), _) => state.closed(id),
            (Some(Fault::NeverAnswer), _) => {
                // Held open, unread, until it is cut.
                let _held = stream;
                std::future::pending::<()>().await;
            }
            (_, None) => serve_http(stream, &state, connection).await,
            (_, Some(acceptor)) => match acceptor.accept(stream).await {
                Ok(stream) => serve_http(stream, &state, connection).await,
                // The peer did not like the certificate or spoke no TLS; it knows.
                Err(_) => state.closed(id),
            },
        }
    };
    if cut.run_until_cancelled(serving).await.is_none() {
        state.closed(id);
    }
}

async fn serve_http<S>(stream: S, state: &Arc<State>, connection: Connection)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let id = connection.id;
    let upgraded = CancellationToken::new();
    let service = service_fn(|request| {
        let (state, connection, upgraded) = (Arc::clone(state), connection.clone(), upgraded.clone());
        async move {
            let answer = routes::answer(state, connection, request).await;
            if answer.status() == hyper::StatusCode::SWITCHING_PROTOCOLS {
                upgraded.cancel();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    // A session has taken an upgraded connection over and reports its end itself. A broken connection is no event.
    if served.is_err() || !upgraded.is_cancelled() {
        state.closed(id);
    }
}
