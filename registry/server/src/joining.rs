//! One-time WireGuard keys: with them a device that can reach nothing but the gateway's UDP port enrols.
//!
//! A key is good for as long as its join code is, and for [`AFTER_CLAIM`] longer once the code was used, so that the answer
//! to the claim still gets through. After a restart a code that was used lets nobody in any more.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::key::WireGuardPublicKey;
use orfe_store::JoinCodeRow;

/// How long the way stays open after the claim: a device repeats a claim whose answer was lost.
const AFTER_CLAIM: Duration = Duration::from_secs(60);

/// A device that is about to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Joiner {
    pub(crate) key: WireGuardPublicKey,
    pub(crate) address: Ipv4Addr,
    pub(crate) until: Timestamp,
}

/// All one-time keys that are good.
#[derive(Debug, Default)]
pub(crate) struct Joining(Mutex<HashMap<JoinCodeId, Joiner>>);

impl Joining {
    /// Those of codes that are still good.
    pub(crate) fn load(codes: &[JoinCodeRow], now: Timestamp) -> Self {
        let joining = Self::default();
        for code in codes.iter().filter(|code| code.state(now) == "open") {
            if let Some((key, address)) = code.tunnel {
                joining.lock().insert(
                    code.id,
                    Joiner {
                        key,
                        address,
                        until: code.expires_at,
                    },
                );
            }
        }
        joining
    }

    /// A code was made. Its address may have been a used one's whose minute is not over; that one is done.
    pub(crate) fn created(&self, id: JoinCodeId, joiner: Joiner) {
        let mut joiners = self.lock();
        joiners.retain(|_, other| other.address != joiner.address);
        joiners.insert(id, joiner);
    }

    /// The code was used.
    pub(crate) fn claimed(&self, id: JoinCodeId, now: Timestamp) {
        if let Some(joiner) = self.lock().get_mut(&id) {
            joiner.until = joiner.until.min(now.saturating_add(AFTER_CLAIM).unwrap_or(now));
        }
    }

    /// The code was revoked.
    pub(crate) fn revoked(&self, id: JoinCodeId) {
        self.lock().remove(&id);
    }

    /// Those that are good now. Those that are not are forgotten.
    pub(crate) fn current(&self, now: Timestamp) -> Vec<Joiner> {
        let mut joiners = self.lock();
        joiners.retain(|_, joiner| joiner.until > now);
        joiners.values().copied().collect()
    }

    /// Every change is one call, so a panic elsewhere leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<JoinCodeId, Joiner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
