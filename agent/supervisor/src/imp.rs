//! One implementation for each system, with the same functions.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{Deaths, exit_status, prepare, reopen_output};
#[cfg(windows)]
pub(crate) use windows::{Deaths, exit_status, prepare, reopen_output};
