//! What the registry must remember: join codes, devices, what they were told and what they said last.
//!
//! Each repository ([`JoinCodes`], [`Devices`], [`Peers`], [`PolicyAddresses`]) has the functions for one table or two; SQL stays
//! inside them, and no type of the database engine stands in a signature. Times are arguments. The engine is SQLite
//! in WAL mode with `synchronous=FULL`, so what a function has answered survives a power cut; PostgreSQL is meant
//! to fit behind the same functions, so the SQL keeps to what both understand.
//!
//! # Writing
//!
//! There is one connection that writes, and each change is one transaction that takes SQLite's write lock at its
//! beginning: two changes never interleave, and a second process that writes waits up to 5 s. Reads have
//! connections of their own and never wait for a writer.
//!
//! # What can fail
//!
//! Everything, with a [`StoreError`] that tells apart what a person can mend: a full disk, a folder that
//! cannot be written, a file that is no database, a database of a newer version. A change that failed has
//! changed nothing.

mod address;
mod claim;
mod column;
mod database;
mod device;
mod error;
mod join_code;
mod peer;
mod policy_address;
mod site;

pub use address::{DEVICE_ADDRESSES, JOIN_ADDRESSES, PEER_ADDRESSES, POLICY_ADDRESSES};
pub use claim::{ClaimError, ClaimRefusal, ClaimRequest};
pub use database::Store;
pub use device::{Device, Devices, TAGS_MAX};
pub use error::StoreError;
pub use join_code::{JoinCodeRow, JoinCodes, NewJoinCode};
pub use peer::{NewPeer, Peer, PeerError, Peers};
pub use policy_address::PolicyAddresses;
pub use site::{Subnet, Ula};
