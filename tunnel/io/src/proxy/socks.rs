//! The SOCKS front end (RFC 1928): CONNECT and UDP ASSOCIATE behind the same credential as HTTP (RFC 1929).
//!
//! ```text
//!  greeting ──► credential ──► request ─┬─ CONNECT ───────► the same way as an HTTP `CONNECT`
//!    └ 0xff        └ 1                  ├─ UDP ASSOCIATE ─► `associate`
//!                                       └─ BIND, others ──► reply 7
//! ```
//!
//! A client that offers no user name and password (a browser offers none) gets method 0xff: there is no way in without
//! the credential. Names come as they are (what curl calls `socks5h`) and are looked up in the policy's table first.

mod associate;
mod flows;
pub(super) mod wire;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

pub(super) use self::associate::associate;
use self::wire::{Command, MESSAGE_MAX, WireError};
use super::Shared;
use super::admit::{self, Admitted};
use super::head::{Kind, Request};
use super::lobby::Stay;
use super::refusal::Refusal;
use super::target::{Target, TargetError};

/// Goes through greeting, credential and request. `None`: the client left in between.
pub(super) async fn admit(
    shared: &Shared,
    client: &mut BufReader<TcpStream>,
    stay: &mut Stay,
) -> Result<Option<Admitted>, Refusal> {
    let Some(can_show_credential) = read(client, wire::greeting).await? else {
        return Ok(None);
    };
    if client
        .write_all(&wire::method(can_show_credential))
        .await
        .is_err()
    {
        return Ok(None);
    }
    if !can_show_credential {
        return Err(Refusal::Unauthenticated);
    }
    let Some(pair) = read(client, wire::credential).await? else {
        return Ok(None);
    };
    let right = pair.is_some_and(|pair| shared.entry.opens_to(&pair));
    // Before the answer, which is a wait: from here on nobody pushes the client out.
    let let_in = if right {
        stay.let_in(&shared.served)
    } else {
        Err(Refusal::Unauthenticated)
    };
    if client.write_all(&wire::credential_answer(right)).await.is_err() {
        return Ok(None);
    }
    // Who finds no room has its reply before it asks: it reads no reply before it has sent its request, whatever that is.
    let_in?;
    let Some(wire::Request { command, host, port }) = read(client, wire::request).await? else {
        return Ok(None);
    };
    match command {
        Command::Connect if port == 0 => Err(Refusal::BadTarget(TargetError::BadPort)),
        Command::Connect => {
            let target = Target { host, port };
            let way = admit::route(shared, &target)?;
            let request = Request {
                target,
                authorization: None,
                kind: Kind::Connect,
            };
            Ok(Some(Admitted::Connection(Box::new(request), way)))
        }
        Command::Associate => Ok(Some(Admitted::Associate { port })),
        Command::Unknown(_) => Err(Refusal::UnknownCommand),
    }
}

/// Reads one message and leaves what follows it in the buffer.
async fn read<T>(
    client: &mut BufReader<TcpStream>,
    parse: impl Fn(&[u8]) -> Result<(T, usize), WireError>,
) -> Result<Option<T>, Refusal> {
    let mut message = Vec::with_capacity(MESSAGE_MAX);
    loop {
        let arrived = match client.fill_buf().await {
            Ok([]) | Err(_) => return Ok(None),
            Ok(arrived) => arrived,
        };
        let before = message.len();
        let take = arrived.len().min(MESSAGE_MAX - before);
        message.extend_from_slice(&arrived[..take]);
        match parse(&message) {
            Ok((parsed, length)) => {
                client.consume(length.saturating_sub(before));
                return Ok(Some(parsed));
            }
            Err(WireError::Incomplete) if message.len() < MESSAGE_MAX => client.consume(take),
            Err(WireError::Target(error)) => return Err(Refusal::BadTarget(error)),
            Err(WireError::AddressKind) => return Err(Refusal::BadTarget(TargetError::BadHost)),
            Err(WireError::Incomplete | WireError::Version) => {
                return Err(Refusal::BadRequest("a message is not SOCKS version 5"));
            }
        }
    }
}
