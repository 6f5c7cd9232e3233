//! The live fleet: what is known of every device at this moment, in memory.
//!
//! The store holds what must survive; this map holds what a page shows and a session changes. It is filled from the
//! store at start and from then on kept by the sessions. Nothing here waits, and no clock is read: `now` is an
//! argument.
//!
//! ```text
//!  enrolled ──► NeverSeen ──session──► Online ──session ends──► Online (hold-down runs) ──deadline──► Offline
//!                                       ▲  └──goodbye──────────────────────────────────────────────────┘ │
//!  registry start ──► Unknown ──session─┤ └──────────────────────session──────────────────────────────────┘
//!                        └──grace passes──► Offline                                 any ──► Revoked
//! ```
//!
//! A session that ends only counts when it is still the newest of its device: every session carries the epoch
//! that the store gave it, and an end with an older epoch changes nothing.

mod row;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orfe_protocol::id::DeviceId;
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::message::GoodbyeReason;
use orfe_protocol::name::DeviceName;
use orfe_protocol::observed::ObservedState;
use orfe_protocol::tag::Tags;
use orfe_store::Device;
use tokio::sync::watch;

pub(crate) use self::row::provisioners;
pub use self::row::{DeviceRow, Link};
use crate::connection::SessionHandle;

/// Why a session does not stand after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBegun {
    /// The device is gone or was revoked meanwhile.
    Revoked,
    /// A newer session of the device began meanwhile.
    Overtaken,
}

/// How patient the fleet is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the end of a session to `offline`.
    pub hold_down: Duration,
    /// From the registry's start to `offline` for devices that had been seen before.
    pub start_grace: Duration,
}

/// Handle to the live fleet; clones share it.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    patience: Patience,
    devices: Mutex<Devices>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Devices {
    entries: HashMap<DeviceId, Entry>,
    /// In the order in which lists show them.
    names: BTreeMap<DeviceName, DeviceId>,
}

#[derive(Debug)]
struct Entry {
    device: Device,
    observed: Option<Arc<ObservedState>>,
    presence: Presence,
    gateway_handshake_at: Option<Timestamp>,
}

#[derive(Debug)]
enum Presence {
    NeverSeen,
    Unknown {
        until: Instant,
    },
    Online {
        session: SessionHandle,
        since: Timestamp,
    },
    Lost {
        offline_at: Instant,
    },
    Offline {
        goodbye: Option<GoodbyeReason>,
    },
}

impl Fleet {
    /// An empty fleet.
    pub fn new(patience: Patience) -> Self {
        let changes = watch::Sender::new(0);
        Self(Arc::new(Inner {
            patience,
            devices: Mutex::default(),
            changes,
        }))
    }

    /// Every device, in the order of their names.
    pub fn rows(&self) -> Vec<DeviceRow> {
        let devices = self.lock();
        devices
            .names
            .values()
            .filter_map(|id| devices.entries.get(id))
            .map(Entry::row)
            .collect()
    }

    /// One device.
    pub fn row(&self, name: &DeviceName) -> Option<DeviceRow> {
        let devices = self.lock();
        devices
            .names
            .get(name)
            .and_then(|id| devices.entries.get(id))
            .map(Entry::row)
    }

    /// A number that grows with every change that a page would show. That a device was heard again is no such
    /// change: pages let ages move by a clock of their own.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// What is stored of a device, as of its last change.
    pub fn device(&self, id: DeviceId) -> Option<Device> {
        self.lock().entries.get(&id).map(|entry| entry.device.clone())
    }

    /// Every device that may use the tunnel.
    pub fn admitted(&self) -> Vec<Device> {
        let devices = self.lock();
        let entries = devices.names.values().filter_map(|id| devices.entries.get(id));
        entries
            .filter(|entry| entry.device.revoked_at.is_none())
            .map(|entry| entry.device.clone())
            .collect()
    }

