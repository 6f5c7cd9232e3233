//! From bytes to lines: splitting with a bound, redaction, and the log file.

use std::fmt;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Line, Stream};
use crate::log_file::LogFile;
use crate::redact::Redactor;

/// The longest line that is kept, in bytes. The child's records are below 4 KiB, but for errors that hold the first
/// 2 KiB of somebody's web page.
pub(crate) const MAX_LINE: usize = 64 << 10;

/// What one read takes at most; a pipe holds 64 KiB.
const CHUNK: usize = 16 << 10;

/// What stands in the log file at the end of a line that was cut.
const CUT_MARK: &str = " [cut]";

/// One end of a pipe.
pub(crate) type Source = Box<dyn AsyncRead + Send + Unpin>;

/// A line as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawLine {
    bytes: Vec<u8>,
    cut: bool,
}

/// Both streams of a child.
#[derive(Debug)]
pub(crate) struct Lines {
    stdout: Option<LineReader>,
    stderr: Option<LineReader>,
}

impl Lines {
    pub(crate) fn new(stdout: Option<Source>, stderr: Option<Source>) -> Self {
        Self {
            stdout: stdout.map(LineReader::new),
            stderr: stderr.map(LineReader::new),
        }
    }

    /// The next line of either; `None` when both have ended. Safe to use in `select!`.
    pub(crate) async fn next(&mut self) -> Option<(Stream, RawLine)> {
        loop {
            let (stream, line) = match (&mut self.stdout, &mut self.stderr) {
                (Some(stdout), Some(stderr)) => tokio::select! {
                    line = stdout.next() => (Stream::Stdout, line),
                    line = stderr.next() => (Stream::Stderr, line),
                },
                (Some(stdout), None) => (Stream::Stdout, stdout.next().await),
                (None, Some(stderr)) => (Stream::Stderr, stderr.next().await),
                (None, None) => return None,
            };
            match (stream, line) {
                (stream, Some(line)) => return Some((stream, line)),
                (Stream::Stdout, None) => self.stdout = None,
                (Stream::Stderr, None) => self.stderr = None,
            }
        }
    }
}

/// Splits one stream into lines. A line that gets too long is given out at once, and skipped to its end.
struct LineReader {
    source: Source,
    chunk: Box<[u8]>,
    /// The part of `chunk` that was read and not looked at.
    unread: std::ops::Range<usize>,
    line: Vec<u8>,
    skipping: bool,
}

impl fmt::Debug for LineReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes are left out: nothing has been redacted yet.
        f.debug_struct("LineReader")
            .field("skipping", &self.skipping)
            .finish_non_exhaustive()
    }
}

impl LineReader {
    fn new(source: Source) -> Self {
        Self {
            source,
            chunk: vec![0; CHUNK].into(),
            unread: 0..0,
            line: Vec::new(),
            skipping: false,
        }
    }

    /// The next line; `None` at the end. All state is in `self`, so nothing is lost when the future is dropped.
    async fn next(&mut self) -> Option<RawLine> {
        loop {
            if let Some(line) = self.split() {
                return Some(line);
            }
            match self.source.read(&mut self.chunk).await {
                Ok(0) => return self.last(),
                Ok(n) => self.unread = 0..n,
                Err(error) => {
                    tracing::debug!(error = %error, "a child's output cannot be read any more");
                    return self.last();
                }
            }
        }
    }

    /// Takes a line out of what was read, if there is a whole one.
    fn split(&mut self) -> Option<RawLine> {
        while !self.unread.is_empty() {
            let unread = &self.chunk[self.unread.clone()];
            let end = unread.iter().position(|byte| *byte == b'\n');
            let part = &unread[..end.unwrap_or(unread.len())];
            if self.skipping {
                self.unread.start += part.len() + usize::from(end.is_some());
                self.skipping = end.is_none();
                continue;
            }
            let room = MAX_LINE - self.line.len();
            if part.len() > room {
                self.line.extend_from_slice(&part[..room]);
                self.unread.start += room;
                self.skipping = true;
                return Some(RawLine {
                    bytes: std::mem::take(&mut self.line),
                    cut: true,
                });
            }
            self.line.extend_from_slice(part);
            self.unread.start += part.len() + usize::from(end.is_some());
            if end.is_some() {
                if self.line.last() == Some(&b'\r') {
                    self.line.pop();
                }
                return Some(RawLine {
                    bytes: std::mem::take(&mut self.line),
                    cut: false,
                });
            }
        }
        None
    }

