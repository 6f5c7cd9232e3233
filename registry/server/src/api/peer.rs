//! People's peers, and what the gateway counts for peers of every kind.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::name::DeviceName;
use orfe_protocol::secret::Secret;
use orfe_tunnel::PublicKey;
use serde::{Deserialize, Serialize};

use super::{Refused, check_note};

/// Longest life of a peer, in seconds: ten years.
pub const PEER_TTL_MAX_S: u64 = 3650 * 24 * 3600;

/// Most destinations to which one peer is narrowed.
pub const ALLOWED_MAX: usize = 64;

/// A peer to be added. Its private key stays where it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPeer {
    pub name: DeviceName,
    pub wireguard_public_key: WireGuardPublicKey,
    /// Symmetric key that both ends mix in, in base64.
    pub preshared_key: Option<Secret>,
    /// None: it does not end by itself.
    pub ttl_s: Option<u64>,
    /// The only entries of the policy that it may reach; none: all that policy gives people.
    pub allowed: Option<Vec<String>>,
    pub note: String,
}

impl AddPeer {
    /// Whether every value is within its range. What its policy and its key say about it, only the gateway knows.
    pub fn check(&self) -> Result<(), Refused> {
        if (self.ttl_s).is_some_and(|ttl| !(1..=PEER_TTL_MAX_S).contains(&ttl)) {
            return Err(Refused::new("a peer lives 1 second to 3650 days", "see `--ttl`"));
        }
        if self
            .allowed
            .as_ref()
            .is_some_and(|allowed| allowed.len() > ALLOWED_MAX)
        {
            return Err(Refused::new(
                format!("a peer is narrowed to {ALLOWED_MAX} destinations at most"),
                "give the peer an entry of its own with `for_peers` in the policy",
            ));
        }
        if PublicKey::from(*self.wireguard_public_key.as_bytes()).is_low_order() {
            return Err(Refused::new(
                format!(
                    "the public key {} belongs to no private key, and anybody could come in with it",
                    self.wireguard_public_key
                ),
                "make a pair with `wg genkey`, and give what `wg pubkey` says of it",
            ));
        }
        check_note(&self.note)
    }
}

/// One peer, alone, with what its client is to be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerAnswer {
    pub version: u32,
    pub peer: PeerView,
    pub client: ClientConfig,
}

/// All peers, in the order of their names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerList {
    pub version: u32,
    pub peers: Vec<PeerView>,
}

/// A person's WireGuard client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerView {
    pub name: DeviceName,
    /// `current` or `expired`.
    pub state: String,
    pub wireguard_public_key: WireGuardPublicKey,
    pub has_preshared_key: bool,
    pub addresses: Vec<IpAddr>,
    pub allowed: Option<Vec<String>>,
    pub note: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// None while the gateway does not know it.
    pub counters: Option<PeerCounters>,
}

/// What a client needs beside its own keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientConfig {
    /// `ADDRESS/PREFIX` of its interface.
    pub addresses: Vec<String>,
    pub dns: Vec<IpAddr>,
    /// Whether the gateway answers for every name, or for those of the cluster only.
    pub dns_is_whole: bool,
    pub gateway_public_key: WireGuardPublicKey,
    /// `host:port`.
    pub endpoint: String,
    pub allowed_ips: Vec<String>,
    pub keepalive_s: u16,
}

/// What the gateway counts for a peer since it came to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounters {
    pub endpoint: Option<SocketAddr>,
    pub last_handshake_at: Option<Timestamp>,
    /// Inner bytes from it and to it.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// TCP connections and UDP flows at this moment.
    pub connections: usize,
    pub udp_flows: usize,
    /// Connections and flows that were forwarded.
    pub forwarded: u64,
    /// Those that policy does not allow, or for which there was no room.
    pub refused: u64,
    /// Those whose upstream could not be reached.
    pub failed: u64,
    pub dropped: DroppedPackets,
}

/// Packets of a peer that were dropped, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPackets {
    pub spoofed_source: u64,
    pub rejected: u64,
    pub no_endpoint: u64,
    pub unsupported: u64,
    pub overflow: u64,
}
