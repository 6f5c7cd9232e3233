//! Reading the head of an HTTP message, and nothing behind it.
//!
//! The reader stays buffered afterwards: bytes that came with the head (the start of a body, a TLS hello) wait in it for
//! the splice.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader};

/// The largest head that is read, in bytes, of a request and of a response. Coder's own requests stay below 2 KiB; Go's
/// and most servers' limits lie between 8 KiB and 1 MiB.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Bytes of what a head is read into. It keeps them for as long as it lives, so they are few: a
/// `CONNECT` with its credential fits, and a longer head takes more reads.
const BUFFER: usize = 512;

/// A connection whose head can be read.
pub(super) fn buffered<S: AsyncRead>(stream: S) -> BufReader<S> {
    BufReader::with_capacity(BUFFER, stream)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("the peer closed before the head was complete")]
    Closed,
    #[error("the head is larger than {MAX_HEAD} bytes")]
    TooLarge,
    #[error("{0}")]
    Invalid(&'static str),
    #[error("reading the head failed")]
    Io(#[source] io::Error),
}

/// Reads up to and including the first empty line.
///
/// A line may end in a bare LF here; the strict reading of requests refuses it afterwards. If it were not taken as an
/// end here, a client that sends bare LFs would wait for its answer until the timeout.
pub(super) async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, HeadError> {
    let mut head = Vec::new();
    let mut end = HeadEnd::default();
    loop {
        let arrived = reader.fill_buf().await.map_err(HeadError::Io)?;
        let Some(&first) = arrived.first() else {
            return Err(HeadError::Closed);
        };
        if head.is_empty() && !first.is_ascii_alphabetic() {
            // A method and `HTTP/` start with a letter. A TLS record (0x16) and a SOCKS greeting (0x05) do not,
            // and would never send an empty line.
            return Err(HeadError::Invalid("this port speaks HTTP/1.1"));
        }
        let found = end.find(arrived);
        let take = found.unwrap_or(arrived.len());
        if head.len() + take > MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        head.extend_from_slice(&arrived[..take]);
        reader.consume(take);
        if found.is_some() {
            return Ok(head);
        }
    }
}

/// Finds the empty line, however the bytes are cut into reads.
#[derive(Debug, Default)]
struct HeadEnd {
    /// Bytes in the current line other than CR. The first line of a head counts like any other: an empty one ends it.
    in_line: usize,
}

impl HeadEnd {
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.in_line == 0 => return Some(index + 1),
                b'\n' => self.in_line = 0,
                b'\r' => {}
                _ => self.in_line += 1,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;

    async fn read(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), HeadError> {
        let mut reader = BufReader::new(bytes);
        let head = read_head(&mut reader).await?;
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.map_err(HeadError::Io)?;
        Ok((head, rest))
    }

    #[tokio::test]
    async fn the_head_ends_at_the_first_empty_line_and_the_rest_stays() {
        for (head, rest) in [
            ("GET / HTTP/1.1\r\nA: b\r\n\r\n", "body\r\n\r\n"),
            ("GET / HTTP/1.1\r\n\r\n", ""),
            ("GET / HTTP/1.1\nA: b\n\n", "\n"),
            ("GET / HTTP/1.1\r\nA: b\n\r\n", "x"),
        ] {
            let sent = format!("{head}{rest}");
            let (got, left) = read(sent.as_bytes()).await.expect(head);
            assert_eq!(
                (got.as_slice(), left.as_slice()),
                (head.as_bytes(), rest.as_bytes())
            );
        }
    }

    #[tokio::test]
    async fn a_head_may_come_byte_by_byte() {
        let sent = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
        let (mut near, far) = tokio::io::duplex(1);
        let writer = async {
            near.write_all(sent).await.expect("written");
        };
        let mut reader = BufReader::new(far);
        let (head, ()) = tokio::join!(read_head(&mut reader), writer);
        assert_eq!(head.expect("head"), sent);
    }

    #[tokio::test]
    async fn what_is_no_head_is_told_apart() {
        assert!(matches!(read(b"").await, Err(HeadError::Closed)));
        assert!(matches!(
            read(b"GET / HTTP/1.1\r\nHost").await,
            Err(HeadError::Closed)
        ));
        assert!(matches!(
            read(b"\x16\x03\x01\x02\x00").await,
            Err(HeadError::Invalid(_))
        ));
        assert!(matches!(read(b"\x05\x01\x00").await, Err(HeadError::Invalid(_))));
        assert!(matches!(read(b"\r\n\r\n").await, Err(HeadError::Invalid(_))));
        let fits = [b"G".repeat(MAX_HEAD - 4), b"\r\n\r\n".to_vec()].concat();
        assert_eq!(read(&fits).await.expect("fits").0.len(), MAX_HEAD);
        assert!(matches!(
            read(&[b"G".as_slice(), &fits].concat()).await,
            Err(HeadError::TooLarge)
        ));
        assert!(matches!(
            read(&b"G".repeat(MAX_HEAD + 1)).await,
            Err(HeadError::TooLarge)
        ));
    }
}