    /// Why a device that is offline said that it goes, when it did.
    pub fn goodbye(&self, id: DeviceId) -> Option<GoodbyeReason> {
        match self.lock().entries.get(&id)?.presence {
            Presence::Offline { goodbye } => goodbye,
            _ => None,
        }
    }

    /// Number of standing sessions.
    pub fn sessions(&self) -> usize {
        let devices = self.lock();
        devices
            .entries
            .values()
            .filter(|entry| matches!(entry.presence, Presence::Online { .. }))
            .count()
    }

    /// Puts a device in that the store knew when the registry started.
    pub fn load(&self, device: Device, observed: Option<Arc<ObservedState>>, now: Instant) {
        let presence = match device.last_seen_at {
            Some(_) => Presence::Unknown {
                until: now + self.0.patience.start_grace,
            },
            None => Presence::NeverSeen,
        };
        self.insert(Entry {
            device,
            observed,
            presence,
            gateway_handshake_at: None,
        });
    }

    /// Puts a device in that has just enrolled, or takes its newer row when it enrolled again.
    pub fn enrolled(&self, device: Device) {
        let mut devices = self.lock();
        if let Some(entry) = devices.entries.get_mut(&device.id) {
            // What was heard since the last batch is not in the store yet.
            let last_seen_at = device.last_seen_at.max(entry.device.last_seen_at);
            entry.device = Device {
                last_seen_at,
                ..device
            };
            drop(devices);
            self.bump();
            return;
        }
        drop(devices);
        self.insert(Entry {
            device,
            observed: None,
            presence: Presence::NeverSeen,
            gateway_handshake_at: None,
        });
    }

    /// A session stands. Returns the older one of the same device, which is to be closed.
    pub fn session_began(
        &self,
        id: DeviceId,
        session: SessionHandle,
        at: Timestamp,
    ) -> Result<Option<SessionHandle>, NotBegun> {
        let mut devices = self.lock();
        let entry = devices.entries.get_mut(&id).ok_or(NotBegun::Revoked)?;
        if entry.device.revoked_at.is_some() {
            return Err(NotBegun::Revoked);
        }
        if session.epoch() < entry.device.session_epoch {
            return Err(NotBegun::Overtaken);
        }
        entry.device.session_epoch = session.epoch();
        entry.device.last_seen_at = Some(at);
        let before = std::mem::replace(&mut entry.presence, Presence::Online { session, since: at });
        drop(devices);
        self.bump();
        match before {
            Presence::Online { session, .. } => Ok(Some(session)),
            _ => Ok(None),
        }
    }

    /// A session ended; without a goodbye the hold-down begins. Of an older session nothing is taken.
    pub fn session_ended(&self, id: DeviceId, epoch: u64, goodbye: Option<GoodbyeReason>, now: Instant) {
        let mut devices = self.lock();
        let Some(entry) = devices.entries.get_mut(&id) else {
            return;
        };
        if !entry.is_session(epoch) {
            return;
        }
        entry.presence = match goodbye {
            Some(_) => Presence::Offline { goodbye },
            None => Presence::Lost {
                offline_at: now + self.0.patience.hold_down,
            },
        };
        drop(devices);
        self.bump();
    }

    /// The device was heard in this session.
    pub fn heard(&self, id: DeviceId, epoch: u64, at: Timestamp) {
        if let Some(entry) = self
            .lock()
            .entries
            .get_mut(&id)
            .filter(|entry| entry.is_session(epoch))
        {
            entry.device.last_seen_at = Some(at);
        }
    }

    /// The device said how it is. Whether that differs from what it said before.
    pub fn observed(&self, id: DeviceId, epoch: u64, observed: &Arc<ObservedState>) -> bool {
        let mut devices = self.lock();
        let Some(entry) = devices
            .entries
            .get_mut(&id)
            .filter(|entry| entry.is_session(epoch))
        else {
            return false;
        };
        if entry.observed.as_ref() == Some(observed) {
            return false;
        }
        entry.observed = Some(observed.clone());
        drop(devices);
        self.bump();
        true
    }

