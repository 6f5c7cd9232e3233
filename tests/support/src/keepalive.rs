//! What runs on the provisioner's WebSocket after the handshake.
//!
//! The real ends speak dRPC over yamux there. The stand-ins need of it only how a connection is found dead, so both
//! ends run this: every 30 s a WebSocket ping, and a connection on which the answer does not come within 10 s is given
//! up (the defaults of hashicorp/yamux; recorded: silence is noticed after 10 to 40 s, by phase). The peer's pings are
//! answered by the WebSocket library while it is read.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::scale::TimeScale;

const INTERVAL: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The peer closed it, or the connection broke.
    Closed,
    /// A ping was not answered in time.
    Silent,
}

/// Keeps a session until it ends. Cancel by dropping the future.
pub async fn run<S>(socket: &mut WebSocketStream<S>, scale: TimeScale) -> SessionEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let interval = scale.scaled(INTERVAL);
    let answer_within = scale.scaled(ANSWER_WITHIN);
    let mut next_ping = Instant::now() + interval;
    let mut answer_due: Option<Instant> = None;
    loop {
        let wake = answer_due.unwrap_or(next_ping);
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Pong(_))) => answer_due = None,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return SessionEnd::Closed,
                Some(Ok(_)) => {}
            },
            () = tokio::time::sleep_until(wake) => {
                if answer_due.is_some() {
                    return SessionEnd::Silent;
                }
                answer_due = Some(Instant::now() + answer_within);
                next_ping = Instant::now() + interval;
                // The write may block on a peer that reads nothing: then the answer is late, too.
                let ping = socket.send(Message::Ping(bytes::Bytes::new()));
                match tokio::time::timeout(answer_within, ping).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return SessionEnd::Closed,
                    Err(_) => return SessionEnd::Silent,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    async fn pair() -> (
        WebSocketStream<tokio::io::DuplexStream>,
        WebSocketStream<tokio::io::DuplexStream>,
    ) {
        let (left, right) = tokio::io::duplex(4096);
        (
            WebSocketStream::from_raw_socket(left, Role::Client, None).await,
            WebSocketStream::from_raw_socket(right, Role::Server, None).await,
        )
    }

    #[tokio::test]
    async fn a_silent_peer_is_noticed_after_forty_scaled_seconds() {
        let (mut client, _silent) = pair().await;
        let started = Instant::now();
        let end = run(&mut client, TimeScale::new(0.005).unwrap()).await;
        assert_eq!(end, SessionEnd::Silent);
        assert!(
            started.elapsed() >= Duration::from_millis(200),
            "{:?}",
            started.elapsed()
        );
    }

    #[tokio::test]
    async fn two_living_ends_stay_until_one_goes() {
        let (mut client, mut server) = pair().await;
        let scale = TimeScale::new(0.002).unwrap();
        {
            let both = futures_util::future::join(run(&mut client, scale), run(&mut server, scale));
            // 400 ms are more than six keepalive intervals of 60 ms.
            assert!(
                tokio::time::timeout(Duration::from_millis(400), both)
                    .await
                    .is_err()
            );
        }
        drop(server);
        assert_eq!(run(&mut client, scale).await, SessionEnd::Closed);
    }
}
