//! The record of running children, and what becomes of those that an earlier life left behind.
//!
//! A child is not ended by the agent's death: terraform may be in the middle of an apply. So every running child stands in
//! `children.json`, and the next life ends it in peace (SIGTERM, the drain deadline, then the tree) before anything is
//! started in its slot.

use std::collections::BTreeMap;
use std::time::Duration;

use orfe_platform::process::{self, ProcessId};
use orfe_supervisor::{Marker, Orphan, OrphanEnd, adopt_or_end};

use super::spec::{Folders, MARKER};
use crate::failure::{Failure, one_line};
use crate::state::{RunningChild, StateFolder};

/// The children that run now, on disk.
#[derive(Debug)]
pub(super) struct Children {
    running: BTreeMap<u8, RunningChild>,
}

impl Children {
    /// Begins with what an earlier life left: it stays on record until it is gone.
    pub(super) fn new(left_behind: &[RunningChild]) -> Self {
        Self {
            running: left_behind
                .iter()
                .map(|child| (child.slot, child.clone()))
                .collect(),
        }
    }

    pub(super) fn started(&mut self, state: &StateFolder, slot: u8, id: ProcessId) {
        let child = process::boot_id()
            .map_err(|error| Failure::new("it cannot be told which boot this is").because(error))
            .and_then(|boot| state.running_child(slot, id, boot));
        match child {
            Ok(child) => {
                self.running.insert(slot, child);
                self.store(state);
            }
            Err(error) => tracing::warn!(error = one_line(&error), "a running child cannot be recorded"),
        }
    }

    pub(super) fn ended(&mut self, state: &StateFolder, slot: u8) {
        if self.running.remove(&slot).is_some() {
            self.store(state);
        }
    }

    fn store(&self, state: &StateFolder) {
        let running: Vec<RunningChild> = self.running.values().cloned().collect();
        if let Err(error) = state.store_children(&running) {
            tracing::warn!(
                error = one_line(&error),
                "the list of running children cannot be written"
            );
        }
    }
}

/// Ends what an earlier life left in `slot`, if there is anything; in peace, within `drain_limit`.
pub(super) async fn end_orphan(
    orphan: RunningChild,
    folders: Folders,
    drain_limit: Duration,
) -> Result<OrphanEnd, Failure> {
    let slot = orphan.slot;
    let end = adopt_or_end(Orphan {
        id: orphan.id(),
        boot_id: orphan.boot,
        marker: Some(Marker {
            name: MARKER.into(),
            value: folders.tmp().into(),
        }),
        drain_limit,
        log_file: None,
        secrets: Vec::new(),
    })
    .await
    .map_err(|error| {
        Failure::new(format!(
            "a provisioner that an earlier run left in slot {slot} does not end"
        ))
        .hint(format!("end process {} by hand", orphan.pid))
        .because(error)
    })?;
    if end != OrphanEnd::Absent {
        tracing::info!(
            slot,
            pid = orphan.pid,
            ?end,
            "ended the provisioner of an earlier run"
        );
    }
    Ok(end)
}
