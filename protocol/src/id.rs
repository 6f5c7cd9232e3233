//! Identifiers. All are UUIDs of version 7 (time-ordered) unless they say otherwise.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Text that is not a UUID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a valid id: expected a UUID such as 01990f3e-5d2c-7b1a-9c1e-0a1b2c3d4e5f")]
pub struct InvalidId {
    text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, unique and ordered by the time of its making.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 16 bytes of the id, as they stand in a join code.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The id that these bytes hold.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.trim().parse().map(Self).map_err(|_| InvalidId { text: text.to_owned() })
            }
        }
    };
}

uuid_id! {
    /// A device of the fleet.
    DeviceId
}
uuid_id! {
    /// A join code; public, unlike the code's secret.
    JoinCodeId
}
uuid_id! {
    /// One life of a gateway process. A new one tells devices to shake hands at once.
    InstanceId
}
uuid_id! {
    /// One boot of the agent's process, so that a restart can be told from a reconnect.
    BootId
}

/// Which desired state: `epoch` grows when a registry's database is replaced by an older copy of
/// itself, `revision` with every change within an epoch. Ordered first by epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Revision {
    /// Life of the registry's database.
    pub epoch: u64,
    /// Change within the epoch; 0 means that nothing was stated yet.
    pub revision: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.epoch, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_bytes() {
        let id = DeviceId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(DeviceId::from_bytes(*id.as_bytes()), id);
    }

    #[test]
    fn text_that_is_no_uuid_is_refused_by_name() {
        let error = "laptop".parse::<DeviceId>().unwrap_err();
        assert!(error.to_string().contains("`laptop`"), "{error}");
    }

    #[test]
    fn epochs_come_before_revisions() {
        let old = Revision {
            epoch: 1,
            revision: 900,
        };
        let new = Revision {
            epoch: 2,
            revision: 1,
        };
        assert!(new > old);
    }
}
