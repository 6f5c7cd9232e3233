//! [`Engine`] by `boringtun::noise`.
//!
//! What its use here takes care of: every `Tunn` gets a limiter without a limit, because its own would refuse the eleventh
//! handshake. The gate's is at its limit always, so that it looks at every cookie and writes one where there is none; what is counted is the
//! node's, and asked before the curve. The gate binds cookies to address and port by handing the library a keyed digest of
//! both in place of the address.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ::boringtun::noise::handshake::parse_handshake_anon;
use ::boringtun::noise::rate_limiter::RateLimiter;
use ::boringtun::noise::{Packet, Tunn, TunnResult};
use ::boringtun::x25519;

use super::{Engine, EngineParams, Opened, Proof, Tick};
use crate::key::{PrivateKey, PublicKey};

/// Sessions with one peer, by boringtun.
pub struct BoringtunEngine {
    tunn: Box<Tunn>,
}

impl fmt::Debug for BoringtunEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoringtunEngine").finish_non_exhaustive()
    }
}

/// Verification of handshakes before their peer is known.
pub struct Gate {
    private_key: x25519::StaticSecret,
    public_key: x25519::PublicKey,
    cookies: RateLimiter,
    unlimited: Arc<RateLimiter>,
    digest: [RandomState; 2],
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// An address that stands for `source`'s address and port; the key is new with every process.
    fn cookie_source(&self, source: SocketAddr) -> IpAddr {
        let [high, low] = [0, 1].map(|half: usize| u128::from(self.digest[half].hash_one(source)));
        Ipv6Addr::from_bits(high << 64 | low).into()
    }
}

impl Engine for BoringtunEngine {
    type Gate = Gate;

    fn gate(private_key: &PrivateKey) -> Gate {
        let private_key = private_key.to_x25519();
        let public_key = x25519::PublicKey::from(&private_key);
        Gate {
            private_key,
            public_key,
            cookies: RateLimiter::new(&public_key, 0),
            unlimited: Arc::new(RateLimiter::new(&public_key, u64::MAX)),
            digest: [RandomState::new(), RandomState::new()],
        }
    }

    fn prove(gate: &Gate, source: SocketAddr, handshake: &[u8], out: &mut [u8]) -> Proof {
        let source = gate.cookie_source(source);
        match gate.cookies.verify_packet(Some(source), handshake, out) {
            Ok(Packet::HandshakeInit(_) | Packet::HandshakeResponse(_)) => Proof::Address,
            Err(TunnResult::WriteToNetwork(cookie)) => Proof::Key(cookie.len()),
            _ => Proof::Nothing,
        }
    }

    fn identify(gate: &Gate, initiation: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(init)) = Tunn::parse_incoming_packet(initiation) else {
            return None;
        };
        let half = parse_handshake_anon(&gate.private_key, &gate.public_key, &init).ok()?;
        Some(PublicKey::from(half.peer_static_public))
    }

    fn new(gate: &Gate, params: &EngineParams<'_>) -> Self {
        let tunn = Tunn::new(
            params.private_key.to_x25519(),
            params.peer.to_x25519(),
            params.preshared_key.map(|key| *key.as_bytes()),
            // The node sends keepalives, for it knows whether they are needed.
            None,
            params.index,
            Some(Arc::clone(&gate.unlimited)),
        );
        Self { tunn: Box::new(tunn) }
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        written(&self.tunn.encapsulate(packet, out))
    }

    fn open(&mut self, source: SocketAddr, datagram: &[u8], out: &mut [u8]) -> Opened {
        match self.tunn.decapsulate(Some(source.ip()), datagram, out) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Opened::Packet(packet.len())
            }
            TunnResult::WriteToNetwork(reply) => Opened::Reply(reply.len()),
            TunnResult::Done => Opened::Nothing,
            TunnResult::Err(error) => {
                tracing::trace!(?error, "datagram rejected");
                Opened::Rejected
            }
        }
    }

    fn next_queued(&mut self, out: &mut [u8]) -> Option<usize> {
        // boringtun: a call with an empty datagram drains what waited for the session.
        written(&self.tunn.decapsulate(None, &[], out))
    }

    fn tick(&mut self, out: &mut [u8]) -> Tick {
        match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(datagram) => Tick::Send(datagram.len()),
            // Its only error here is the expired connection, and it repeats it on every call.
            TunnResult::Err(_) => Tick::Expired,
            _ => Tick::Idle,
        }
    }

    fn initiate(&mut self, force: bool, out: &mut [u8]) -> Option<usize> {
        written(&self.tunn.format_handshake_initiation(out, force))
    }
}

fn written(result: &TunnResult<'_>) -> Option<usize> {
    match result {
        TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
        _ => None,
    }
}
