//! The envelope around every message: `{"v":1,"t":"heartbeat","seq":7,"b":{…}}`.
//!
//! Decoding has three outcomes, because an old program must live beside a newer one: a known message, a
//! message of a kind that this program does not know (to be counted and ignored), and something that is
//! no envelope at all (the session ends).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the envelope itself.
pub const VERSION: u8 = 1;

/// A message that can travel: an enum that serde writes as `{"t": …, "b": …}`.
pub trait Message: Serialize + DeserializeOwned {
    /// The kinds that this program knows, as they stand in `t`.
    const KINDS: &'static [&'static str];
}

/// Bytes that are no envelope of this version.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("not an envelope")]
    Json(#[source] serde_json::Error),
    #[error("envelope version {0}; this program speaks version {VERSION}")]
    Version(u64),
    #[error("a `{kind}` message that this program cannot read")]
    Body {
        kind: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the message could not be written")]
    Write(#[source] serde_json::Error),
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<M> {
    Known {
        /// The sender's count of its messages in this session, from 1.
        seq: u64,
        message: M,
    },
    /// A kind from a newer program.
    Unknown { kind: String },
}

#[derive(Serialize)]
struct Outgoing<'a, M> {
    v: u8,
    seq: u64,
    #[serde(flatten)]
    message: &'a M,
}

#[derive(Deserialize)]
struct Head {
    v: u64,
    t: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    b: serde_json::Value,
}

/// The JSON of a message.
pub fn encode<M: Message>(seq: u64, message: &M) -> Result<Vec<u8>, EnvelopeError> {
    serde_json::to_vec(&Outgoing {
        v: VERSION,
        seq,
        message,
    })
    .map_err(EnvelopeError::Write)
}

/// Reads a message.
pub fn decode<M: Message>(json: &[u8]) -> Result<Incoming<M>, EnvelopeError> {
    let head: Head = serde_json::from_slice(json).map_err(EnvelopeError::Json)?;
    if head.v != u64::from(VERSION) {
        return Err(EnvelopeError::Version(head.v));
    }
    if !M::KINDS.contains(&head.t.as_str()) {
        return Ok(Incoming::Unknown {
            kind: head.t.chars().take(64).collect(),
        });
    }
    let tagged = serde_json::json!({ "t": head.t, "b": head.b });
    let message = M::deserialize(tagged).map_err(|source| EnvelopeError::Body { kind: head.t, source })?;
    Ok(Incoming::Known {
        seq: head.seq,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FromAgent, FromRegistry, Goodbye, GoodbyeReason};

    #[test]
    fn a_message_survives_the_wire() {
        let message = FromAgent::Goodbye(Goodbye {
            reason: GoodbyeReason::Shutdown,
        });
        let json = encode(3, &message).unwrap();
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            r#"{"v":1,"seq":3,"t":"goodbye","b":{"reason":"shutdown"}}"#
        );
        assert_eq!(decode(&json).unwrap(), Incoming::Known { seq: 3, message });
    }

    #[test]
    fn newer_things_are_ignored_and_broken_ones_refused() {
        let unknown = decode::<FromRegistry>(br#"{"v":1,"t":"teleport","b":{"x":1}}"#).unwrap();
        assert_eq!(
            unknown,
            Incoming::Unknown {
                kind: "teleport".into()
            }
        );

        let more = br#"{"v":1,"t":"goodbye","b":{"reason":"shutdown","mood":"good"},"later":true}"#;
        assert!(matches!(decode::<FromAgent>(more), Ok(Incoming::Known { .. })));

        let reason = br#"{"v":1,"t":"goodbye","b":{"reason":"holiday"}}"#;
        let Ok(Incoming::Known { message, .. }) = decode::<FromAgent>(reason) else {
            panic!("not known")
        };
        assert_eq!(
            message,
            FromAgent::Goodbye(Goodbye {
                reason: GoodbyeReason::Unknown
            })
        );

        assert!(matches!(
            decode::<FromAgent>(br#"{"v":2,"t":"goodbye"}"#),
            Err(EnvelopeError::Version(2))
        ));
        assert!(matches!(decode::<FromAgent>(b"{}"), Err(EnvelopeError::Json(_))));
        assert!(matches!(
            decode::<FromAgent>(b"\xff"),
            Err(EnvelopeError::Json(_))
        ));
        assert!(matches!(
            decode::<FromAgent>(br#"{"v":1,"t":"goodbye","b":[]}"#),
            Err(EnvelopeError::Body { .. })
        ));
    }
}
