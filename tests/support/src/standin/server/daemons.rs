//! The table of daemons: one row for each name and owner of the row, as in the real database. A row is touched when
//! its daemon dials in and every 60 s of its session, and counts as offline when it was not for 90 s.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{API_VERSION, Tags};
use crate::scale::TimeScale;

/// How often a session touches its row.
pub(super) const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
const OFFLINE_AFTER: Duration = Duration::from_secs(90);

/// A daemon as the stand-in knows it.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The row's id.
    pub id: Uuid,
    /// The name that it dialled in with.
    pub name: String,
    /// The version that it said it is; empty if it did not.
    pub version: String,
    /// All its tags, `scope` and `owner` included.
    pub tags: Tags,
    /// The id of its key; a fixed one with the PSK.
    pub key_id: Uuid,
    /// The name of its key; `psk` with the PSK.
    pub key_name: String,
    /// When it first dialled in.
    pub created_at: Timestamp,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
    /// Whether it was heard of within 90 scaled seconds.
    pub online: bool,
    touched: Instant,
}

/// A daemon that dials in.
pub(super) struct Arrival {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) tags: Tags,
    pub(super) key_id: Uuid,
    pub(super) key_name: String,
}

#[derive(Debug, Default)]
pub(super) struct Daemons(Mutex<Vec<Daemon>>);

impl Daemons {
    /// Inserts or updates the row and returns its id.
    pub(super) fn arrive(&self, arrival: Arrival) -> Uuid {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        let known = rows.iter_mut().find(|row| row.name == arrival.name);
        let id = known.as_ref().map_or_else(Uuid::new_v4, |row| row.id);
        let created_at = known.as_ref().map_or(now, |row| row.created_at);
        let fresh = Daemon {
            id,
            name: arrival.name,
            version: arrival.version,
            tags: arrival.tags,
            key_id: arrival.key_id,
            key_name: arrival.key_name,
            created_at,
            last_seen_at: now,
            online: true,
            touched: Instant::now(),
        };
        match known {
            Some(row) => *row = fresh,
            None => rows.push(fresh),
        }
        id
    }

    /// Notes that the daemon of a row was heard of. A row that is gone stays gone.
    pub(super) fn touch(&self, id: Uuid) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.iter_mut().find(|row| row.id == id) {
            row.last_seen_at = Timestamp::now();
            row.touched = Instant::now();
        }
    }

    /// Removes the rows of a key.
    pub(super) fn forget_key(&self, key_id: Uuid) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|row| row.key_id != key_id);
    }

    /// All rows, newest first.
    pub(super) fn all(&self, scale: TimeScale) -> Vec<Daemon> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let offline_after = scale.scaled(OFFLINE_AFTER);
        let shown = |row: &Daemon| Daemon {
            online: row.touched.elapsed() <= offline_after,
            ..row.clone()
        };
        rows.iter().rev().map(shown).collect()
    }
}

impl Daemon {
    /// The row in the listing.
    pub(super) fn shown(&self, organization: Uuid) -> Value {
        let mut shown = self.shown_under_key(organization);
        shown["key_name"] = json!(self.key_name);
        shown["status"] = json!(self.status());
        shown
    }

    /// The row in the listing of keys, which leaves some fields null.
    pub(super) fn shown_under_key(&self, organization: Uuid) -> Value {
        json!({
            "id": self.id,
            "organization_id": organization,
            "key_id": self.key_id,
            "created_at": self.created_at.to_string(),
            "last_seen_at": self.last_seen_at.to_string(),
            "name": self.name,
            "version": self.version,
            "api_version": API_VERSION,
            "provisioners": ["terraform"],
            "tags": self.tags,
            "key_name": null,
            "status": null,
            "current_job": null,
            "previous_job": null,
        })
    }

    /// `idle` or `offline`: the stand-in runs no jobs.
    pub(super) fn status(&self) -> &'static str {
        if self.online { "idle" } else { "offline" }
    }
}
