//! Two nodes, a network that misbehaves, and time that moves when told.
//!
//! The protocol's timers live in `boringtun`, which reads a clock of its own; here that clock is the mock one, so a
//! run of an hour takes milliseconds and repeats exactly. The network is a list of datagrams with the moment at which each
//! arrives. A [`World`] is driven by tests; what must hold is in `tests/model`.
//!
//! The mock clock belongs to the thread, so a world must stay on the thread that made it, one world at a time.

mod network;
mod world;

pub use network::{Fate, Network, Weather};
pub use world::{DEVICE, Delivery, End, GATEWAY, World};
