//! Copying between the client and the destination until both directions have ended.
//!
//! Each direction reads only after it has written, so a side that does not read stops the other one and memory stays
//! bounded (`memory`). The end of one direction is passed on as the end of that direction alone.
//!
//! Where both sides are the kernel's own sockets and nothing has to be looked at on the way, the buffer is a pipe of the kernel
//! (`kernel`): the bytes do not pass through this process. What the outside sees is the same.

mod kernel;
mod memory;

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;

use super::body::Body;
use super::connections::{CloseReason, Counter, Counters};
use crate::dial::{BoxedStream, kernel_socket};
use crate::kernel_stream::{KernelSocket, shut};

/// What one side of a connection is, below the buffer for its head.
pub(super) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The kernel's socket that its bytes come from and go to, if it is one.
    fn kernel(&self) -> Option<Kernel<'_>> {
        None
    }
}

impl Side for TcpStream {
    fn kernel(&self) -> Option<Kernel<'_>> {
        Some(Kernel::Plain(self))
    }
}

impl Side for BoxedStream {
    fn kernel(&self) -> Option<Kernel<'_>> {
        kernel_socket(self).map(Kernel::Dialled)
    }
}

/// A socket of the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kernel<'a> {
    Plain(&'a TcpStream),
    /// Dialled through the tunnel.
    Dialled(&'a KernelSocket),
}

impl Kernel<'_> {
    fn stream(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Dialled(socket) => socket.stream(),
        }
    }

    /// Sends FIN behind what was written; reading goes on.
    fn shut(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => shut(stream),
            Self::Dialled(socket) => socket.shut(),
        }
    }
}

/// When a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Both directions have ended.
    BothEnd,
    /// The answer has ended: the destination closed its side.
    AnswerEnds,
}

/// What stopped one direction before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Read,
    Write,
    /// The client sent more than its one request.
    Body,
}

/// Copies both ways. `body` bounds what the client may send.
pub(super) async fn splice<C, D>(
    client: &mut BufReader<C>,
    destination: &mut BufReader<D>,
    counters: &Counters,
    body: Body,
    until: Until,
) -> CloseReason
where
    C: Side,
    D: Side,
{
    if body == Body::Unbounded
        && let (Some(near), Some(far)) = (client.get_ref().kernel(), destination.get_ref().kernel())
    {
        let up = kernel::copy(client.buffer(), near, far, &counters.up);
        let down = kernel::copy(destination.buffer(), far, near, &counters.down);
        return both(up, down, until).await;
    }
    let (client_reader, client_writer) = tokio::io::split(client);
    let (destination_reader, destination_writer) = tokio::io::split(destination);
    let up = memory::copy(client_reader, destination_writer, body, &counters.up);
    let down = memory::copy(destination_reader, client_writer, Body::Unbounded, &counters.down);
    both(up, down, until).await
}

/// Copies between a connection in the tunnel and one outside of it until both directions have ended, for a gateway. How many bytes
/// went out and came back; `None` when an end failed before.
pub(crate) async fn between(inner: &KernelSocket, outer: &TcpStream) -> Option<(u64, u64)> {
    let (up_bytes, down_bytes) = (Counter::default(), Counter::default());
    let (inner, outer) = (Kernel::Dialled(inner), Kernel::Plain(outer));
    let up = kernel::copy(&[], inner, outer, &up_bytes);
    let down = kernel::copy(&[], outer, inner, &down_bytes);
    tokio::try_join!(up, down).ok()?;
    Some((up_bytes.bytes(), down_bytes.bytes()))
}

/// Runs both directions as far as `until` says.
async fn both(
    up: impl Future<Output = Result<(), Fault>>,
    down: impl Future<Output = Result<(), Fault>>,
    until: Until,
) -> CloseReason {
    tokio::pin!(up, down);
    let (mut up_ended, mut down_ended) = (false, false);
    while !(down_ended && (up_ended || until == Until::AnswerEnds)) {
        tokio::select! {
            result = &mut up, if !up_ended => match result {
                // A destination that takes no more may still be answering (a refused upload, say).
                Ok(()) | Err(Fault::Write) => up_ended = true,
                Err(Fault::Read) => return CloseReason::ClientGone,
                Err(Fault::Body) => return CloseReason::ProtocolViolation,
            },
            result = &mut down, if !down_ended => match result {
                Ok(()) => down_ended = true,
                Err(Fault::Read | Fault::Body) => return CloseReason::DestinationFailed,
                Err(Fault::Write) => return CloseReason::ClientGone,
            },
        }
    }
    CloseReason::Finished
}

