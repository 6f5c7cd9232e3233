//! The join code: everything a device needs to enrol, in one line of text.
//!
//! `orfe1-` and, in lower-case base32 (RFC 4648 alphabet, no padding):
//!
//! ```text
//! version 1 | flags 1 | URL length 1 | URL | code id 16 | secret 32 | registry's Noise key 32 | [SPKI pin 32] | [way in] |
//!     checksum 4
//! way in: gateway's WireGuard key 32 | device's IPv4 4 | registry's IPv4 4 | its port 2 | endpoints 1 | (length 1 | text) each
//! ```
//!
//! Flag bit 0 says that the pin is there, bit 1 that the code is used through the tunnel. A set bit that this version does not know makes the code
//! unreadable, because it may restrict what the code is good for. The checksum is the head of the SHA-256 of all
//! before it: it catches a code that was cut or mistyped, and proves nothing. What proves something is the
//! secret (to the registry, which keeps only its hash) and the registry's key (to the device).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, Encoding};
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::{Zeroize as _, Zeroizing};

use crate::id::JoinCodeId;
use crate::key::{KEY_LEN, NoisePrivateKey, NoisePublicKey, WireGuardPublicKey};

const PREFIX: &str = "orfe1-";
const VERSION: u8 = 1;
const FLAG_PIN: u8 = 1;
const FLAG_TUNNEL: u8 = 2;
const CHECKSUM_LEN: usize = 4;

/// Longest text that is looked at; a code with the longest URL and the longest endpoints has 1902 characters.
const TEXT_MAX: usize = 2048;

/// Most endpoints in a code: it is to stay short, and the first answers almost always.
const ENDPOINTS_MAX: usize = 3;

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
    #[error("the join code holds no usable address of the gateway: {0}")]
    Endpoint(String),
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

    /// The one-time WireGuard key of a code that is used through the tunnel. It follows from the secret, so that the code
    /// stays short; the registry keeps its public half only. Who knows one key learns nothing of the secret or its hash: each
    /// is made with a text of its own. (WireGuard's and the Noise session's keys are of one kind.)
    pub fn tunnel_key(&self) -> NoisePrivateKey {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        let mut digest = Sha256::new()
            .chain_update(b"orfe-join-tunnel-key-v1")
            .chain_update(self.0.as_slice())
            .finalize();
        bytes.copy_from_slice(&digest);
        digest.as_mut_slice().zeroize();
        NoisePrivateKey::from_bytes(bytes)
    }

    /// The public half of [`JoinSecret::tunnel_key`].
    pub fn tunnel_public_key(&self) -> WireGuardPublicKey {
        WireGuardPublicKey::from_bytes(*self.tunnel_key().public_key().as_bytes())
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

/// The way in through the tunnel, for a device that reaches nothing but the gateway's UDP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayIn {
    /// The gateway's WireGuard key.
    pub gateway_key: WireGuardPublicKey,
    /// The device's inner address, good as long as the one-time key is.
    pub address: Ipv4Addr,
    /// Where the registry answers inside the tunnel.
    pub registry: SocketAddrV4,
    /// Where the gateway's UDP port is, `host:port`, best first: 1 to 3, each of 255 bytes at most. More are left out of
    /// the text.
    pub endpoints: Vec<String>,
}

impl WayIn {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.gateway_key.as_bytes());
        bytes.extend_from_slice(&self.address.octets());
        bytes.extend_from_slice(&self.registry.ip().octets());
        bytes.extend_from_slice(&self.registry.port().to_be_bytes());
        let fitting = self
            .endpoints
            .iter()
            .filter(|text| u8::try_from(text.len()).is_ok());
        let endpoints: Vec<_> = fitting.take(ENDPOINTS_MAX).collect();
        bytes.push(endpoints.len() as u8);
        for endpoint in endpoints {
            bytes.push(endpoint.len() as u8);
            bytes.extend_from_slice(endpoint.as_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, InvalidJoinCode> {
        let gateway_key = WireGuardPublicKey::from_bytes(reader.array()?);
        let address = Ipv4Addr::from(reader.array::<4>()?);
        let ip = Ipv4Addr::from(reader.array::<4>()?);
        let registry = SocketAddrV4::new(ip, u16::from_be_bytes(reader.array()?));
        let count = usize::from(reader.byte()?);
        if !(1..=ENDPOINTS_MAX).contains(&count) {
            return Err(InvalidJoinCode::Endpoint(format!("there are {count} of them")));
        }
        let endpoints = (0..count).map(|_| {
            let length = reader.byte()?;
            endpoint(reader.take(usize::from(length))?)
        });
        Ok(Self {
            gateway_key,
            address,
            registry,
            endpoints: endpoints.collect::<Result<_, _>>()?,
        })
    }
}

fn endpoint(bytes: &[u8]) -> Result<String, InvalidJoinCode> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let parts = text.rsplit_once(':');
    if parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Ok(text);
    }
    Err(InvalidJoinCode::Endpoint(format!(
        "`{text}` is not of the form host:port"
    )))
}

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
    /// The way in, when the registry is reached through the tunnel.
    pub way_in: Option<WayIn>,
}

impl JoinCode {
    /// The code as people copy it. It holds the secret, so it is shown once, where it was asked for.
    pub fn to_text(&self) -> Zeroizing<String> {
        let url = self.registry_url.as_str().trim_end_matches('/');
        let pin = if self.spki_pin.is_some() { FLAG_PIN } else { 0 };
        let tunnel = if self.way_in.is_some() { FLAG_TUNNEL } else { 0 };
        let flags = pin | tunnel;
        let mut bytes = Zeroizing::new(vec![VERSION, flags, url.len().min(255) as u8]);
        bytes.extend_from_slice(&url.as_bytes()[..url.len().min(255)]);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.secret.0.as_slice());
        bytes.extend_from_slice(self.registry_key.as_bytes());
        if let Some(pin) = self.spki_pin {
            bytes.extend_from_slice(&pin.0);
        }
        if let Some(way_in) = &self.way_in {
            way_in.write(&mut bytes);
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
        if flags & !(FLAG_PIN | FLAG_TUNNEL) != 0 {
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
        let way_in = (flags & FLAG_TUNNEL != 0)
            .then(|| WayIn::read(&mut reader))
            .transpose()?;
        if !reader.0.is_empty() {
            return Err(InvalidJoinCode::Checksum);
        }
        Ok(Self {
            registry_url,
            id,
            secret,
            registry_key,
            spki_pin,
            way_in,
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
mod tests;
