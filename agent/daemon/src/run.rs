//! The daemon: where the core meets the world.
//!
//! ```text
//!   signals ┐                                   ┌► link       (task for each session)
//!   link    │          ┌────────────┐           ├► tunnel     (task that keeps one tunnel as desired)
//!   tunnel  ├─ inputs ─► orfe_core  ├─ commands ┼► slots      (proxy and child for each)
//!   slots   │          │   Agent    │           ├► state folder
//!   probes  ┘          └────────────┘           └► status ──► control socket
//! ```
//!
//! [`Daemon`] owns all of it. Tasks only carry: each has the daemon's `CancellationToken`, is tracked, and speaks to the core
//! through the one bounded queue of inputs. When the core says `Stopped`, or on any error, everything is cancelled
//! and waited for, for at most [`GRACE`].

mod children;
mod containers;
mod daemon;
mod doors;
mod facts;
mod logging;
mod probes;
mod slot;
mod spec;
mod tunnel;

use std::time::Duration;

pub(crate) use self::daemon::Daemon;
pub(crate) use self::logging::init as init_logging;

/// How long tasks may take to end once they are told to.
const GRACE: Duration = Duration::from_secs(5);

/// Inputs that wait for the core. It handles one in microseconds; a full queue makes the tasks wait, which for a child's output
/// means that lines are dropped where they are read, and counted there.
const INPUTS: usize = 256;