    /// A last line without an end.
    fn last(&mut self) -> Option<RawLine> {
        let bytes = std::mem::take(&mut self.line);
        (!bytes.is_empty()).then_some(RawLine { bytes, cut: false })
    }
}

/// Where every line passes on its way out.
#[derive(Debug)]
pub(crate) struct Sink {
    redactor: Redactor,
    log: Option<LogFile>,
}

impl Sink {
    pub(crate) fn new(redactor: Redactor, log: Option<LogFile>) -> Self {
        Self { redactor, log }
    }

    /// Takes the secrets out, and keeps the line in the log file.
    pub(crate) fn take(&mut self, stream: Stream, raw: RawLine) -> Line {
        let RawLine { bytes, cut } = raw;
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if cut {
            // The cut may have gone through a character.
            text.truncate(text.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
        }
        let text = self.redactor.apply(text, cut);
        if let Some(log) = &mut self.log {
            if cut {
                log.append(&format!("{text}{CUT_MARK}"));
            } else {
                log.append(&text);
            }
        }
        Line { stream, text, cut }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn lines_with_all_kinds_of_ends() {
        assert_eq!(
            read(b"one\ntwo\r\n\n\xff\nlast", 3).await,
            [
                whole(b"one"),
                whole(b"two"),
                whole(b""),
                whole(b"\xff"),
                whole(b"last")
            ]
        );
        assert!(read(b"", 1).await.is_empty());
    }

    #[tokio::test]
    async fn line_of_exactly_the_bound_is_whole_and_one_more_is_cut() {
        let mut input = vec![b'a'; MAX_LINE];
        input.push(b'\n');
        input.extend(vec![b'b'; MAX_LINE + 1]);
        input.extend(b"\nnext\n");
        let lines = read(&input, CHUNK).await;
        assert_eq!(lines[0], whole(&vec![b'a'; MAX_LINE]));
        assert_eq!(
            lines[1],
            RawLine {
                bytes: vec![b'b'; MAX_LINE],
                cut: true
            }
        );
        assert_eq!(lines[2], whole(b"next"));
        assert_eq!(lines.len(), 3);
    }

    #[tokio::test]
    async fn endless_line_is_given_out_before_its_end() {
        let (mut writer, reader) = tokio::io::duplex(CHUNK);
        let mut reader = LineReader::new(Box::new(reader));
        let write = async { writer.write_all(&vec![b'x'; MAX_LINE + 1]).await.unwrap() };
        let ((), line) = tokio::join!(write, reader.next());
        assert!(line.unwrap().cut);
    }

    #[test]
    fn cut_through_a_character_and_a_secret() {
        let secrets = [secrecy::SecretString::from("hunter22")];
        let mut sink = Sink::new(Redactor::new(&secrets), None);
        let raw = RawLine {
            bytes: b"key hunter22, again hunt\xc3".to_vec(),
            cut: true,
        };
        let line = sink.take(Stream::Stderr, raw);
        assert_eq!(line.text, "key [redacted], again ");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn splitting_does_not_depend_on_the_chunks(
            parts in prop::collection::vec(prop::sample::select(vec!["", "a", "bc", "{\"msg\":\"x\"}", "ü"]), 0..40),
            chunk in 1_usize..20,
        ) {
            let input: String = parts.iter().flat_map(|part| [*part, "\n"]).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let lines = runtime.block_on(read(input.as_bytes(), chunk));
            let expected: Vec<RawLine> = parts.iter().map(|part| whole(part.as_bytes())).collect();
            prop_assert_eq!(lines, expected);
        }
    }

    async fn read(input: &[u8], chunk: usize) -> Vec<RawLine> {
        let (mut writer, reader) = tokio::io::duplex(chunk);
        let mut reader = LineReader::new(Box::new(reader));
        let write = async move { writer.write_all(input).await.unwrap() };
        let collect = async {
            let mut lines = Vec::new();
            while let Some(line) = reader.next().await {
                lines.push(line);
            }
            lines
        };
        tokio::join!(write, collect).1
    }

    fn whole(bytes: &[u8]) -> RawLine {
        RawLine {
            bytes: bytes.to_vec(),
            cut: false,
        }
    }
}
