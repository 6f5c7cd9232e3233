//! What this machine is, with evidence: system, processor, memory, Docker, GPUs, kind of machine.
//!
//! [`probe()`] looks once and returns [`Facts`]. It never fails as a whole: what could not be read is
//! absent, and a [`Problem`] says what was looked for, where, and why it was not found. So "no GPU"
//! ([`Facts::gpu_none`]) is only ever said after a look that succeeded.
//!
//! # How it works
//!
//! - On Linux everything but Docker is text below one folder, the [`Root`]: `/` on a real machine, a
//!   made-up tree in a test. `probe/linux` decides which file answers which question; `parse` holds
//!   pure functions from text to values. Other systems are asked through `sysinfo`; their GPUs are
//!   not looked for yet, which is reported as a problem, not as "none".
//! - Docker is asked for its version over its socket, with a time limit of two seconds.
//! - Texts come from files that anyone's firmware may have written: they are cut to one line of at most
//!   128 characters, and files are read up to a limit.
//!
//! Facts are not tags. Which tag a fact suggests, and whether it is believed, is decided elsewhere; only
//! [`Gpu::tag_value`] is made here, because it needs the names that vendors give to their cards.

mod facts;
mod root;

mod docker;
mod parse;
mod probe;

pub use docker::{endpoint, engine, may_have_engine};
pub use facts::{
    Arch, Chassis, Cpu, Docker, DockerAbsence, Fact, Facts, Family, Gpu, GpuKind, Os, Problem, Subject,
    Vendor,
};
pub use probe::probe;
pub use root::Root;
