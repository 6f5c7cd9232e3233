//! What each system does in its own way. All of them have the same functions and texts; the modules beside this file are the only
//! callers.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(any(test, windows))]
mod name_rule;
#[cfg(any(target_os = "macos", windows))]
mod no_bridges;
#[cfg(any(all(test, unix), target_os = "macos"))]
mod resolver;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(super) use linux::*;
#[cfg(target_os = "macos")]
pub(super) use macos::*;
#[cfg(windows)]
pub(super) use windows::*;
