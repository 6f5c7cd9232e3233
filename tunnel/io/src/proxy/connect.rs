//! Connecting from this machine's own network, to whichever address of a destination answers first.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long one address of a name is tried alone before the next is tried beside it (RFC 8305 §5 recommends this).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Keepalive of the connections: a peer that vanished is noticed after about two minutes instead of never.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Tries the addresses in turn, the next one as soon as one fails or is slow; the first that answers wins and the
/// other attempts are dropped. How long all of it may take is the caller's to say.
///
/// # Errors
///
/// That of the address that failed last; [`io::ErrorKind::NotFound`] where there is no address.
pub(crate) async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.into_iter();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let started = waiting
            .next()
            .map(|address| attempts.spawn(TcpStream::connect(address)));
        if started.is_none() && attempts.is_empty() {
            return Err(failed);
        }
        let next = async {
            if waiting.len() == 0 {
                std::future::pending::<()>().await;
            }
            sleep(NEXT_ADDRESS_AFTER).await;
        };
        tokio::select! {
            Some(attempt) = attempts.join_next() => match attempt {
                Ok(Ok(stream)) => {
                    tune(&stream);
                    return Ok(stream);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "an address does not answer");
                    failed = error;
                }
                Err(error) => tracing::debug!(%error, "a connection attempt was dropped"),
            },
            () = next => {}
        }
    }
}

/// Small messages go out at once, and a vanished peer is noticed. Neither is worth failing a connection for.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "could not set the options of a socket");
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_up_no_other() {
        // Its queue is full, so that Linux drops further SYNs; other systems refuse them.
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        silent.listen(0).unwrap();
        let silent_at = silent.local_addr().unwrap().as_socket().unwrap();
        let _waiting: Vec<Socket> = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&silent_at.into());
                socket
            })
            .collect();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let connected = tokio::time::timeout(PATIENCE, connect_any(vec![silent_at, good])).await;
        let stream = connected.expect("it hangs").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }
}
