//! One implementation for each system. All of them have the modules `files`, `machine`, `network`, `ports`,
//! `process` and `signals` with the same functions; the facades beside this file are the only callers.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(not(target_os = "linux"))]
pub(crate) mod no_ports;
#[cfg(not(target_os = "linux"))]
pub(crate) mod polled;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::{machine, network, ports, process};
#[cfg(target_os = "macos")]
pub(crate) use macos::{machine, process};
#[cfg(not(target_os = "linux"))]
pub(crate) use no_ports as ports;
#[cfg(not(target_os = "linux"))]
pub(crate) use polled as network;
#[cfg(unix)]
pub(crate) use unix::{files, signals};
#[cfg(windows)]
pub(crate) use windows::{files, machine, process, signals};
