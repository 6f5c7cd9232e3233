//! What all connections of a stand-in share.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Config;
use super::daemons::Daemons;
use super::fault::Fault;
use super::keys::Keys;
use super::record::Recorder;
use crate::scale::TimeScale;

pub(super) struct State {
    pub(super) keys: Keys,
    pub(super) daemons: Daemons,
    pub(super) recorder: Recorder,
    pub(super) time_scale: TimeScale,
    pub(super) psk: Option<String>,
    pub(super) session_token: Option<String>,
    pub(super) member_token: Option<String>,
    pub(super) organization: Uuid,
    pub(super) deployment: Uuid,
    address: SocketAddr,
    encrypted: bool,
    access_url: Option<String>,
    licensed: AtomicBool,
    fault: Mutex<Option<Fault>>,
    next_connection: AtomicU64,
    open: Mutex<HashMap<u64, CancellationToken>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn new(config: Config, address: SocketAddr, record: Option<File>) -> Self {
        Self {
            keys: Keys::new(&config.keys),
            daemons: Daemons::default(),
            recorder: Recorder::new(record),
            time_scale: config.time_scale,
            psk: config.psk,
            session_token: config.session_token,
            member_token: config.member_token,
            organization: Uuid::new_v4(),
            deployment: Uuid::new_v4(),
            address,
            encrypted: config.tls.is_some(),
            access_url: config.access_url,
            licensed: AtomicBool::new(config.licensed),
            fault: Mutex::new(config.fault),
            next_connection: AtomicU64::new(0),
            open: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn local_url(&self) -> String {
        let scheme = if self.encrypted { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub(super) fn access_url(&self) -> String {
        self.access_url.clone().unwrap_or_else(|| self.local_url())
    }

    pub(super) fn licensed(&self) -> bool {
        self.licensed.load(Ordering::SeqCst)
    }

    pub(super) fn set_licensed(&self, licensed: bool) {
        self.licensed.store(licensed, Ordering::SeqCst);
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    pub(super) fn delete_key(&self, name: &str) -> bool {
        let deleted = self.keys.delete(name);
        if let Some(id) = deleted {
            self.daemons.forget_key(id);
        }
        deleted.is_some()
    }

    /// Numbers a new connection and makes the token that cuts it.
    pub(super) fn open(&self, peer: SocketAddr) -> (u64, CancellationToken) {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let cut = CancellationToken::new();
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, cut.clone());
        self.recorder.connection(id, peer);
        (id, cut)
    }

    pub(super) fn closed(&self, id: u64) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }

    pub(super) fn cut_all(&self) {
        for cut in self.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            cut.cancel();
        }
    }
}
