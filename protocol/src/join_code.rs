//! The join code: everything a device needs to enrol, in one line of text.
//!
//! `orfe1-` and, in lower-case base32 (RFC 4648 alphabet, no padding):
//!
//! ```text
//! version 1 | flags 1 | URL length 1 | URL | code id 16 | secret 32 | registry's Noise key 32 | [SPKI pin 32] | checksum 4
//! ```
//!
//! Flag bit 0 says that the pin is there; a set bit that this version does not know makes the code
//! unreadable, because it may restrict what the code is good for. The checksum is the head of the SHA-256 of all
//! before it: it catches a code that was cut or mistyped, and proves nothing. What proves something is the
//! secret (to the registry, which keeps only its hash) and the registry's key (to the device).

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, Encoding};
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use crate::id::JoinCodeId;
use crate::key::{KEY_LEN, NoisePublicKey};

const PREFIX: &str = "orfe1-";
const VERSION: u8 = 1;
const FLAG_PIN: u8 = 1;
const CHECKSUM_LEN: usize = 4;

/// Longest text that is looked at; a code with the longest URL is well below it.
const TEXT_MAX: usize = 1024;

/// Why a join code could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidJoinCode {
    #[error("a join code starts with `{PREFIX}`")]
    Prefix,
    #[error("the join code holds a character that no join code has, at position {position}")]
    Character { position: usize },
    #[error("the join code is cut short or mistyped (its checksum does not fit)")]
    Checksum,
    #[error("the join code has version {0}; this program reads version {VERSION}")]
    Version(u8),
    #[error("the join code asks for something that this program does not know (flags {0:#04x})")]
    Flags(u8),
    #[error("the join code holds no usable registry address: {0}")]
    Url(String),
}

/// SHA-256 of the public key (`SubjectPublicKeyInfo`) of the registry's TLS certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpkiPin(pub [u8; 32]);

impl SpkiPin {
    /// The pin of a DER-encoded `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn of(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }
}

/// The secret half of a join code: 256 bits, shown once.
#[derive(Clone)]
pub struct JoinSecret(Zeroizing<[u8; 32]>);

impl JoinSecret {
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// What the registry keeps. One round of SHA-256 is enough: the input has 256 bits of entropy, there
    /// is nothing to guess.
    pub fn hash(&self) -> JoinSecretHash {
        let digest = Sha256::new()
            .chain_update(b"orfe-join-secret-v1")
            .chain_update(self.0.as_slice())
            .finalize();
        JoinSecretHash(digest.into())
    }

    /// As text, for the claim message inside the Noise session.
    pub fn to_text(&self) -> crate::secret::Secret {
        crate::secret::Secret::new(BASE32_NOPAD.encode(self.0.as_slice()).to_lowercase())
    }

    /// Reads what [`JoinSecret::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(text.to_uppercase().as_bytes()).ok()?);
        <[u8; 32]>::try_from(bytes.as_slice())
            .ok()
            .map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// Hash of a [`JoinSecret`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinSecretHash(pub [u8; 32]);

/// A join code, read.
#[derive(Debug, Clone)]
pub struct JoinCode {
    /// Where the registry is: `https://host[:port]`.
    pub registry_url: Url,
    /// Which code this is; public.
    pub id: JoinCodeId,
    /// What makes the claim good; used once.
    pub secret: JoinSecret,
    /// The registry's static key of the Noise session.
    pub registry_key: NoisePublicKey,
    /// Public key of the registry's TLS certificate, when that is self-signed.
    pub spki_pin: Option<SpkiPin>,
}

impl JoinCode {
    /// The code as people copy it. It holds the secret, so it is shown once, where it was asked for.
    pub fn to_text(&self) -> Zeroizing<String> {
        let url = self.registry_url.as_str().trim_end_matches('/');
        let flags = if self.spki_pin.is_some() { FLAG_PIN } else { 0 };
        let mut bytes = Zeroizing::new(vec![VERSION, flags, url.len().min(255) as u8]);
        bytes.extend_from_slice(&url.as_bytes()[..url.len().min(255)]);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.secret.0.as_slice());
        bytes.extend_from_slice(self.registry_key.as_bytes());
        if let Some(pin) = self.spki_pin {
            bytes.extend_from_slice(&pin.0);
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        Zeroizing::new(format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase()))
    }
}

impl FromStr for JoinCode {
    type Err = InvalidJoinCode;

    /// Reads a code. Spaces, line breaks and capitals do no harm: codes are copied by people.
    fn from_str(text: &str) -> Result<Self, InvalidJoinCode> {
        let text: Zeroizing<String> = Zeroizing::new(
            text.chars()
                .filter(|c| !c.is_whitespace())
                .take(TEXT_MAX)
                .collect::<String>(),
        );
        let lower = Zeroizing::new(text.to_lowercase());
        let body = lower.strip_prefix(PREFIX).ok_or(InvalidJoinCode::Prefix)?;
        let bytes = Zeroizing::new(decode_base32(body, &BASE32_NOPAD)?);

        let (content, sum) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .ok_or(InvalidJoinCode::Checksum)?;
        let mut reader = Reader(content);
        let version = reader.byte()?;
        if checksum(content) != *sum {
            return Err(InvalidJoinCode::Checksum);
        }
        if version != VERSION {
            return Err(InvalidJoinCode::Version(version));
        }
        let flags = reader.byte()?;
        if flags & !FLAG_PIN != 0 {
            return Err(InvalidJoinCode::Flags(flags));
        }
        let url_len = reader.byte()?;
        let registry_url = parse_url(reader.take(usize::from(url_len))?)?;
        let id = JoinCodeId::from_bytes(reader.array()?);
        let secret = JoinSecret(Zeroizing::new(reader.array()?));
        let registry_key = NoisePublicKey::from_bytes(reader.array::<KEY_LEN>()?);
        let spki_pin = if flags & FLAG_PIN == 0 {
            None
        } else {
            Some(SpkiPin(reader.array()?))
        };
        if !reader.0.is_empty() {
            return Err(InvalidJoinCode::Checksum);
        }
        Ok(Self {
            registry_url,
            id,
            secret,
            registry_key,
            spki_pin,
        })
    }
}

