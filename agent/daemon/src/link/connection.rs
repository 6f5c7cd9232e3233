//! An open session: messages in, messages out.

use futures_util::{SinkExt, StreamExt};
use orfe_protocol::envelope::{self, Incoming};
use orfe_protocol::message::{FromAgent, FromRegistry};
use orfe_protocol::noise::{Channel, Initiator, NoiseError};
use tokio_tungstenite::tungstenite::{self, Message};

use super::LinkError;
use super::websocket::Socket;

/// What the registry sent.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Box<FromRegistry>),
    /// A kind of message from a newer registry.
    Unknown(String),
}

/// An open session with the registry.
pub(crate) struct Connection {
    socket: Socket,
    channel: Channel,
    seq: u64,
}

/// Why the Noise handshake gave no session.
pub(super) enum ShakeError {
    Noise(NoiseError),
    /// The registry closed instead of answering.
    Refused,
    Link(LinkError),
}

/// Does the Noise handshake over an open WebSocket.
pub(super) async fn shake_hands(
    mut socket: Socket,
    initiator: Initiator,
    first: Vec<u8>,
) -> Result<Connection, ShakeError> {
    let broken = |error| ShakeError::Link(LinkError::Broken(Box::new(error)));
    socket.send(Message::binary(first)).await.map_err(broken)?;
    let answer = match next_frame(&mut socket).await {
        Ok(frame) => frame,
        Err(LinkError::Closed {
            code: orfe_protocol::close::NOT_AUTHENTICATED,
            ..
        }) => {
            return Err(ShakeError::Refused);
        }
        Err(error) => return Err(ShakeError::Link(error)),
    };
    let channel = initiator.finish(&answer).map_err(ShakeError::Noise)?;
    Ok(Connection {
        socket,
        channel,
        seq: 0,
    })
}

impl Connection {
    pub(crate) async fn send(&mut self, message: &FromAgent) -> Result<(), LinkError> {
        self.seq += 1;
        let json = zeroize::Zeroizing::new(envelope::encode(self.seq, message).map_err(LinkError::Envelope)?);
        for frame in self.channel.seal(&json).map_err(LinkError::Tampered)? {
            self.socket.feed(Message::binary(frame)).await.map_err(broken)?;
        }
        self.socket.flush().await.map_err(broken)
    }

    /// The next message. Safe to drop in `select!`: frames that were read are kept in the channel.
    pub(crate) async fn receive(&mut self) -> Result<Received, LinkError> {
        loop {
            let frame = next_frame(&mut self.socket).await?;
            let Some(json) = self.channel.open(&frame).map_err(LinkError::Tampered)? else {
                continue;
            };
            return match envelope::decode(&json).map_err(LinkError::Envelope)? {
                Incoming::Known { message, .. } => Ok(Received::Message(Box::new(message))),
                Incoming::Unknown { kind } => Ok(Received::Unknown(kind)),
            };
        }
    }

    /// Says that no more comes and lets the socket go.
    pub(crate) async fn close(mut self) {
        // The peer may be gone already; then there is nobody to tell.
        let _ = self.socket.close(None).await;
    }
}

async fn next_frame(socket: &mut Socket) -> Result<tungstenite::Bytes, LinkError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(frame))) => return Ok(frame),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Text(_))) => return Err(LinkError::NotBinary),
            Some(Ok(Message::Close(close))) => {
                let (code, reason) = close.map_or((1005, String::new()), |close| {
                    let reason = close.reason.as_str();
                    let reason = if reason.is_empty() {
                        String::new()
                    } else {
                        format!(": {reason}")
                    };
                    (close.code.into(), reason)
                });
                return Err(LinkError::Closed { code, reason });
            }
            Some(Err(error)) => return Err(broken(error)),
            None => {
                return Err(LinkError::Closed {
                    code: 1006,
                    reason: String::new(),
                });
            }
        }
    }
}

fn broken(error: tungstenite::Error) -> LinkError {
    LinkError::Broken(Box::new(error))
}
