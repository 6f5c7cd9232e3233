//! The gateway's datagrams over WebSocket, for networks that let no UDP through.
//!
//! `GET /agent/v1/tunnel`, subprotocol `orfe.tunnel.v1`: each binary message is one datagram of WireGuard, carried to the
//! gateway's UDP port and back as it is. Nobody is authenticated here, because nobody is at the UDP port itself: the gateway
//! answers the handshakes of keys that it knows, and asks others for a cookie at most, which is no answer. A connection that it
//! does not answer is closed, and sooner where there is no room for another (see [`places`]).
//!
//! Each connection has a UDP socket of its own, on Linux with a source address of its own out of 127.64.0.0/10, so that
//! the gateway's limit on handshakes from one source goes on telling sources apart. Elsewhere all come from 127.0.0.1.

mod places;

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use orfe_protocol::{TUNNEL_PATH, TUNNEL_SUBPROTOCOL};
use orfe_tunnel::carrier::{Carried, DATAGRAM_MAX, carry, towards_gateway};
use orfe_tunnel_core::{Rate, SourceLimiter};
use tokio::net::UdpSocket;

use self::places::{Place, Places};
use crate::listener::Source;
use crate::shared::Shared;

/// Connections at once, at about 60 KiB each with what the kernel holds for them. Where all are answered, a device beyond
/// it is refused with 503 and tries again later.
const CONNECTIONS_MAX: usize = 4096;

/// Connections that one source may open: a site behind one address that comes back at once, and then some.
const OPENED: Rate = Rate {
    per_second: 5.0,
    burst: 50.0,
};

/// How long the gateway may be silent.
#[derive(Debug, Clone, Copy)]
struct Silence {
    /// Until its first answer. A device asks every 5 s.
    unanswered: Duration,
    /// Later. A session that is kept is renewed every 120 s, and that is answered.
    idle: Duration,
    /// How often that is looked at.
    look: Duration,
}

const PATIENCE: Silence = Silence {
    unanswered: Duration::from_secs(15),
    idle: Duration::from_secs(200),
    look: Duration::from_secs(5),
};

/// Datagrams wait here while the device's network takes none, and TCP's own buffer is full; what comes after is lost.
const WRITE_BUFFER: usize = 16 * 1024;

/// The way of a datagram to the gateway.
#[derive(Debug)]
struct Carriers {
    shared: Arc<Shared>,
    places: Arc<Places>,
    opened: Mutex<SourceLimiter>,
    /// Number of the next connection's source address.
    next: AtomicU32,
}

/// The route for devices whose network passes no UDP.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let carriers = Carriers {
        shared,
        places: Places::new(CONNECTIONS_MAX),
        opened: Mutex::new(SourceLimiter::new(OPENED, Instant::now())),
        next: AtomicU32::new(0),
    };
    Router::new()
        .route(TUNNEL_PATH, get(upgrade))
        .with_state(Arc::new(carriers))
}

async fn upgrade(
    State(carriers): State<Arc<Carriers>>,
    Extension(Source(source)): Extension<Source>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Some(gateway) = carriers
        .shared
        .gateway
        .as_ref()
        .filter(|_| carriers.shared.carries_datagrams())
        .map(|gateway| gateway.local_addr)
    else {
        return (StatusCode::NOT_FOUND, "this registry carries no datagrams\n").into_response();
    };
    let upgrade = upgrade
        .protocols([TUNNEL_SUBPROTOCOL])
        .read_buffer_size(WRITE_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(4 * WRITE_BUFFER)
        .max_message_size(DATAGRAM_MAX)
        .max_frame_size(DATAGRAM_MAX);
    if upgrade.selected_protocol().is_none() {
        return (StatusCode::UPGRADE_REQUIRED, "no common subprotocol\n").into_response();
    }
    let overloaded = |what: &'static str| (StatusCode::SERVICE_UNAVAILABLE, what).into_response();
    let is_granted = (carriers.opened.lock())
        .unwrap_or_else(PoisonError::into_inner)
        .take(source.ip(), Instant::now());
    if !is_granted {
        return overloaded("too many connections from this address\n");
    }
    let Some(place) = carriers.places.take() else {
        return overloaded("too many connections\n");
    };
    let tasks = carriers.shared.tasks.clone();
    upgrade.on_upgrade(move |socket| {
        tasks.track_future(async move { carriers.serve(socket, gateway, source, place).await })
    })
}

impl Carriers {
    /// Carries until one side ends it, nothing is carried any more, or the registry stops.
    async fn serve(&self, socket: WebSocket, gateway: SocketAddr, source: SocketAddr, place: Place) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let udp = match towards(gateway, number) {
            Ok(udp) => udp,
            Err(error) => {
                tracing::warn!(%error, %gateway, "no UDP socket towards the gateway");
                return;
            }
        };
        let carried = Carried::default();
        let lost = async {
            tokio::select! {
                () = carried.answered() => place.keep(),
                () = place.lost() => {}
            }
            // Never, if it was kept in time.
            place.lost().await;
        };
        let ended = tokio::select! {
            ended = carry(&udp, datagrams(socket), &carried) => match ended {
                Ok(()) => "closed by the device".to_owned(),
                Err(error) => crate::chain(&error),
            },
            why = silence(&carried, PATIENCE) => why.to_owned(),
            () = lost => "another took its place before the gateway answered".to_owned(),
            () = self.shared.shutdown.cancelled() => "the registry stops".to_owned(),
        };
        let (up, down) = (carried.to_udp(), carried.from_udp());
        tracing::debug!(%source, up, down, ended, "a carrier's connection ended");
    }
}

/// Ends when the gateway has answered nothing for too long.
async fn silence(carried: &Carried, patience: Silence) -> &'static str {
    let (mut answered, mut since) = (0, tokio::time::Instant::now());
    loop {
        tokio::time::sleep(patience.look).await;
        let now = carried.answers();
        if now != answered {
            (answered, since) = (now, tokio::time::Instant::now());
        }
        if answered == 0 && since.elapsed() >= patience.unanswered {
            return "the gateway does not answer this device";
        }
        if since.elapsed() >= patience.idle {
            return "idle";
        }
    }
}

fn towards(gateway: SocketAddr, number: u32) -> io::Result<UdpSocket> {
    let socket = towards_gateway(gateway, number)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// The binary messages of a WebSocket; all others are passed over.
fn datagrams(
    socket: WebSocket,
) -> impl Stream<Item = Result<Bytes, axum::Error>> + Sink<Bytes, Error = axum::Error> {
    socket
        .with(|datagram: Bytes| ready(Ok::<_, axum::Error>(Message::Binary(datagram))))
        .filter_map(|message| {
            ready(match message {
                Ok(Message::Binary(datagram)) => Some(Ok(datagram)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_the_gateway_does_not_answer_is_closed() {
        let patience = Silence {
            unanswered: Duration::from_millis(30),
            idle: Duration::from_secs(60),
            look: Duration::from_millis(10),
        };
        let why = silence(&Carried::default(), patience).await;
        assert_eq!(why, "the gateway does not answer this device");
    }
}
