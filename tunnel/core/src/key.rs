//! The three kinds of key, as 32 bytes behind types that cannot be mixed up.
//!
//! The text form of each is the one of `wg(8)`: standard base64 with padding, 44 characters. Secret kinds have no
//! `Display` and a `Debug` without content, and are wiped when dropped.

use std::fmt;
use std::str::FromStr;

use boringtun::x25519;
use data_encoding::BASE64;
use rand::RngCore;
use zeroize::Zeroizing;

/// Length of every key in bytes.
const KEY_LEN: usize = 32;

/// The text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a WireGuard key is 32 bytes in base64 (44 characters)")]
pub struct ParseKeyError;

/// The static secret of one end.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; KEY_LEN]>);

impl PrivateKey {
    /// A new key from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::rng().fill_bytes(bytes.as_mut());
        Self(bytes)
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.to_x25519()).to_bytes())
    }

    /// The text form, for a private file. Wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0.as_ref()))
    }

    /// The secret bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    pub(crate) fn to_x25519(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(*self.0)
    }
}

impl From<[u8; KEY_LEN]> for PrivateKey {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl FromStr for PrivateKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        Ok(Self(decode(text)?))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// The public half of a [`PrivateKey`]: the identity of a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Whether it is a point of low order, which no private key belongs to: every exchange with it has the same result, so
    /// whoever knows it could shake hands as its owner (RFC 7748, section 6.1).
    #[must_use]
    pub fn is_low_order(&self) -> bool {
        // A clamped scalar is a multiple of the cofactor and takes each of these points, and no other, to zero. Which scalar
        // it is does not matter.
        let any = x25519::StaticSecret::from([1; KEY_LEN]);
        !any.diffie_hellman(&self.to_x25519()).was_contributory()
    }

    pub(crate) fn to_x25519(self) -> x25519::PublicKey {
        x25519::PublicKey::from(self.0)
    }
}

impl From<[u8; KEY_LEN]> for PublicKey {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        Ok(Self(*decode(text)?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A symmetric key that both ends mix into the handshake. `WireGuard`'s preshared key, never Coder's PSK.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; KEY_LEN]>);

impl PresharedKey {
    /// A new key from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(PrivateKey::generate().0)
    }

    /// The text form, for a private file. Wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0.as_ref()))
    }

    /// The secret bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl From<[u8; KEY_LEN]> for PresharedKey {
    fn from(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl FromStr for PresharedKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        Ok(Self(decode(text)?))
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, ParseKeyError> {
    let bytes = Zeroizing::new(BASE64.decode(text.as_bytes()).map_err(|_| ParseKeyError)?);
    let array = <[u8; KEY_LEN]>::try_from(bytes.as_slice()).map_err(|_| ParseKeyError)?;
    Ok(Zeroizing::new(array))
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn public_key_is_the_one_of_the_rfc() {
        // RFC 7748, section 6.1: Alice's pair.
        let bytes = |hex: &[u8]| <[u8; 32]>::try_from(HEXLOWER.decode(hex).unwrap()).unwrap();
        let key = PrivateKey::from(bytes(
            b"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        ));
        let public_key = bytes(b"8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(key.public_key(), PublicKey::from(public_key));
        assert_eq!(key.public_key().to_string().parse(), Ok(key.public_key()));
        let again: PrivateKey = key.to_base64().parse().unwrap();
        assert_eq!(again.as_bytes(), key.as_bytes());
    }

    #[test]
    fn points_of_low_order_are_told_from_keys() {
        // Each encoding of each of them: 0, 1, two of order 8, and p-1, p and p+1 for p = 2^255 - 19.
        for hex in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ] {
            let mut bytes = <[u8; 32]>::try_from(HEXLOWER.decode(hex.as_bytes()).unwrap()).unwrap();
            assert!(PublicKey::from(bytes).is_low_order(), "{hex}");
            // The highest bit is ignored by the exchange.
            bytes[31] |= 0x80;
            assert!(
                PublicKey::from(bytes).is_low_order(),
                "{hex} with its highest bit"
            );
        }
        let mut base = [0; 32];
        base[0] = 9;
        assert!(!PublicKey::from(base).is_low_order());
        assert!(!PrivateKey::generate().public_key().is_low_order());
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        for text in ["", "AAAA", "not base64!", &"A".repeat(44), &"A".repeat(400)] {
            assert_eq!(text.parse::<PublicKey>(), Err(ParseKeyError), "{text}");
            assert!(text.parse::<PrivateKey>().is_err());
            assert!(text.parse::<PresharedKey>().is_err());
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = PrivateKey::generate();
        let preshared_key = PresharedKey::from(*key.as_bytes());
        assert_eq!(
            format!("{key:?} {preshared_key:?}"),
            "PrivateKey(..) PresharedKey(..)"
        );
    }
}
