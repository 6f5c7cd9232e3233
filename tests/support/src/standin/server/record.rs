//! What the stand-in saw: each accepted connection and each request on it, without secrets. It is how a test proves
//! that nothing reached Coder by another way.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::json;

/// Connections that are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 10_000;

/// A connection that was accepted.
#[derive(Debug, Clone)]
pub struct ConnectionSeen {
    /// Its number, from 0, in the order of acceptance.
    pub id: u64,
    /// Who connected.
    pub peer: SocketAddr,
    /// When.
    pub at: Timestamp,
    /// What was asked on it, in order.
    pub requests: Vec<RequestSeen>,
}

/// A request.
#[derive(Debug, Clone)]
pub struct RequestSeen {
    /// When.
    pub at: Timestamp,
    /// Its method.
    pub method: String,
    /// Its path with the query, secrets replaced by `<key>`.
    pub path: String,
}

#[derive(Debug)]
pub(super) struct Recorder {
    seen: Mutex<VecDeque<ConnectionSeen>>,
    file: Option<Mutex<File>>,
}

/// Opens a record file for appending, readable for its owner.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl Recorder {
    pub(super) fn new(file: Option<File>) -> Self {
        Self {
            seen: Mutex::new(VecDeque::new()),
            file: file.map(Mutex::new),
        }
    }

    pub(super) fn connections(&self) -> Vec<ConnectionSeen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    pub(super) fn connection(&self, id: u64, peer: SocketAddr) {
        let at = Timestamp::now();
        self.write(&json!({ "peer": peer.to_string(), "at": at.to_string() }));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(ConnectionSeen {
            id,
            peer,
            at,
            requests: Vec::new(),
        });
    }

    pub(super) fn request(&self, id: u64, peer: SocketAddr, method: &str, path_and_query: &str) {
        let at = Timestamp::now();
        let path = without_secrets(path_and_query);
        self.write(
            &json!({ "peer": peer.to_string(), "method": method, "path": path, "at": at.to_string() }),
        );
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = seen.iter_mut().rev().find(|connection| connection.id == id) {
            connection.requests.push(RequestSeen {
                at,
                method: method.to_owned(),
                path,
            });
        }
    }

    /// A record that cannot be written is lost; the stand-in goes on.
    fn write(&self, entry: &serde_json::Value) {
        if let Some(file) = &self.file {
            let line = format!("{entry}\n");
            let _ = file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(line.as_bytes());
        }
    }
}

/// The child's preflight has the key in its path.
fn without_secrets(path_and_query: &str) -> String {
    const PREFIX: &str = "/api/v2/provisionerkeys/";
    match path_and_query.strip_prefix(PREFIX) {
        Some(_) => format!("{PREFIX}<key>"),
        None => path_and_query.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_without_secrets_and_within_bounds() {
        let recorder = Recorder::new(None);
        let peer = "127.0.0.1:1".parse().unwrap();
        for id in 0..=REMEMBERED as u64 {
            recorder.connection(id, peer);
        }
        recorder.request(5, peer, "GET", "/api/v2/provisionerkeys/secret");
        let seen = recorder.connections();
        assert_eq!((seen.len(), seen[0].id), (REMEMBERED, 1));
        assert_eq!(seen[4].requests[0].path, "/api/v2/provisionerkeys/<key>");
    }
}
