//! Keys: 32 bytes of Curve25519, written as standard base64 like WireGuard's.
//!
//! A device has two pairs: the Noise pair is its identity towards the registry, the WireGuard pair opens the
//! tunnel. They are kept apart, so that handing the tunnel to another process hands over no identity.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use zeroize::Zeroizing;

/// Length of every key, in bytes.
pub const KEY_LEN: usize = 32;

/// Text that is not a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a key: expected {KEY_LEN} bytes in base64 (44 characters)")]
pub struct InvalidKey;

fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, InvalidKey> {
    let bytes = Zeroizing::new(BASE64.decode(text.trim().as_bytes()).map_err(|_| InvalidKey)?);
    <[u8; KEY_LEN]>::try_from(bytes.as_slice())
        .map(Zeroizing::new)
        .map_err(|_| InvalidKey)
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; KEY_LEN]);

        impl $name {
            #[must_use]
            pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&BASE64.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = InvalidKey;

            fn from_str(text: &str) -> Result<Self, InvalidKey> {
                decode(text).map(|bytes| Self(*bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidKey;

            fn try_from(text: String) -> Result<Self, InvalidKey> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> Self {
                key.to_string()
            }
        }
    };
}

public_key! {
    /// Public half of an identity: a device's or the registry's static key of the Noise session.
    NoisePublicKey
}
public_key! {
    /// Public half of a WireGuard pair.
    WireGuardPublicKey
}

/// Private half of an identity. Wiped on drop, never printed.
#[derive(Clone)]
pub struct NoisePrivateKey(Zeroizing<[u8; KEY_LEN]>);

impl NoisePrivateKey {
    /// A new key from the system's randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> NoisePublicKey {
        let mut public = [0; KEY_LEN];
        // The resolver is built with Curve25519, so there is always one; an all-zero key would fail
        // every handshake rather than let anybody in.
        if let Some(mut dh) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) {
            dh.set(self.0.as_slice());
            public.copy_from_slice(dh.pubkey());
        }
        NoisePublicKey(public)
    }

    pub(crate) fn from_bytes(bytes: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self(bytes)
    }

    pub(crate) fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key as base64, for the private file that it is kept in.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0.as_slice()))
    }
}

impl fmt::Debug for NoisePrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("NoisePrivateKey([redacted])")
    }
}

impl FromStr for NoisePrivateKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_survives_its_file() {
        let private = NoisePrivateKey::generate().unwrap();
        let again: NoisePrivateKey = private.to_base64().parse().unwrap();
        assert_eq!(private.public_key(), again.public_key());
        assert_eq!(private.public_key().to_string().parse(), Ok(private.public_key()));
    }

    #[test]
    fn rfc7748_public_key() {
        // RFC 7748 §6.1, Alice.
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
            .parse::<NoisePrivateKey>()
            .unwrap();
        assert_eq!(
            private.public_key().to_string(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in ["", "abc", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTm==", "ä"] {
            assert_eq!(bad.parse::<NoisePublicKey>(), Err(InvalidKey), "{bad}");
        }
    }

    #[test]
    fn a_private_key_is_never_printed() {
        let private = NoisePrivateKey::generate().unwrap();
        assert!(!format!("{private:?}").contains(private.to_base64().as_str()));
    }
}
