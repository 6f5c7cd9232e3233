//! As much of HTTP/1.1 as the child's requests need, by hand: a WebSocket handshake through a proxy needs the exact
//! request line, and the real program's error texts need the first bytes of any answer.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A connection, encrypted or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(super) type Stream = Box<dyn Io>;

/// Longest answer head that is read; longer ones are an error.
const HEAD_LIMIT: usize = 64 * 1024;
/// Longest JSON answer that is read.
pub(super) const JSON_BODY: usize = 64 * 1024;

/// An answer up to its empty line, and what was read of the body with it.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) reason: String,
    headers: Vec<(String, String)>,
    pub(super) rest: Vec<u8>,
}

impl Head {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Writes a request head and reads the answer's. The connection's end before that is `UnexpectedEof`.
pub(super) async fn exchange(stream: &mut Stream, request: &str) -> io::Result<Head> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = parse(&bytes)? {
            return Ok(head);
        }
        if bytes.len() > HEAD_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "response head too long",
            ));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let status = response
        .parse(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let httparse::Status::Complete(length) = status else {
        return Ok(None);
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Some(Head {
        status: response.code.unwrap_or_default(),
        reason: response.reason.unwrap_or_default().to_owned(),
        headers: response
            .headers
            .iter()
            .map(|one| (one.name.to_owned(), text(one.value)))
            .collect(),
        rest: bytes[length..].to_vec(),
    }))
}

/// Reads the body up to its Content-Length, the connection's end, or `limit` bytes, whichever is first.
pub(super) async fn body(stream: &mut Stream, head: Head, limit: usize) -> io::Result<Vec<u8>> {
    let announced = head.header("Content-Length").and_then(|text| text.parse().ok());
    let wanted = announced.unwrap_or(limit).min(limit);
    let mut bytes = head.rest;
    while bytes.len() < wanted {
        if stream.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    bytes.truncate(wanted);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &'static [u8]) -> io::Result<(Head, Stream)> {
        let (near, mut far) = tokio::io::duplex(4096);
        far.write_all(answer).await?;
        let mut stream: Stream = Box::new(near);
        let mut request = [0; 16];
        let (head, ()) = tokio::join!(
            async {
                let head = exchange(&mut stream, "GET / HTTP/1.1\r\n\r\n").await;
                head.map(|head| (head, stream))
            },
            async {
                let _ = far.read(&mut request).await;
                drop(far);
            }
        );
        head
    }

    #[tokio::test]
    async fn reads_head_and_body() {
        let (head, mut stream) =
            answered(b"HTTP/1.1 501 Unsupported method ('CONNECT')\r\nContent-Length: 3\r\n\r\nabcdef")
                .await
                .unwrap();
        assert_eq!(
            (head.status, head.reason.as_str()),
            (501, "Unsupported method ('CONNECT')")
        );
        assert_eq!(head.header("content-length"), Some("3"));
        assert_eq!(body(&mut stream, head, 100).await.unwrap(), b"abc");
    }

    #[tokio::test]
    async fn an_early_end_is_told_from_nonsense() {
        let end = answered(b"HTTP/1.1 200 O").await.err().unwrap();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        let nonsense = answered(b"SSH-2.0-x\r\n\r\n").await.err().unwrap();
        assert_eq!(nonsense.kind(), io::ErrorKind::InvalidData);
    }
}
