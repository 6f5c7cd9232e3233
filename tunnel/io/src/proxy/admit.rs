//! A client from its first byte until it is let in.
//!
//! ```text
//!  lobby ─► first byte ─┬─ HTTP head ──► parsed ─────► credential ─► a place among the served ─► routed ──► `serve`
//!    └─ pushed out      │    └─ 408 431    └─ 400       │ └─ 407       └─ 503                      └─ 502
//!                       └─ SOCKS greeting, credential ──┘
//! ```
//!
//! A client of a static forward has nothing to show and is routed at once.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::head::{self, Kind, Request};
use super::lobby::{Place, Stay};
use super::receive::{HeadError, buffered, read_head};
use super::refusal::Refusal;
use super::routes::{Decision, Transport, Way};
use super::serve::{Front, connection, refuse};
use super::socks;
use super::target::Target;

/// What a client was let in for.
pub(super) enum Admitted {
    Connection(Box<Request>, Way),
    /// Datagrams. The port is the one that the client says it will send from; 0 where it does not know yet.
    Associate {
        port: u16,
    },
}

/// Serves a client of the proxy, which has to show the credential first. Until then it may be pushed out.
pub(super) async fn client(shared: &Shared, stream: TcpStream, peer: SocketAddr, place: Place) {
    let pushed_out = place.pushed_out();
    let mut stay = Stay::Lobby(place);
    let greeting = greet(shared, prepared(stream), peer, &mut stay);
    let Some(let_in) = pushed_out.run_until_cancelled(greeting).await else {
        tracing::debug!(%peer, "a client that had not shown the credential made room for another");
        return;
    };
    let Some((mut client, front, admitted)) = let_in else {
        return;
    };
    match admitted {
        Admitted::Connection(request, way) => {
            connection(shared, client, front, peer, &request, &way).await;
        }
        Admitted::Associate { port } => {
            if let Err(refusal) = socks::associate(shared, &mut client, peer, port).await {
                refuse(client, front, refusal).await;
            }
        }
    }
    drop(stay);
}

/// Serves a client of a static forward.
pub(super) async fn forward(shared: &Shared, stream: TcpStream, peer: SocketAddr, target: &Target) {
    let client = prepared(stream);
    let request = Request {
        target: target.clone(),
        authorization: None,
        kind: Kind::Connect,
    };
    match route(shared, target) {
        Ok(way) => connection(shared, client, Front::Forward, peer, &request, &way).await,
        Err(refusal) => refused(client, Front::Forward, peer, refusal).await,
    }
}

fn prepared(stream: TcpStream) -> BufReader<TcpStream> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set the options of a client's socket");
    }
    buffered(stream)
}

/// Hears what a client wants and lets it in, or refuses it. `None`: it has left, or was refused.
async fn greet(
    shared: &Shared,
    mut client: BufReader<TcpStream>,
    peer: SocketAddr,
    stay: &mut Stay,
) -> Option<(BufReader<TcpStream>, Front, Admitted)> {
    let deadline = Instant::now() + shared.limits.head;
    let front = front(&mut client, deadline).await?;
    let admitted = match front {
        Front::Socks => timeout_at(deadline, socks::admit(shared, &mut client, stay))
            .await
            .unwrap_or(Err(Refusal::HeadTimeout)),
        Front::Http | Front::Forward => admit_http(shared, &mut client, deadline, stay).await,
    };
    match admitted {
        Ok(admitted) => Some((client, front, admitted?)),
        Err(refusal) => {
            refused(client, front, peer, refusal).await;
            None
        }
    }
}

async fn refused(client: BufReader<TcpStream>, front: Front, peer: SocketAddr, refusal: Refusal) {
    tracing::debug!(%peer, code = refusal.code(), "refused a request");
    refuse(client, front, refusal).await;
}

/// Tells by the first byte how a client speaks; `None` where it left without one. One that is silent is taken for HTTP,
/// whose answer says what is wrong.
async fn front(client: &mut BufReader<TcpStream>, deadline: Instant) -> Option<Front> {
    match timeout_at(deadline, client.fill_buf()).await {
        Ok(Ok([]) | Err(_)) => None,
        Ok(Ok([socks::wire::VERSION, ..])) => Some(Front::Socks),
        Ok(Ok(_)) | Err(_) => Some(Front::Http),
    }
}

/// Reads a request, checks its credential and decides its way. `None`: the client left without a whole request.
async fn admit_http(
    shared: &Shared,
    client: &mut BufReader<TcpStream>,
    deadline: Instant,
    stay: &mut Stay,
) -> Result<Option<Admitted>, Refusal> {
    let head = match timeout_at(deadline, read_head(client)).await {
        Err(_) => return Err(Refusal::HeadTimeout),
        Ok(Err(HeadError::Closed | HeadError::Io(_))) => return Ok(None),
        Ok(Err(HeadError::TooLarge)) => return Err(Refusal::HeadTooLarge),
        Ok(Err(HeadError::Invalid(reason))) => return Err(Refusal::BadRequest(reason)),
        Ok(Ok(head)) => head,
    };
    let request = head::parse(&head)?;
    if !request
        .authorization
        .as_ref()
        .is_some_and(|given| shared.entry.admits(given))
    {
        return Err(Refusal::Unauthenticated);
    }
    stay.let_in(&shared.served)?;
    let way = route(shared, &request.target)?;
    Ok(Some(Admitted::Connection(Box::new(request), way)))
}

pub(super) fn route(shared: &Shared, target: &Target) -> Result<Way, Refusal> {
    match shared.routes.borrow().decide(target, Transport::Tcp) {
        Decision::Refuse(refusal) => Err(refusal),
        Decision::Go(way) => Ok(way),
    }
}
