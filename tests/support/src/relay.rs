//! Relays between two programs, an HTTP proxy among them, for the faults of a network: cut, silence, and back; delay, loss and a bottleneck.

pub mod connect;
pub mod impair;
pub mod tcp;
pub mod udp;
