//! Relays between two programs, for the faults of a network: cut, silence, and back.

pub mod tcp;
pub mod udp;
