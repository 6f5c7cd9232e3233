//! DNS over TCP, for one connection of a peer.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::resolver::{ask_stream, read_message, write_message};
use super::{Answer, answer};
use crate::gateway::policy::{Access, Policy};

/// How long a connection may be silent (RFC 7766, section 6.2.3, leaves it to the server).
const IDLE: Duration = Duration::from_secs(10);
/// Questions on one connection.
const QUESTIONS_MAX: usize = 64;

/// Answers questions until the peer closes, is silent, or has asked enough.
pub(in super::super) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    policy: Arc<Policy>,
    access: Access,
) {
    for _ in 0..QUESTIONS_MAX {
        let Ok(Ok(bytes)) = tokio::time::timeout(IDLE, read_message(&mut stream)).await else {
            break;
        };
        let reply = match answer(&bytes, &policy, &access) {
            Answer::Reply(reply) => reply,
            Answer::Ask(question) => match policy.dns().resolver {
                Some(resolver) => ask_stream(resolver, &question).await,
                None => question.failed(),
            },
            Answer::Ignore => break,
        };
        let written = tokio::time::timeout(IDLE, write_message(&mut stream, &reply)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
    // The peer may be gone; then there is nothing to close.
    let _ = stream.shutdown().await;
}
