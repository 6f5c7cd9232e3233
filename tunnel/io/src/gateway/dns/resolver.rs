//! Questions to the gateway's own resolver: each from a socket of its own, so that a forged answer has to guess port and
//! number, and each bounded in time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::Question;

/// How long one attempt over UDP waits, and how many there are: what stub resolvers do, in less than their own patience.
const ATTEMPT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// How long a question over TCP may take.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest datagram that is taken from the resolver: larger than any that we asked for.
const DATAGRAM_MAX: usize = 4096;

/// Asks over UDP; when there is no good answer, the answer says so.
pub(in super::super) async fn ask(resolver: SocketAddr, question: &Question) -> Vec<u8> {
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(ATTEMPT, ask_once(resolver, question)).await {
            Ok(Ok(answer)) => return question.fit(answer),
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "the resolver could not be asked"),
            Err(_) => tracing::debug!(%resolver, "the resolver did not answer"),
        }
    }
    question.failed()
}

async fn ask_once(resolver: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    let id: u16 = rand::rng().random();
    let asked = question.to_resolver(id).ok_or(io::ErrorKind::InvalidInput)?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // What does not fit the question is somebody's guess; the right answer may still come.
        if let Some(answer) = question.accept(id, &buffer[..len]) {
            return Ok(answer);
        }
    }
}

/// Asks over TCP, for a peer that asked over TCP: the answer may have any length.
pub(super) async fn ask_stream(resolver: SocketAddr, question: &Question) -> Vec<u8> {
    let exchange = async {
        let mut stream = TcpStream::connect(resolver).await?;
        let id: u16 = rand::rng().random();
        let asked = question.to_resolver(id).ok_or(io::ErrorKind::InvalidInput)?;
        write_message(&mut stream, &asked).await?;
        let answer = read_message(&mut stream).await?;
        question
            .accept(id, &answer)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    match tokio::time::timeout(TCP_TIMEOUT, exchange).await {
        Ok(Ok(answer)) => answer,
        failed => {
            let error: Option<io::Error> = failed.ok().and_then(Result::err);
            tracing::debug!(%resolver, ?error, "the resolver gave no answer over TCP");
            question.failed()
        }
    }
}

/// Reads a message behind its length (RFC 1035, section 4.2.2).
pub(crate) async fn read_message(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message behind its length.
pub(crate) async fn write_message(
    stream: &mut (impl AsyncWriteExt + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&len.to_be_bytes(), message].concat();
    stream.write_all(&framed).await?;
    stream.flush().await
}
