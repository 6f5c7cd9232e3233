//! One client connection from where it was let in to its last byte.
//!
//! ```text
//!  admitted, routed ──► entry in the table ──► reached ──► spliced ──► closed
//!                            └────── cut: reset at any time ─────┘
//!                               └─ 502 503 504 instead of "reached"
//! ```

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::body::Body;
use super::connections::{CloseReason, Tracked};
use super::head::{ForwardedRequest, Kind, Request};
use super::lookup;
use super::reach::{self, Destination};
use super::receive::{HeadError, read_head};
use super::refusal::Refusal;
use super::routes::Way;
use super::socks;
use super::splice::{Side, Until, splice};
use super::upstream::status_of;

/// The answer to CONNECT.
pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// In replies about connections: nothing hangs on the address that they went out from.
const NO_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
/// How long and how much a client that was refused may still send. Closing on unread bytes is a reset, and a reset can
/// overtake the answer that says why.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: u64 = 1024 * 1024;

/// How a client speaks, and so how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    Http,
    Socks,
    /// Bytes from the first on: a static forward. It has no words for an answer.
    Forward,
}

impl Front {
    /// What a client is told once its destination is reached.
    fn established(self) -> Vec<u8> {
        match self {
            Self::Http => ESTABLISHED.to_vec(),
            Self::Socks => socks::wire::reply(0, NO_ADDRESS),
            Self::Forward => Vec::new(),
        }
    }

    fn answer(self, refusal: Refusal) -> Vec<u8> {
        match (self, refusal) {
            (Self::Http, _) => refusal.answer(),
            // The first two were told in their own message, the others come before there is a request to reply to.
            (
                Self::Socks,
                Refusal::Unauthenticated
                | Refusal::Foreign(_)
                | Refusal::HeadTimeout
                | Refusal::BadRequest(_),
            )
            | (Self::Forward, _) => Vec::new(),
            (Self::Socks, _) => socks::wire::reply(socks::wire::reply_code(refusal), NO_ADDRESS),
        }
    }
}

/// Carries a connection that was let in.
pub(super) async fn connection(
    shared: &Shared,
    mut client: BufReader<TcpStream>,
    front: Front,
    peer: SocketAddr,
    request: &Request,
    way: &Way,
) {
    let tracked = shared.connections.open(peer, request.target.clone(), way.route());
    let reason = converse(shared, &mut client, front, request, way, &tracked).await;
    match reason {
        // The entry stays until the client has its answer.
        CloseReason::Refused(refusal) => refuse(client, front, refusal).await,
        CloseReason::Cut | CloseReason::DestinationFailed | CloseReason::ProtocolViolation => {
            // An ordinary close could pass for the regular end of an answer.
            reach::reset_on_close(client.get_ref());
            drop(client);
        }
        CloseReason::Finished | CloseReason::ClientGone | CloseReason::Shutdown => drop(client),
    }
    tracked.close(reason);
}

/// Reaches the destination and carries the connection until it ends or is cut.
async fn converse(
    shared: &Shared,
    client: &mut BufReader<TcpStream>,
    front: Front,
    request: &Request,
    way: &Way,
    tracked: &Tracked,
) -> CloseReason {
    let cut = tracked.cut();
    // A client of a forward may say all it has to say before anything is reached.
    let waits = matches!(request.kind, Kind::Connect) && front != Front::Forward;
    let reached = tokio::select! {
        biased;
        () = cut.cancelled() => return CloseReason::Cut,
        reached = reach_destination(shared, request, way) => reached,
        () = gone(client.get_ref(), waits) => return CloseReason::ClientGone,
    };
    let mut destination = match reached {
        Ok(destination) => destination,
        Err(refusal) => return CloseReason::Refused(refusal),
    };
    let say = match &request.kind {
        Kind::Connect => Saying::Established(front.established()),
        Kind::Forward(forward) => Saying::Forward(forward),
    };
    let reason = match &mut destination {
        Destination::Socket(stream) => carry(client, stream, &say, way, tracked, &cut).await,
        Destination::Tunnel(stream) => carry(client, stream, &say, way, tracked, &cut).await,
    };
    if reason != CloseReason::Finished {
        destination.abort();
    }
    reason
}

async fn reach_destination(shared: &Shared, request: &Request, way: &Way) -> Result<Destination, Refusal> {
    match way {
        Way::Tunnel(address) => reach::through_tunnel(shared.dialer.clone(), *address, &shared.limits).await,
        Way::Lookup(lookup) => lookup::dial(shared.dialer.clone(), lookup, &shared.limits).await,
        Way::Direct(rule) => reach::directly(&request.target, rule, &shared.limits).await,
        Way::Upstream(proxy) => {
            let connect = matches!(request.kind, Kind::Connect).then_some(&request.target);
            reach::through_upstream(proxy, connect, shared.local_addr, &shared.limits).await
        }
    }
}

