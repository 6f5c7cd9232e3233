//! The wire contract of the agent and the registry.
//!
//! Everything that both ends must agree on lives here and nothing else: names and ids that are valid
//! by construction, the join code, the Noise session, the JSON envelope, and the two states that the
//! whole product turns on, [`desired`] and [`observed`].
//!
//! Nothing here does I/O, reads a clock or spawns anything. Randomness is used only to make keys and
//! ids. Types are parsed at the boundary, so that code behind it never meets an invalid name, tag or key.
//!
//! # Growing it
//!
//! Old agents stay in a fleet for years. A field may be added when its absence has a meaning
//! (`#[serde(default)]`); unknown fields are ignored; an enum that may grow carries an `Unknown` arm;
//! a name is never used a second time with another meaning.

pub mod desired;
pub mod envelope;
pub mod id;
pub mod join_code;
pub mod key;
pub mod message;
pub mod name;
pub mod noise;
pub mod observed;
pub mod secret;
pub mod tag;

/// Path of the agents' WebSocket endpoint on the registry.
pub const CONNECT_PATH: &str = "/agent/v1/connect";

/// WebSocket subprotocol of this version of the contract.
pub const SUBPROTOCOL: &str = "orfe.agent.v1";

/// Path of the WebSocket that carries the tunnel's datagrams, on the registry.
pub const TUNNEL_PATH: &str = "/agent/v1/tunnel";

/// WebSocket subprotocol of that: each binary message is one datagram of WireGuard, as it is.
pub const TUNNEL_SUBPROTOCOL: &str = "orfe.tunnel.v1";

/// WebSocket close codes of the session (4000–4999 is the range left to applications by RFC 6455 §7.4.2).
pub mod close {
    /// The Noise handshake failed or an unknown device said something other than a claim.
    pub const NOT_AUTHENTICATED: u16 = 4001;
    /// The device was revoked; it must enrol again.
    pub const REVOKED: u16 = 4003;
    /// The other side sent what this side could not take: too much, too large, malformed.
    pub const OVERFLOW: u16 = 4008;
    /// A newer session of the same device took this one's place.
    pub const REPLACED: u16 = 4009;
    /// The registry is stopping; come back after a moment.
    pub const GOING_AWAY: u16 = 4012;
    /// The registry holds as many sessions as it can.
    pub const OVERLOADED: u16 = 4013;
}
