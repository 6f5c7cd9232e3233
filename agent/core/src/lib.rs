//! The decisions of the agent, sans-IO.
//!
//! [`Agent`](agent::Agent) is the whole: inputs go in with the time at which they happened, commands come out, and the
//! shell (`agent/daemon`) carries them out. Nothing here reads a clock, opens a socket, spawns a process or
//! touches a file, so every rule can be tested at any speed and in any order.
//!
//! ```text
//!            Input ──► Agent ──► Command
//!                       │ ├─ Session    the link to the registry: connect, greet, beat, back off
//!                       │ ├─ Slot ×N    one supervised child each: start, watch, replace, drain
//!                       │ ├─ tags       facts and grants become tags
//!                       │ └─ health     observations become checks, checks become one verdict
//!                       └► ObservedState
//! ```

pub mod agent;

pub mod backoff;
pub mod child;
pub mod health;
pub mod session;
pub mod slot;
pub mod tags;
pub mod time;