    /// The gateway's own view of the last handshakes.
    pub fn handshakes(&self, seen: &HashMap<WireGuardPublicKey, Timestamp>) {
        let mut first = false;
        let mut devices = self.lock();
        for entry in devices.entries.values_mut() {
            if let Some(at) = seen.get(&entry.device.wireguard_key) {
                first |= entry.gateway_handshake_at.is_none();
                entry.gateway_handshake_at = Some(*at);
            }
        }
        drop(devices);
        if first {
            self.bump();
        }
    }

    /// The device has these granted tags from now on. Returns its session, which is to tell it.
    pub fn retagged(&self, id: DeviceId, tags: Tags) -> Option<SessionHandle> {
        let mut devices = self.lock();
        let entry = devices.entries.get_mut(&id)?;
        entry.device.tags = tags;
        let session = match &entry.presence {
            Presence::Online { session, .. } => Some(session.clone()),
            _ => None,
        };
        drop(devices);
        self.bump();
        session
    }

    /// The device may not come back; its session, if one stands, is to be closed.
    pub fn revoked(&self, id: DeviceId, at: Timestamp) -> Option<SessionHandle> {
        let mut devices = self.lock();
        let entry = devices.entries.get_mut(&id)?;
        entry.device.revoked_at = Some(at);
        let before = std::mem::replace(&mut entry.presence, Presence::Offline { goodbye: None });
        drop(devices);
        self.bump();
        match before {
            Presence::Online { session, .. } => Some(session),
            _ => None,
        }
    }

    /// Turns devices offline whose time has run out. Returns when the next one's does.
    pub fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut devices = self.lock();
        let (mut next, mut changed): (Option<Instant>, bool) = (None, false);
        for entry in devices.entries.values_mut() {
            let deadline = match entry.presence {
                Presence::Lost { offline_at } => offline_at,
                Presence::Unknown { until } => until,
                _ => continue,
            };
            if deadline <= now {
                entry.presence = Presence::Offline { goodbye: None };
                changed = true;
            } else {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        drop(devices);
        if changed {
            self.bump();
        }
        next
    }

    fn insert(&self, entry: Entry) {
        let mut devices = self.lock();
        devices.names.insert(entry.device.name.clone(), entry.device.id);
        devices.entries.insert(entry.device.id, entry);
        drop(devices);
        self.bump();
    }

    fn bump(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// A panic elsewhere leaves the map whole, since every change is one assignment, so poison is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Devices> {
        self.0.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_session(&self, epoch: u64) -> bool {
        matches!(&self.presence, Presence::Online { session, .. } if session.epoch() == epoch)
    }

    fn link(&self) -> Link {
        if self.device.revoked_at.is_some() {
            return Link::Revoked;
        }
        match self.presence {
            Presence::NeverSeen => Link::NeverSeen,
            Presence::Unknown { .. } => Link::Unknown,
            Presence::Online { .. } | Presence::Lost { .. } => Link::Online,
            Presence::Offline { .. } => Link::Offline,
        }
    }

    fn row(&self) -> DeviceRow {
        let said = || self.observed.as_ref()?.tunnel.as_ref()?.last_handshake_at;
        DeviceRow {
            id: self.device.id,
            name: self.device.name.clone(),
            link: self.link(),
            observed: self.observed.clone(),
            granted_tags: self.device.tags.clone(),
            last_seen_at: self.device.last_seen_at,
            session_since: match self.presence {
                Presence::Online { since, .. } => Some(since),
                _ => None,
            },
            created_at: self.device.created_at,
            tunnel_handshake_at: self.gateway_handshake_at.or_else(said),
        }
    }
}

#[cfg(test)]
#[path = "fleet/tests.rs"]
mod tests;
