//! Writes what the sessions hear to the store, in batches.
//!
//! Sessions note things here without waiting; a task writes them every [`INTERVAL`]. What is noted twice in between
//! is written once, as it was last, so the memory is bounded by the number of devices and a slow disk makes nothing
//! pile up. A registry that is killed loses the last interval, which every device tells again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use orfe_protocol::id::DeviceId;
use orfe_protocol::observed::ObservedState;
use orfe_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// How often is written.
const INTERVAL: Duration = Duration::from_secs(2);

/// What waits to be written.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    seen: HashMap<DeviceId, Timestamp>,
    observed: HashMap<DeviceId, Arc<ObservedState>>,
}

impl Recorder {
    pub(crate) fn seen(&self, id: DeviceId, at: Timestamp) {
        self.with(|pending| pending.seen.insert(id, at));
    }

    pub(crate) fn observed(&self, id: DeviceId, observed: Arc<ObservedState>) {
        self.with(|pending| pending.observed.insert(id, observed));
    }

    /// Writes at every interval, and once more at the end.
    pub(crate) async fn run(&self, store: &Store, shutdown: &CancellationToken) {
        let mut failing = false;
        while shutdown
            .run_until_cancelled(tokio::time::sleep(INTERVAL))
            .await
            .is_some()
        {
            let result = self.flush(store).await;
            // Said once when it begins and once when it is over, not every interval.
            match (&result, failing) {
                (Err(error), false) => {
                    tracing::error!(error = crate::chain(error), "the store takes no writes");
                }
                (Ok(()), true) => tracing::info!("the store takes writes again"),
                _ => {}
            }
            failing = result.is_err();
        }
        if let Err(error) = self.flush(store).await {
            tracing::error!(
                error = crate::chain(&error),
                "the last reports of devices were not written"
            );
        }
    }

    /// Writes what waits. What could not be written waits on, unless something newer came meanwhile.
    pub(crate) async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let Pending { seen, observed } = self.with(std::mem::take);
        let written = write(store, &seen, &observed).await;
        if written.is_err() {
            self.with(|pending| {
                for (id, at) in seen {
                    pending.seen.entry(id).or_insert(at);
                }
                for (id, state) in observed {
                    pending.observed.entry(id).or_insert(state);
                }
            });
        }
        written
    }

    fn with<T>(&self, change: impl FnOnce(&mut Pending) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn write(
    store: &Store,
    seen: &HashMap<DeviceId, Timestamp>,
    observed: &HashMap<DeviceId, Arc<ObservedState>>,
) -> Result<(), StoreError> {
    if !seen.is_empty() {
        let seen: Vec<_> = seen.iter().map(|(id, at)| (*id, *at)).collect();
        store.devices().record_seen(&seen).await?;
    }
    if !observed.is_empty() {
        let observed: Vec<_> = observed.iter().map(|(id, state)| (*id, state.as_ref())).collect();
        store
            .devices()
            .record_observed(&observed, Timestamp::now())
            .await?;
    }
    Ok(())
}
