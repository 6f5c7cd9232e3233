//! The way to the registry: TCP, TLS, WebSocket, and the Noise session inside.
//!
//! [`connect`] does all four and gives a [`Connection`] that carries messages; it is used by `orfe join` for one claim and
//! by the daemon for its session. Every step is bounded by [`STEP_TIMEOUT`], so that a peer that takes the connection and
//! says nothing is noticed. What TLS proves depends on the join code: with a pin the certificate's public key must be
//! that one; without, the system's trust store decides. Noise proves the registry in either case.
//!
//! A registry that runs a gateway is reached in two ways, directly and through the tunnel ([`Way`]); the daemon takes the one
//! that works ([`InnerWay`]).

mod carrier;
mod connection;
mod task;
mod tls;
mod way;
mod websocket;

use std::time::Duration;

use orfe_protocol::SUBPROTOCOL;
use orfe_protocol::join_code::SpkiPin;
use orfe_protocol::key::{NoisePrivateKey, NoisePublicKey};
use orfe_protocol::noise::{FRAME_MAX, Initiator, NoiseError};
use orfe_tunnel::dial::DialError;
use orfe_tunnel::proxy::UpstreamProxy;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use url::Url;

pub(crate) use self::carrier::open_carrier;
pub(crate) use self::connection::{Connection, Received};
pub(crate) use self::task::{Link, LinkEvent};
pub(crate) use self::way::{InnerWay, Way};