/// What is said first on a connection that is reached.
enum Saying<'r> {
    /// This to the client.
    Established(Vec<u8>),
    /// This request to the destination.
    Forward(&'r ForwardedRequest),
}

async fn carry<D>(
    client: &mut BufReader<TcpStream>,
    destination: &mut BufReader<D>,
    saying: &Saying<'_>,
    way: &Way,
    tracked: &Tracked,
    cut: &CancellationToken,
) -> CloseReason
where
    D: Side,
{
    let carried = async {
        match saying {
            Saying::Established(words) => {
                // Said before the client can act on it: who hears of the client's success finds it in the table.
                tracked.establish();
                if client.write_all(words).await.is_err() {
                    return CloseReason::ClientGone;
                }
                splice(
                    client,
                    destination,
                    tracked.counters(),
                    Body::Unbounded,
                    Until::BothEnd,
                )
                .await
            }
            Saying::Forward(forward) => carry_forward(client, destination, forward, way, tracked).await,
        }
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => CloseReason::Cut,
        reason = carried => reason,
    }
}

async fn carry_forward<D>(
    client: &mut BufReader<TcpStream>,
    destination: &mut BufReader<D>,
    forward: &ForwardedRequest,
    way: &Way,
    tracked: &Tracked,
) -> CloseReason
where
    D: Side,
{
    let head = match way {
        Way::Upstream(proxy) => forward.absolute_form(proxy.authorization()),
        Way::Tunnel(_) | Way::Lookup(_) | Way::Direct(_) => forward.origin_form(),
    };
    let sent = async {
        destination.write_all(&head).await?;
        destination.flush().await
    };
    if sent.await.is_err() {
        return CloseReason::Refused(Refusal::DialFailed);
    }
    tracked.counters().up.add(head.len());
    let (body, until) = if forward.upgrade {
        match switched(client, destination, tracked).await {
            Ok(true) => (Body::Unbounded, Until::BothEnd),
            Ok(false) => (Body::Length(0), Until::AnswerEnds),
            Err(reason) => return reason,
        }
    } else {
        tracked.establish();
        (forward.body.clone(), Until::AnswerEnds)
    };
    let reason = splice(client, destination, tracked.counters(), body, until).await;
    if reason == CloseReason::Finished {
        // The client's direction may still be open here. A destination that has closed already answers with an error.
        let _ = destination.shutdown().await;
    }
    reason
}

/// Passes on the answer to a request for an upgrade, unchanged, and says whether it is `101 Switching Protocols`.
///
/// This has to be known: after any other answer the client may send its next request here, for whatever host, and that
/// one must not be forwarded.
async fn switched<D>(
    client: &mut BufReader<TcpStream>,
    destination: &mut BufReader<D>,
    tracked: &Tracked,
) -> Result<bool, CloseReason>
where
    D: Side,
{
    const BAD_ANSWER: CloseReason = CloseReason::Refused(Refusal::BadAnswer("the destination"));
    loop {
        let answer = tokio::select! {
            answer = read_head(destination) => answer,
            () = gone(client.get_ref(), true) => return Err(CloseReason::ClientGone),
        };
        let head = answer.map_err(|error| match error {
            HeadError::Closed | HeadError::Io(_) => CloseReason::Refused(Refusal::DialFailed),
            HeadError::TooLarge | HeadError::Invalid(_) => BAD_ANSWER,
        })?;
        let status = status_of(&head).ok_or(BAD_ANSWER)?;
        if status == 101 {
            tracked.establish();
        }
        client
            .write_all(&head)
            .await
            .map_err(|_| CloseReason::ClientGone)?;
        tracked.counters().down.add(head.len());
        match status {
            101 => return Ok(true),
            100..=199 => {}
            _ => return Ok(false),
        }
    }
}

/// Resolves when the client has left: it reset the connection or, where `end_is_gone`, closed its direction, which
/// makes no sense before a `CONNECT` or an upgrade is answered. A client that has sent something more is taken to be there.
async fn gone(client: &TcpStream, end_is_gone: bool) {
    match client.peek(&mut [0]).await {
        Ok(0) if end_is_gone => {}
        Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// Answers with a refusal and closes so that the answer arrives. A forward has no words
/// for it: there the close is a reset.
pub(super) async fn refuse(mut client: BufReader<TcpStream>, front: Front, refusal: Refusal) {
    let answer = front.answer(refusal);
    if answer.is_empty() && front == Front::Forward {
        return reach::reset_on_close(client.get_ref());
    }
    let farewell = async {
        client.write_all(&answer).await?;
        client.shutdown().await?;
        tokio::io::copy(&mut client.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    match timeout(FAREWELL, farewell).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a refusal was not delivered"),
        Err(_) => tracing::debug!("a refused client does not close"),
    }
}
