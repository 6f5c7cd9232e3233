//! The store on real files: what it keeps, what it refuses, and what is left of it after a fault.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod claims;
mod devices;
mod faults;
mod fixture;
mod peers;
