//! Who our children are, and taking notice of the ones that we did not start.
//!
//! As a subreaper (Linux), the agent becomes the parent of processes that escaped from a child's tree. It must wait
//! for them when they end, or they stay in the process table for ever. But it must not wait for a child that it
//! started itself: the exit status would be taken from whoever is waiting for it. So [`reap_orphans`] takes only zombies that
//! are outside of the agent's own session and are no child of [`Child::spawn`](crate::Child::spawn): every supervised
//! child is in a session of its own, and nothing below it can come back into ours.
//!
//! Children and the subreaper's role belong to the whole process, hence the one static here. Spawning holds its lock, so
//! that no reaper and no search sees a child that is not listed yet.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orfe_platform::process::{self, ProcessError};
use tokio_util::sync::CancellationToken;

use crate::imp;

/// A tree that falls apart makes many deaths at once; one sweep for all of them is enough.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

static SUPERVISED: Mutex<Supervised> = Mutex::new(Supervised {
    leaders: BTreeSet::new(),
    trees: 0,
    subreaper: false,
});

#[derive(Debug)]
struct Supervised {
    /// The numbers of supervised children that nobody has waited for yet.
    leaders: BTreeSet<u32>,
    /// How many trees are looked after: from the spawn until the last handle is gone.
    trees: usize,
    subreaper: bool,
}

fn supervised() -> MutexGuard<'static, Supervised> {
    // The fields are valid after each statement, so a panic elsewhere does not spoil them.
    SUPERVISED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tree's place in the list.
#[derive(Debug)]
pub(crate) struct Registration {
    leader: u32,
}

impl Registration {
    /// The leader's status was taken: its number may be given to another process from now on.
    pub(crate) fn leader_reaped(&self) {
        supervised().leaders.remove(&self.leader);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut supervised = supervised();
        supervised.leaders.remove(&self.leader);
        supervised.trees -= 1;
    }
}

/// Starts a child and lists it in one step.
pub(crate) fn spawn_registered(
    spawn: impl FnOnce() -> io::Result<tokio::process::Child>,
) -> io::Result<(tokio::process::Child, u32, Registration)> {
    let mut supervised = supervised();
    let child = spawn()?;
    let leader = child
        .id()
        .ok_or_else(|| io::Error::other("the child has no number"))?;
    supervised.leaders.insert(leader);
    supervised.trees += 1;
    Ok((child, leader, Registration { leader }))
}

/// Whether an orphan that came to us can only be of the one tree that there is.
pub(crate) fn is_sole_tree() -> bool {
    let supervised = supervised();
    supervised.subreaper && supervised.trees == 1
}

/// Takes notice of ended orphans, and says how many there were.
pub(crate) fn reap_orphans() -> Result<usize, ProcessError> {
    // Held to the end: a child that is being started is not in the list before the lock is free again.
    let supervised = supervised();
    let table = process::table()?;
    let own = std::process::id();
    let session = table
        .iter()
        .find(|entry| entry.id.pid == own)
        .map(|entry| entry.session);
    let mut reaped = 0;
    for entry in table {
        let orphan = entry.zombie && entry.parent == own && Some(entry.session) != session;
        if orphan && !supervised.leaders.contains(&entry.id.pid) && process::reap(entry.id.pid)? {
            reaped += 1;
        }
    }
    Ok(reaped)
}

/// Why the agent did not become the reaper of orphans.
#[derive(Debug, thiserror::Error)]
pub enum SubreaperError {
    /// The system refused.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Deaths of children cannot be watched.
    #[error("cannot watch for children that end")]
    Watch(#[source] io::Error),
}

/// Makes the agent the parent of orphans below it (Linux), and gives the task that waits for them.
///
/// Everything else that the agent starts has to stay in the agent's own session (no `setsid`), or the
/// reaper would take its exit status. On other systems nothing changes, and the task does nothing.
/// Needs a tokio runtime.
pub fn become_subreaper() -> Result<Reaper, SubreaperError> {
    let deaths = imp::Deaths::new().map_err(SubreaperError::Watch)?;
    supervised().subreaper = process::become_subreaper()?;
    Ok(Reaper { deaths })
}

/// Takes notice of orphans as they end. To be run by whoever called [`become_subreaper`].
#[derive(Debug)]
pub struct Reaper {
    deaths: imp::Deaths,
}

impl Reaper {
    /// Runs until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        loop {
            if let Err(error) = reap_orphans() {
                tracing::warn!(error = %error, "orphans that ended are not cleaned up");
            }
            let next = async {
                tokio::time::sleep(SWEEP_PAUSE).await;
                self.deaths.recv().await;
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = next => {}
            }
        }
    }
}
