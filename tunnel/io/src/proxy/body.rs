//! How far the body of one request reaches, so that nothing behind it is forwarded.
//!
//! HTTP clients reuse a connection to a proxy for whatever host comes next. If the proxy went on copying after the first
//! request, the next one, its proxy credential included, would arrive at the first one's destination.

/// What is left of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// Everything until the end: the inside of a `CONNECT` or of an upgraded connection.
    Unbounded,
    /// So many more bytes.
    Length(u64),
    /// The chunked coding (RFC 9112 §7.1).
    Chunked(Chunked),
}

/// What comes next in the chunked coding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunked {
    /// Digits of a chunk size; the count of digits keeps the size within 64 bits.
    Size(u64, u8),
    /// The rest of the size's line, an extension perhaps.
    Extension(u64),
    /// The LF of the size's line.
    SizeLf(u64),
    /// So much data of a chunk.
    Data(u64),
    /// The CR behind the data.
    DataCr,
    /// The LF behind the data.
    DataLf,
    /// A trailer line, or the CR of the empty line that ends the body.
    TrailerStart,
    /// The rest of a trailer line.
    Trailer,
    /// The LF of a trailer line.
    TrailerLf,
    /// The LF of the empty line.
    LastLf,
    /// Nothing; the last byte has passed.
    Done,
}

/// The chunked coding is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl Body {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunked::START)
    }

    /// Advances over `bytes` and says how many of them belong to the body.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Unbounded => Ok(bytes.len()),
            Self::Length(left) => {
                let take = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= take as u64;
                Ok(take)
            }
            Self::Chunked(state) => state.advance(bytes),
        }
    }
}

impl Chunked {
    const START: Self = Self::Size(0, 0);

    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut index = 0;
        while index < bytes.len() && *self != Self::Done {
            if let Self::Data(left) = self {
                let rest = bytes.len() - index;
                let take = usize::try_from(*left).map_or(rest, |left| left.min(rest));
                *left -= take as u64;
                index += take;
                if *left == 0 {
                    *self = Self::DataCr;
                }
            } else {
                *self = self.after(bytes[index])?;
                index += 1;
            }
        }
        Ok(index)
    }

    /// The state after one byte, outside of a chunk's data.
    fn after(&self, byte: u8) -> Result<Self, Malformed> {
        let hex = char::from(byte).to_digit(16).map(u64::from);
        match (self, byte) {
            (&Self::Size(size, digits @ ..16), _) if let Some(digit) = hex => {
                Ok(Self::Size((size << 4) | digit, digits + 1))
            }
            (&Self::Size(size, 1..) | &Self::Extension(size), b'\r') => Ok(Self::SizeLf(size)),
            (&Self::Size(size, 1..), b';' | b' ' | b'\t') => Ok(Self::Extension(size)),
            (&Self::Extension(size), 1..) if byte != b'\n' => Ok(Self::Extension(size)),
            (Self::SizeLf(0) | Self::TrailerLf, b'\n') => Ok(Self::TrailerStart),
            (&Self::SizeLf(size), b'\n') => Ok(Self::Data(size)),
            (Self::DataCr, b'\r') => Ok(Self::DataLf),
            (Self::DataLf, b'\n') => Ok(Self::START),
            (Self::TrailerStart, b'\r') => Ok(Self::LastLf),
            (Self::Trailer, b'\r') => Ok(Self::TrailerLf),
            (Self::TrailerStart | Self::Trailer, 1..) if byte != b'\n' => Ok(Self::Trailer),
            (Self::LastLf, b'\n') => Ok(Self::Done),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Body {
        fn is_complete(&self) -> bool {
            matches!(self, Self::Length(0) | Self::Chunked(Chunked::Done))
        }
    }

    #[test]
    fn a_length_counts_down_and_nothing_more_is_taken() {
        let mut body = Body::Length(5);
        assert_eq!(body.advance(b"abc"), Ok(3));
        assert!(!body.is_complete());
        assert_eq!(body.advance(b"defGET"), Ok(2));
        assert!(body.is_complete());
        assert_eq!(body.advance(b"GET"), Ok(0));
        assert!(Body::Length(0).is_complete() && !Body::Unbounded.is_complete());
        assert_eq!(Body::Unbounded.advance(b"abc"), Ok(3));
    }

    #[test]
    fn chunks_are_followed_to_their_end() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;name=\"value\"\r\nhello\r\n1\r\n\n\r\n000\r\n\r\n",
            "A \r\n0123456789\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n",
        ] {
            let with_rest = format!("{body}GET http://other/ HTTP/1.1\r\n\r\n");
            let mut whole = Body::chunked();
            assert_eq!(whole.advance(with_rest.as_bytes()), Ok(body.len()), "{body:?}");
            assert!(whole.is_complete());
            let mut piecewise = Body::chunked();
            let taken: usize = with_rest
                .bytes()
                .map(|byte| piecewise.advance(&[byte]).expect("valid"))
                .sum();
            assert_eq!(taken, body.len(), "byte by byte: {body:?}");
        }
    }

    #[test]
    fn broken_chunks_are_noticed() {
        for body in [
            "\r\n",
            "x\r\n",
            "5\nhello",
            "5\r\nhelloX",
            "5\r\nhello\rX",
            "-1\r\n",
            "0x5\r\nhello",
            "+5\r\nhello",
            "11111111111111111\r\n",
            "0\r\nTrailer: x\n\r\n",
            "0\r\n\n",
            "5;a\nhello",
            "5\r\rhello",
        ] {
            assert_eq!(
                Body::chunked().advance(body.as_bytes()),
                Err(Malformed),
                "{body:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_takes_more_than_there_is(bytes: Vec<u8>, cut in any::<prop::sample::Index>()) {
            let mut body = Body::chunked();
            let cut = cut.index(bytes.len() + 1);
            for part in [&bytes[..cut], &bytes[cut..]] {
                match body.advance(part) {
                    Ok(taken) => {
                        prop_assert!(taken <= part.len());
                        prop_assert!(taken == part.len() || body.is_complete());
                    }
                    Err(Malformed) => break,
                }
            }
        }
    }
}
