//! `WireGuard` without I/O.
//!
//! One [`Node`] is one end: a private key, its peers, the device-wide table of allowed IPs, timers and counters. It owns
//! no socket and reads no clock. The caller hands it batches of datagrams and of inner packets, with the time, and
//! carries out what it answers:
//!
//! ```text
//!   UDP ── handle_datagrams ──► inner packets (and handshake answers for UDP)
//!   TCP stack ── handle_packets ──► datagrams for UDP
//!   poll_timeout ── handle_timeout ──► datagrams for UDP
//!   poll_event ──► handshake completed, endpoint changed, session expired
//! ```
//!
//! What it adds to the Noise engine, which knows a single peer and no policy: finding the peer of a datagram, the check that
//! an inner source address belongs to the peer that sent it, roaming on authenticated packets only, limits on handshake
//! work before any curve is computed, jitter and back-off of retries, and re-initiation of expired sessions.
//! The engine itself stands behind the [`Engine`] trait. It reads its own monotonic clock for the protocol's
//! timers; every decision made here takes the time as an argument.

mod allowed_ips;
mod batch;
mod datagrams;
mod engine;
mod key;
pub mod ladder;
mod limit;
mod message;
mod node;
pub mod packet;
pub mod path;
mod rate;
mod shard;

pub use allowed_ips::{AllowedIp, ParseAllowedIpError};
pub use batch::Batch;
pub use datagrams::{Datagrams, MAX_RUN_BYTES, MAX_RUN_DATAGRAMS, Run};
pub use engine::{BoringtunEngine, Engine, EngineParams, Opened, Proof, Tick};
pub use key::{ParseKeyError, PresharedKey, PrivateKey, PublicKey};
pub use limit::HandshakeLimits;
pub use node::{
    Event, Node, NodeConfig, NodeDrops, Outbound, PeerConfig, PeerDrops, PeerError, PeerId, PeerStats,
    REJECT_AFTER_TIME, SILENT_AFTER_TIME,
};
pub use rate::{Bucket, Rate, SourceLimiter};
pub use shard::{MAX_SHARDS, Shard, Stray};