/// Longest time for each of: connecting, TLS, the WebSocket upgrade, and the Noise answer.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the registry is and how it is known.
#[derive(Debug, Clone)]
pub(crate) struct RegistryAddress {
    pub url: Url,
    pub key: NoisePublicKey,
    pub spki_pin: Option<SpkiPin>,
    /// What the machine's owner has before it; none: it is dialled directly.
    pub proxy: Option<UpstreamProxy>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the registry's address {url} cannot be used")]
    Address {
        url: String,
        #[source]
        source: url::ParseError,
    },
    #[error("cannot reach the registry at {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot reach the registry through the tunnel")]
    Inside(#[source] DialError),
    #[error("{}; and {}", direct.text(), inside.text())]
    NeitherWay { direct: Box<Self>, inside: Box<Self> },
    #[error("no TLS with the registry at {address}")]
    Tls {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the certificate of what answers at {address} is not the one that the join code pins")]
    Pin { address: String },
    #[error("TLS cannot be set up on this machine")]
    TlsSetup(#[source] rustls::Error),
    #[error("what answers at {url} is not an Orfe registry")]
    Upgrade {
        url: String,
        #[source]
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },
    #[error("the registry at {url} does not hold the key that the join code names")]
    Key {
        url: String,
        /// None when it closed without a word, as one does that cannot read what was made for another key.
        #[source]
        source: Option<NoiseError>,
    },
    #[error("the registry at {address} did not answer within {} s while {step}", STEP_TIMEOUT.as_secs())]
    Silent { address: String, step: &'static str },
    #[error("the session broke")]
    Broken(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("the session was tampered with")]
    Tampered(#[source] NoiseError),
    #[error("the registry said something that this program cannot read")]
    Envelope(#[source] orfe_protocol::envelope::EnvelopeError),
    #[error("the registry closed the session ({code}{reason})")]
    Closed { code: u16, reason: String },
    #[error("the registry sent a message that is no Noise frame")]
    NotBinary,
}

impl LinkError {
    /// The error with its causes, on one line.
    pub(crate) fn text(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes
            .map(ToString::to_string)
            .fold(self.to_string(), |text, cause| {
                // Some libraries repeat their source in their own words.
                if text.ends_with(&cause) {
                    text
                } else {
                    format!("{text}: {cause}")
                }
            })
    }

    /// Whether nothing listens where the registry is reached directly, be there another way or not.
    pub(crate) fn is_refused(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.kind() == std::io::ErrorKind::ConnectionRefused,
            Self::NeitherWay { direct, .. } => direct.is_refused(),
            _ => false,
        }
    }

    /// Whether something answered that is not the registry, as a captive portal does.
    pub(crate) fn is_foreign(&self) -> bool {
        match self {
            Self::Pin { .. } => true,
            Self::Tls { source, .. } => source
                .get_ref()
                .is_some_and(|cause| cause.downcast_ref::<rustls::Error>().is_some()),
            Self::Upgrade { source, .. } => match source.as_ref() {
                tokio_tungstenite::tungstenite::Error::Http(answer) => {
                    answer.status().is_success() || answer.status().is_redirection()
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// What to do, where there is something to do.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Inside(_) => Some("see `orfe status` for what stands in the tunnel's way"),
            Self::NeitherWay { direct, inside } => inside.hint().or(direct.hint()),
            Self::Connect { .. } | Self::Silent { .. } => {
                Some("check that this machine can reach that address, and that the registry runs")
            }
            Self::Tls { .. } | Self::Pin { .. } => Some(
                "something in between may answer in the registry's place; a registry with a new certificate \
                 needs a new join code",
            ),
            Self::Key { .. } => Some(
                "the registry was set up anew or something answers in its place; ask its admin for a new join code",
            ),
            Self::Upgrade { .. } => Some("check the address in the join code with the registry's admin"),
            _ => None,
        }
    }
}

/// Opens a session with the registry on this way.
pub(crate) async fn connect(
    registry: &RegistryAddress,
    way: &Way,
    key: &NoisePrivateKey,
) -> Result<Connection, LinkError> {
    let address = address_of(&registry.url);
    let silent = |step| move |_| LinkError::Silent { address, step };
    let socket = websocket::open(
        registry,
        way,
        &endpoint(&registry.url)?,
        SUBPROTOCOL,
        websocket_config(),
    )
    .await?;

    let wrong_key = |source| LinkError::Key {
        url: registry.url.to_string(),
        source,
    };
    let (initiator, first) =
        Initiator::start(key, &registry.key).map_err(|source| wrong_key(Some(source)))?;
    let shake = connection::shake_hands(socket, initiator, first);
    match timeout(STEP_TIMEOUT, shake)
        .await
        .map_err(silent("shaking hands"))?
    {
        Ok(connection) => Ok(connection),
        Err(connection::ShakeError::Noise(source)) => Err(wrong_key(Some(source))),
        // The registry cannot answer a first frame that was made for another key; it closes.
        Err(connection::ShakeError::Refused) => Err(wrong_key(None)),
        Err(connection::ShakeError::Link(error)) => Err(error),
    }
}

fn address_of(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or(443);
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

/// Where the session's WebSocket stands, under the registry's address.
fn endpoint(registry: &Url) -> Result<Url, LinkError> {
    let base = registry
        .as_str()
        .trim_end_matches('/')
        .replacen("https://", "wss://", 1);
    format!("{base}{}", orfe_protocol::CONNECT_PATH)
        .parse()
        .map_err(|source| LinkError::Address {
            url: registry.to_string(),
            source,
        })
}

fn websocket_config() -> WebSocketConfig {
    // Small buffers: a session says a few hundred bytes every few seconds.
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * FRAME_MAX)
        .max_message_size(Some(FRAME_MAX))
        .max_frame_size(Some(FRAME_MAX))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_refusal_is_one_whether_there_is_another_way_or_not() {
        let direct = |kind: io::ErrorKind| LinkError::Connect {
            address: "orfe.example.com:443".to_owned(),
            source: kind.into(),
        };
        let neither = |direct| LinkError::NeitherWay {
            direct: Box::new(direct),
            inside: Box::new(LinkError::NotBinary),
        };
        assert!(direct(io::ErrorKind::ConnectionRefused).is_refused());
        assert!(neither(direct(io::ErrorKind::ConnectionRefused)).is_refused());
        assert!(!direct(io::ErrorKind::NetworkUnreachable).is_refused());
        assert!(!neither(direct(io::ErrorKind::TimedOut)).is_refused());
    }

    #[test]
    fn the_endpoint_stands_under_the_registrys_address() {
        for (registry, url) in [
            (
                "https://orfe.example.com",
                "wss://orfe.example.com/agent/v1/connect",
            ),
            ("https://127.0.0.1:7443/", "wss://127.0.0.1:7443/agent/v1/connect"),
            (
                "https://example.com/orfe",
                "wss://example.com/orfe/agent/v1/connect",
            ),
        ] {
            assert_eq!(endpoint(&registry.parse().unwrap()).unwrap().as_str(), url);
        }
    }
}
