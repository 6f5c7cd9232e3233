//! Which rung of the carrier ladder worked on which network, kept in the state folder.
//!
//! It is a hint and no more: a file that cannot be read or written costs the search of a few seconds on the next network.

use std::path::PathBuf;

use orfe_platform::network::NetworkId;
use orfe_platform::private;
use orfe_protocol::observed::Carrier;
use serde::{Deserialize, Serialize};

/// Networks that are kept; the one that was used longest ago goes first.
const NETWORKS_MAX: usize = 64;
/// Larger than any such file; in bytes.
const FILE_MAX: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// In hexadecimal, because JSON's numbers are not good for 64 bits everywhere.
    network: String,
    carrier: Carrier,
}

/// The networks, the latest one last.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Memory {
    /// Reads the file; a missing or spoilt one is an empty memory.
    pub(super) fn load(path: PathBuf) -> Self {
        let entries = match private::read(&path, FILE_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "what is known of networks is spoilt; begun anew");
                Vec::new()
            }),
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "what is known of networks cannot be read");
                Vec::new()
            }
        };
        Self { path, entries }
    }

    /// The carrier that worked on this network, by the surest of its ids.
    pub(super) fn carrier(&self, ids: &[NetworkId]) -> Option<Carrier> {
        ids.iter().find_map(|id| {
            let entry = self.entries.iter().find(|entry| entry.network == text(*id))?;
            Some(entry.carrier)
        })
    }

    /// Notes what works on this network. Writes only what is news, beside the async threads.
    pub(super) async fn remember(&mut self, ids: &[NetworkId], carrier: Carrier) {
        if ids.is_empty() || ids.iter().all(|id| self.carrier(&[*id]) == Some(carrier)) {
            return;
        }
        for id in ids {
            self.entries.retain(|entry| entry.network != text(*id));
            self.entries.push(Entry {
                network: text(*id),
                carrier,
            });
        }
        let surplus = self.entries.len().saturating_sub(NETWORKS_MAX);
        self.entries.drain(..surplus);
        let (path, entries) = (self.path.clone(), self.entries.clone());
        let write = move || {
            let json = serde_json::to_vec_pretty(&entries).map_err(|error| error.to_string())?;
            private::write(&path, &json).map_err(|error| error.to_string())
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "what is known of networks cannot be written"),
            Err(error) => tracing::warn!(%error, "what is known of networks cannot be written"),
        }
    }
}

fn text(id: NetworkId) -> String {
    format!("{:016x}", id.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn networks_are_remembered_in_bounds_and_by_the_surest_id() {
        let folder = tempfile::tempdir().unwrap();
        private::create_dir(&folder.path().join("state")).unwrap();
        let path = folder.path().join("state/networks.json");
        let mut memory = Memory::load(path.clone());
        memory
            .remember(&[NetworkId(1), NetworkId(2)], Carrier::Websocket)
            .await;
        memory.remember(&[NetworkId(3), NetworkId(2)], Carrier::Udp).await;
        let memory = Memory::load(path.clone());
        assert_eq!(
            memory.carrier(&[NetworkId(1), NetworkId(2)]),
            Some(Carrier::Websocket)
        );
        assert_eq!(memory.carrier(&[NetworkId(9), NetworkId(2)]), Some(Carrier::Udp));
        assert_eq!(memory.carrier(&[]), None);
        let mut memory = memory;
        for id in 100..300 {
            memory.remember(&[NetworkId(id)], Carrier::Udp443).await;
        }
        let memory = Memory::load(path.clone());
        assert_eq!(memory.entries.len(), NETWORKS_MAX);
        assert_eq!(memory.carrier(&[NetworkId(1)]), None);
        std::fs::write(&path, b"[{").unwrap();
        assert_eq!(Memory::load(path).entries, []);
    }
}