fn decode_base32(body: &str, encoding: &Encoding) -> Result<Vec<u8>, InvalidJoinCode> {
    let upper = Zeroizing::new(body.to_uppercase());
    encoding
        .decode(upper.as_bytes())
        .map_err(|error| match error.kind {
            data_encoding::DecodeKind::Symbol => InvalidJoinCode::Character {
                position: PREFIX.len() + error.position + 1,
            },
            _ => InvalidJoinCode::Checksum,
        })
}

fn parse_url(bytes: &[u8]) -> Result<Url, InvalidJoinCode> {
    let text = std::str::from_utf8(bytes).map_err(|_| InvalidJoinCode::Url("not text".to_owned()))?;
    let url: Url = text
        .parse()
        .map_err(|error| InvalidJoinCode::Url(format!("`{text}`: {error}")))?;
    if url.scheme() != "https" || url.host().is_none() {
        return Err(InvalidJoinCode::Url(format!(
            "`{text}` is not of the form https://host"
        )));
    }
    Ok(url)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// What is left to read; running out of it is a code that was cut.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], InvalidJoinCode> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(InvalidJoinCode::Checksum)?;
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, InvalidJoinCode> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidJoinCode> {
        self.take(N)?.try_into().map_err(|_| InvalidJoinCode::Checksum)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::NoisePrivateKey;

    fn code(pin: Option<SpkiPin>) -> JoinCode {
        JoinCode {
            registry_url: "https://orfe.example.com:7443".parse().unwrap(),
            id: JoinCodeId::generate(),
            secret: JoinSecret::generate().unwrap(),
            registry_key: NoisePrivateKey::generate().unwrap().public_key(),
            spki_pin: pin,
        }
    }

    #[test]
    fn a_code_survives_being_copied() {
        for pin in [None, Some(SpkiPin([7; 32]))] {
            let code = code(pin);
            let text = code.to_text();
            let (head, tail) = text.split_at(40);
            let copied = format!("  {}\n{tail}\r\n", head.to_uppercase());
            let read: JoinCode = copied.parse().unwrap();
            assert_eq!(read.registry_url, code.registry_url);
            assert_eq!(read.id, code.id);
            assert_eq!(read.secret.hash(), code.secret.hash());
            assert_eq!(read.registry_key, code.registry_key);
            assert_eq!(read.spki_pin, pin);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = code(None).to_text();
        assert_eq!("".parse::<JoinCode>().unwrap_err(), InvalidJoinCode::Prefix);
        assert_eq!(
            "orfe2-abc".parse::<JoinCode>().unwrap_err(),
            InvalidJoinCode::Prefix
        );
        assert_eq!(
            "orfe1-".parse::<JoinCode>().unwrap_err(),
            InvalidJoinCode::Checksum
        );
        assert_eq!(
            text[..text.len() - 8].parse::<JoinCode>().unwrap_err(),
            InvalidJoinCode::Checksum
        );
        let mistyped = text.replacen(&text[60..61], if &text[60..61] == "a" { "b" } else { "a" }, 1);
        assert!(mistyped.parse::<JoinCode>().is_err());
        let odd = format!("{}1{}", &text[..10], &text[11..]);
        assert_eq!(
            odd.parse::<JoinCode>().unwrap_err(),
            InvalidJoinCode::Character { position: 11 }
        );
    }

    #[test]
    fn unknown_versions_and_flags_are_refused() {
        let reencode = |change: fn(&mut Vec<u8>)| {
            let text = code(None).to_text();
            let mut bytes = BASE32_NOPAD
                .decode(text[PREFIX.len()..].to_uppercase().as_bytes())
                .unwrap();
            bytes.truncate(bytes.len() - CHECKSUM_LEN);
            change(&mut bytes);
            let sum = checksum(&bytes);
            bytes.extend_from_slice(&sum);
            format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes))
                .parse::<JoinCode>()
                .unwrap_err()
        };
        assert_eq!(reencode(|bytes| bytes[0] = 2), InvalidJoinCode::Version(2));
        assert_eq!(reencode(|bytes| bytes[1] = 0x80), InvalidJoinCode::Flags(0x80));
        assert!(matches!(
            reencode(|bytes| bytes[3] = b'x'),
            InvalidJoinCode::Url(_)
        ));
        assert_eq!(reencode(|bytes| bytes.push(0)), InvalidJoinCode::Checksum);
    }

    #[test]
    fn the_secret_is_kept_out_of_debug() {
        let code = code(None);
        let shown = format!("{code:?}");
        assert!(!shown.contains(code.secret.to_text().expose()), "{shown}");
        assert!(shown.contains("[redacted]"));
    }

    #[test]
    fn the_secret_survives_text() {
        let secret = JoinSecret::generate().unwrap();
        assert_eq!(
            JoinSecret::from_text(secret.to_text().expose()).unwrap().hash(),
            secret.hash()
        );
        assert!(JoinSecret::from_text("abc").is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(orfe1-)?[a-z2-7]{0,400}") {
            let _ = text.parse::<JoinCode>();
        }
    }
}
