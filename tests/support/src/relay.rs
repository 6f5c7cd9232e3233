//! Relays between two programs, for the faults of a network: cut, silence, and back; delay, loss and a bottleneck.

pub mod impair;
pub mod tcp;
pub mod udp;
