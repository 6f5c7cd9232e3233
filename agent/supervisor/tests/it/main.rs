//! Supervision with real processes: shells, and trees of them that behave like terraform, or worse.
//!
//! Linux only: the scripts use `setsid(1)` and `/proc`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod capture;
mod ending;
mod orphans;
mod subreaper;
mod support;
