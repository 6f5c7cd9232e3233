//! The Noise engine of one peer, behind a trait so that another implementation can take its place.
//!
//! An [`Engine`] holds the sessions with one peer and turns packets into datagrams and back. What all engines of a node
//! share (cookies, keys for the anonymous part of a handshake) is its [`Engine::Gate`].
//! Results are lengths of what was written to the start of the given buffer, never slices, so that callers keep their buffers.

mod boringtun;

use std::net::SocketAddr;

pub use self::boringtun::BoringtunEngine;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// What an engine is made from.
#[derive(Debug)]
pub struct EngineParams<'a> {
    /// Our static key.
    pub private_key: &'a PrivateKey,
    /// The peer's.
    pub peer: PublicKey,
    /// The key that both mix in, if any.
    pub preshared_key: Option<&'a PresharedKey>,
    /// The upper 24 bits of every session index that this engine gives out.
    pub index: u32,
}

/// What a handshake message shows before it costs a curve operation.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// Its sender knows this node's public key, and got a cookie at the address and port that it sends from.
    Address,
    /// Its sender knows this node's public key. A cookie reply of this length was written, to be sent back if the sender is to
    /// prove its address.
    Key(usize),
    /// Nothing: not for this node, or malformed.
    Nothing,
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// An inner packet of this length was written. The datagram is authentic and new.
    Packet(usize),
    /// Authentic for transport data (a keepalive); nothing was written.
    Nothing,
    /// An answer of this length was written. The datagram is authentic and new.
    Reply(usize),
    /// Not authentic, replayed, malformed, or of a session that is gone.
    Rejected,
}

/// What the timers ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Tick {
    /// Nothing.
    Idle,
    /// A datagram of this length was written, to be sent.
    Send(usize),
    /// There is no session, and the engine has given up making one until [`Engine::initiate`] or [`Engine::seal`].
    Expired,
}

/// Sessions with one peer. Buffers hold at least the input's length and 32 bytes, and never less than 148.
pub trait Engine: Send + Sized {
    /// What all engines of one node share.
    type Gate: Send;

    /// The gate of a node.
    fn gate(private_key: &PrivateKey) -> Self::Gate;

    /// Verifies what an initiation or response shows without any curve: its form, its MAC, and its cookie.
    fn prove(gate: &Self::Gate, source: SocketAddr, handshake: &[u8], out: &mut [u8]) -> Proof;

    /// The static key in an initiation that was proved; one curve operation. `None` when it is forged. The key's owner is
    /// proved only by [`Engine::open`].
    fn identify(gate: &Self::Gate, initiation: &[u8]) -> Option<PublicKey>;

    /// An engine without sessions.
    fn new(gate: &Self::Gate, params: &EngineParams<'_>) -> Self;

    /// Encrypts `packet`, or keeps it and starts a handshake. The length written; `None` when nothing is to be sent yet.
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize>;

    /// Takes a datagram of this peer. After [`Opened::Reply`], [`Engine::next_queued`] gives what had waited for the session.
    /// One of another peer is rejected and changes nothing, be it an initiation that was proved.
    fn open(&mut self, source: SocketAddr, datagram: &[u8], out: &mut [u8]) -> Opened;

    /// Encrypts the next packet that waited for a session.
    fn next_queued(&mut self, out: &mut [u8]) -> Option<usize>;

    /// Runs the protocol's timers. The engine takes the time of everything that happens from the last call, so one belongs
    /// before any use of it, when the last is more than about a second ago, and one when a timer may be due: the engine
    /// does not say when.
    fn tick(&mut self, out: &mut [u8]) -> Tick;

    /// Writes a handshake initiation; `None` when one is under way and `force` is false.
    fn initiate(&mut self, force: bool, out: &mut [u8]) -> Option<usize>;
}
