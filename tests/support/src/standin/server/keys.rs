//! Provisioner keys, in memory. The real server stores hashes; this one keeps secrets for as long as its process lives.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{KeySpec, Tags};

/// Length of a key's secret.
pub(super) const SECRET_LENGTH: usize = 43;

/// Names that are the server's own, with their fixed ids, in the order of the listing with daemons.
pub(super) const RESERVED: [(&str, u128); 3] = [("built-in", 1), ("psk", PSK_ID), ("user-auth", 2)];
const PSK_ID: u128 = 3;

#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) tags: Tags,
    created_at: Timestamp,
    secret: String,
}

/// Why a name was refused.
pub(super) enum NameError {
    Empty,
    TooLong,
    Reserved,
}

pub(super) struct Keys(Mutex<Vec<Key>>);

/// The id that daemons with the PSK bear.
pub(super) fn psk_id() -> Uuid {
    Uuid::from_u128(PSK_ID)
}

/// Whether a name is the server's own.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED
        .iter()
        .any(|(reserved, _)| reserved.eq_ignore_ascii_case(name))
}

/// The rules for a new key's name.
pub(super) fn check_name(name: &str) -> Result<(), NameError> {
    match name {
        "" => Err(NameError::Empty),
        long if long.len() > 64 => Err(NameError::TooLong),
        reserved if is_reserved(reserved) => Err(NameError::Reserved),
        _ => Ok(()),
    }
}

impl Keys {
    pub(super) fn new(specs: &[KeySpec]) -> Self {
        let key = |spec: &KeySpec| Key {
            id: Uuid::new_v4(),
            name: spec.name.clone(),
            tags: spec.tags.clone(),
            created_at: Timestamp::now(),
            secret: spec.secret.clone(),
        };
        Self(Mutex::new(specs.iter().map(key).collect()))
    }

    /// In the order of creation.
    pub(super) fn all(&self) -> Vec<Key> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn by_secret(&self, secret: &str) -> Option<Key> {
        self.all().into_iter().find(|key| key.secret == secret)
    }

    /// Makes a key and returns its secret; none if the name is taken. Names differ by more than case.
    pub(super) fn create(&self, name: &str, tags: &Tags) -> Option<String> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.iter().any(|key| key.name.eq_ignore_ascii_case(name)) {
            return None;
        }
        let secret: String = rand::rng()
            .sample_iter(Alphanumeric)
            .take(SECRET_LENGTH)
            .map(char::from)
            .collect();
        keys.push(Key {
            id: Uuid::new_v4(),
            name: name.to_lowercase(),
            tags: tags.clone(),
            created_at: Timestamp::now(),
            secret: secret.clone(),
        });
        Some(secret)
    }

    /// Deletes by name and returns the key's id.
    pub(super) fn delete(&self, name: &str) -> Option<Uuid> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let position = keys.iter().position(|key| key.name.eq_ignore_ascii_case(name))?;
        Some(keys.remove(position).id)
    }
}

impl Key {
    /// The key as the server shows it; never its secret.
    pub(super) fn shown(&self, organization: Uuid) -> Value {
        json!({
            "id": self.id,
            "created_at": self.created_at.to_string(),
            "organization": organization,
            "name": self.name,
            "tags": self.tags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_but_for_case() {
        let keys = Keys::new(&[]);
        let secret = keys.create("Dev-1", &Tags::new()).unwrap();
        assert_eq!(secret.len(), SECRET_LENGTH);
        assert!(keys.create("dev-1", &Tags::new()).is_none());
        assert_eq!(keys.by_secret(&secret).unwrap().name, "dev-1");
        assert!(keys.delete("DEV-1").is_some() && keys.delete("dev-1").is_none());
        assert!(keys.by_secret(&secret).is_none());
    }
}
