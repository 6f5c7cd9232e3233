//! One child process and everything that comes out of it: spawn, capture, drain, kill, adopt.
//!
//! # Theory of operation
//!
//! [`Child::spawn`] starts a program with exactly the given environment, in a session of its own, with an empty stdin, and a
//! task that reads its output. The handle gives [`Event`]s: lines in the order they were read, how many lines
//! were dropped because nobody took them, and at last one [`Event::Exited`]. Nothing here says what a line means: that
//! is the agent core's.
//!
//! ```text
//!            ┌─ stdout ─┐                          ┌─► log file (0600, two files of a fixed size)
//!   child ───┤          ├─► lines ─► redaction ────┤
//!            └─ stderr ─┘                          └─► queue (bounded, drops the oldest) ─► Child::next_event
//! ```
//!
//! **Ending.** [`ChildHandle::drain`] is a SIGTERM to the child's own process and to no other: `coder provisionerd` then
//! finishes its job, and terraform, which runs in the same process group, must not be told. [`ChildHandle::interrupt`] is SIGINT,
//! which cancels the job. [`ChildHandle::kill_tree`] ends everything: the child, its descendants, what shares
//! a session with them, and what left all of that behind but carries the marker variable, until none
//! is left or the limit is over.
//!
//! **Lives of the agent.** On Unix the child is not ended by the agent's death, since terraform may be in the middle of an apply. Who
//! starts one keeps its [`ProcessId`](orfe_platform::process::ProcessId), the
//! [`boot_id`](orfe_platform::process::boot_id) and the marker on disk; the next life gives them to
//! [`adopt_or_end`], which drains the orphan, or kills what is left of its tree.
//!
//! **Escaped processes.** A process that makes its own session and whose parent dies has no link left to the tree. Two
//! things find it on Linux: the *marker*, a variable of the child's environment whose value nothing else has (its `TMPDIR`), and
//! [`become_subreaper`], which makes such processes children of the agent instead of init's. Elsewhere they are lost
//! unless they were seen before their parent died.
//!
//! **Windows** has no signal that means "finish your job", so `drain` and `interrupt` are errors there: wait until the child is
//! idle, then kill the tree, which is found by parents alone.
//!
//! What can fail: the program is not there, the log's disk is full (the child goes on, and lines are
//! missing from the file), processes that do not die within the limit (in uninterruptible sleep).

mod child;
mod imp;
mod log_file;
mod orphan;
mod reaper;
mod redact;
mod spec;
mod tree;

pub use child::{Child, ChildHandle, Event, ExitStatus, Line, SpawnError, Stream};
pub use log_file::{LogFile, LogSpec};
pub use orphan::{Orphan, OrphanEnd, OrphanError, adopt_or_end};
pub use reaper::{Reaper, SubreaperError, become_subreaper};
pub use redact::{REDACTED, Redactor};
pub use spec::{EnvValue, Marker, Spec};
pub use tree::KillError;
