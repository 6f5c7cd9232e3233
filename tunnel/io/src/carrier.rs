//! Other ways of `WireGuard`'s datagrams to the gateway than its UDP port.
//!
//! A further UDP port of the gateway is a [`UdpRelay`] beside it. Where no UDP passes, there are carriers of another kind:
//!
//! The data plane knows UDP endpoints only. A carrier is a [`Bridge`]: a loopback UDP socket that the tunnel takes for its
//! gateway, and behind it a connection that takes each datagram as one message. The datagrams stay as they are, so
//! whoever carries them reads and forges nothing.
//!
//! ```text
//!   tunnel ══UDP on loopback══ Bridge ──one message for each datagram──► registry ══UDP══► gateway
//! ```
//!
//! [`carry`] is the same at both ends. What kind of connection it is, and how it is made, is the caller's; [`reach`] gives
//! the stream below it, through the machine owner's HTTP proxy where there is one.

mod bridge;
mod relay;
mod source;
mod way;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

pub use self::bridge::{Bridge, BridgeState};
pub use self::relay::UdpRelay;
pub use self::source::towards_gateway;
pub use self::way::reach;

/// Largest datagram that is carried, in bytes: an inner packet of 1420 and what `WireGuard` adds fit with room to spare.
pub const DATAGRAM_MAX: usize = 2048;
/// Shortest message of `WireGuard`: a keepalive.
const DATAGRAM_MIN: usize = 32;
/// Datagrams that are written in one go. What else waits then is in the kernel's socket buffer, whose bound is the bound of
/// this queue: what finds no room there is lost, as on any network.
const BURST: usize = 64;

/// Datagrams carried so far.
#[derive(Debug, Default)]
pub struct Carried {
    out: AtomicU64,
    back: AtomicU64,
    answers: AtomicU64,
    /// Told of the first answer.
    answered: Notify,
}

impl Carried {
    /// From the UDP socket into messages.
    pub fn from_udp(&self) -> u64 {
        self.out.load(Ordering::Relaxed)
    }

    /// Those of them that are answers, see [`is_answer`].
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Waits for the first answer. For one caller.
    pub async fn answered(&self) {
        while self.answers() == 0 {
            self.answered.notified().await;
        }
    }

    /// From messages to the UDP socket.
    pub fn to_udp(&self) -> u64 {
        self.back.load(Ordering::Relaxed)
    }

    fn note_out(&self, datagrams: u64, answers: u64) {
        self.out.fetch_add(datagrams, Ordering::Relaxed);
        if answers > 0 && self.answers.fetch_add(answers, Ordering::Relaxed) == 0 {
            self.answered.notify_one();
        }
    }
}

/// Whether this can be a message of `WireGuard`: one of its four types, of a length that it has.
#[must_use]
pub fn is_datagram(message: &[u8]) -> bool {
    matches!(message, [1..=4, 0, 0, 0, ..]) && (DATAGRAM_MIN..=DATAGRAM_MAX).contains(&message.len())
}

/// Whether what a gateway sent says that it knows the other end: the response to a handshake, and data. A cookie reply does not:
/// whoever knows the gateway's public key is given one. The response is made only for an initiation that a peer's key made.
#[must_use]
pub fn is_answer(message: &[u8]) -> bool {
    is_datagram(message) && matches!(message, [2 | 4, ..])
}

/// Carries datagrams between a connected UDP socket and a connection of messages, both ways, until the connection ends.
/// Messages that cannot be `WireGuard`'s are dropped.
pub async fn carry<M, E>(socket: &UdpSocket, messages: M, carried: &Carried) -> Result<(), E>
where
    M: Stream<Item = Result<Bytes, E>> + Sink<Bytes, Error = E>,
{
    let (sink, stream) = messages.split();
    // Each way by itself: a connection whose other end does not read must not keep us from reading.
    let (out, back) = (
        pin!(from_udp(socket, sink, carried)),
        pin!(to_udp(socket, stream, carried)),
    );
    match select(out, back).await {
        Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
    }
}

async fn from_udp<E>(
    socket: &UdpSocket,
    mut sink: impl Sink<Bytes, Error = E> + Unpin,
    carried: &Carried,
) -> Result<(), E> {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Some(len) = tolerant(socket.recv(&mut buffer)).await else {
            continue;
        };
        sink.feed(Bytes::copy_from_slice(&buffer[..len])).await?;
        let (mut burst, mut answers) = (1, u64::from(is_answer(&buffer[..len])));
        while burst < BURST
            && let Ok(len) = socket.try_recv(&mut buffer)
        {
            sink.feed(Bytes::copy_from_slice(&buffer[..len])).await?;
            burst += 1;
            answers += u64::from(is_answer(&buffer[..len]));
        }
        carried.note_out(burst as u64, answers);
        sink.flush().await?;
    }
}

async fn to_udp<E>(
    socket: &UdpSocket,
    mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
    carried: &Carried,
) -> Result<(), E> {
    while let Some(message) = stream.next().await {
        let message = message?;
        if is_datagram(&message) && tolerant(socket.send(&message)).await.is_some() {
            carried.back.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// The outcome of a UDP operation; an error is about one datagram, or about one that was sent before.
async fn tolerant<T>(operation: impl Future<Output = io::Result<T>>) -> Option<T> {
    match operation.await {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::trace!(%error, "a carrier's UDP socket");
            // An error that stays must not take the whole core.
            tokio::task::yield_now().await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