#[cfg(test)]
mod tests {

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    impl Side for DuplexStream {}

    /// Runs a splice between two pipes; `play` has the outer ends.
    async fn with_splice<F>(
        body: Body,
        until: Until,
        play: impl FnOnce(DuplexStream, DuplexStream) -> F,
    ) -> (CloseReason, u64, u64)
    where
        F: Future<Output = ()>,
    {
        let (client, near) = duplex(64);
        let (destination, far) = duplex(64);
        let (mut near, mut far) = (BufReader::new(near), BufReader::new(far));
        let counters = Counters::default();
        let (reason, ()) = tokio::join!(
            splice(&mut near, &mut far, &counters, body, until),
            play(client, destination)
        );
        (reason, counters.up.bytes(), counters.down.bytes())
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let outcome = with_splice(
            Body::Unbounded,
            Until::BothEnd,
            async |mut client, mut destination| {
                client.write_all(b"ping").await.expect("write");
                client.shutdown().await.expect("half-close");
                let mut got = Vec::new();
                destination.read_to_end(&mut got).await.expect("read");
                assert_eq!(got, b"ping");
                destination
                    .write_all(b"answer after the end")
                    .await
                    .expect("write");
                drop(destination);
                got.clear();
                client.read_to_end(&mut got).await.expect("read");
                assert_eq!(got, b"answer after the end");
            },
        );
        assert_eq!(outcome.await, (CloseReason::Finished, 4, 20));
    }

    #[tokio::test]
    async fn an_answer_ends_a_forwarded_request_though_the_client_stays() {
        let outcome = with_splice(
            Body::Length(4),
            Until::AnswerEnds,
            async |mut client, mut destination| {
                client.write_all(b"body").await.expect("write");
                let mut got = [0; 4];
                destination.read_exact(&mut got).await.expect("read");
                destination.write_all(b"answer").await.expect("write");
                destination.shutdown().await.expect("end");
                let mut got = Vec::new();
                client.read_to_end(&mut got).await.expect("read");
                assert_eq!(got, b"answer");
            },
        );
        assert_eq!(outcome.await, (CloseReason::Finished, 4, 6));
    }

    #[tokio::test]
    async fn a_second_request_is_not_forwarded() {
        let outcome = with_splice(
            Body::Length(4),
            Until::AnswerEnds,
            async |mut client, mut destination| {
                client
                    .write_all(b"bodyGET http://other/ HTTP/1.1\r\n")
                    .await
                    .expect("write");
                let mut got = [0; 64];
                assert_eq!(destination.read(&mut got).await.expect("read"), 4);
                assert_eq!(&got[..4], b"body");
            },
        );
        assert_eq!(outcome.await, (CloseReason::ProtocolViolation, 4, 0));
    }

    #[tokio::test]
    async fn a_destination_that_takes_no_more_may_still_answer() {
        let (mut client, near) = duplex(64);
        let mut near = BufReader::new(near);
        let (mut far, mut answer) = tokio::io::duplex(64);
        // A writer that fails beside a reader that goes on.
        let mut destination = BufReader::new(tokio::io::join(&mut far, Broken));
        let counters = Counters::default();
        let play = async {
            client.write_all(b"upload").await.expect("write");
            answer.write_all(b"413").await.expect("write");
            answer.shutdown().await.expect("end");
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.expect("read");
            assert_eq!(got, b"413");
        };
        let (reason, ()) = tokio::join!(
            splice(
                &mut near,
                &mut destination,
                &counters,
                Body::Unbounded,
                Until::BothEnd
            ),
            play
        );
        assert_eq!(reason, CloseReason::Finished);
    }

    struct Broken;

    impl AsyncWrite for Broken {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
}
