//! What differs between operating systems, behind one set of signatures.
//!
//! | module | what |
//! |---|---|
//! | [`config_file`] | configuration files in TOML, and what is wrong with them where |
//! | [`private`] | folders and files that only their owner may read, written whole or not at all |
//! | [`log_filter`] | what a program logs, checked before it starts |
//! | [`lock`] | one process for each state folder |
//! | [`signals`] | being asked to stop |
//! | [`network`] | which network this machine is on, and word of its changes and of resumes |
//! | [`paths`] | where configuration, state and control socket are |
//! | [`ports`] | who listens on a port |
//! | [`process`] | who a process is beyond its number, the process table, this machine and this boot |
//!
//! Everything here is synchronous but [`signals`] and the watch in [`network`]; the file functions block for as long as the disk
//! takes, so a caller on an async runtime uses them at start, or from a blocking task.
//!
//! Business logic never asks which system it runs on: the differences live in `imp`, one folder for each
//! system with the same functions. Linux is tested; macOS and Windows are type-checked only.

pub mod config_file;
pub mod lock;
pub mod log_filter;
pub mod network;
pub mod paths;
pub mod ports;
pub mod private;
pub mod process;
pub mod signals;

mod imp;
mod machine;
