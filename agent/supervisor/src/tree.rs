//! Which processes belong to a child, and ending them all.
//!
//! A process belongs to the tree when
//! 1. it was seen in it before (known by number and start time), or
//! 2. its parent belongs to it, or
//! 3. it is in a session that one of them is in (the agent's own session never counts), or
//! 4. nothing of that, but it carries the tree's marker variable; or it is an orphan that came to the agent as
//!    subreaper, and there is only one tree that it can be of.
//!
//! A session's number stays taken for as long as one process is in it, so rule 3 is safe only while a *known* process
//! pins the number; a bare number from long ago is never trusted. Within one [`kill`] numbers from the look before are
//! trusted, because a few milliseconds are too short for a number to come round again.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orfe_platform::process::{self, Entry, ProcessError, ProcessId, Signal};
use tokio::time::Instant;

use crate::reaper::{self, Registration};
use crate::spec::Marker;

/// Pauses between two looks at the process table while processes die: short at first, as most die at once.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How many looks in a row must find nobody. The table is read while processes start and end, so one look may
/// miss a process that was started during it.
const QUIET_LOOKS: u32 = 2;

/// Why a tree is not gone.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// Some did not die in time: they hang in the kernel, or belong to another user.
    #[error("{} of the processes are still there after {} s: {}", left.len(), limit.as_secs(), pids(left))]
    Survivors {
        /// Those that are left.
        left: Vec<ProcessId>,
        /// How long was waited.
        limit: Duration,
    },
    /// The process table could not be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

fn pids(left: &[ProcessId]) -> String {
    left.iter()
        .map(|id| id.pid.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// What is known of one tree.
#[derive(Debug)]
pub(crate) struct Tree {
    leader: ProcessId,
    marker: Option<Marker>,
    /// Everybody who was there at the last look.
    known: HashSet<ProcessId>,
    /// `None` for an orphan of an earlier life, which is not our child.
    registration: Option<Registration>,
}

impl Tree {
    pub(crate) fn new(leader: ProcessId, marker: Option<Marker>, registration: Option<Registration>) -> Self {
        Self {
            leader,
            marker,
            known: HashSet::from([leader]),
            registration,
        }
    }

    /// Looks who is there, so that they are known later, when links between them are gone.
    pub(crate) fn look(&mut self) -> Result<Vec<Entry>, ProcessError> {
        self.look_trusting(&HashSet::new())
    }

    /// To be called right after the leader's status was taken: whoever is in its session now is of this tree.
    pub(crate) fn leader_exited(&mut self) -> Result<(), ProcessError> {
        let looked = self.look_trusting(&HashSet::from([self.leader.pid]));
        if let Some(registration) = &self.registration {
            registration.leader_reaped();
        }
        looked.map(|_| ())
    }

    fn look_trusting(&mut self, sessions: &HashSet<u32>) -> Result<Vec<Entry>, ProcessError> {
        let table = process::table()?;
        // After the table was read: a child that is in it has been counted by now.
        let sole = self.registration.is_some() && reaper::is_sole_tree();
        let members = members(&table, &self.known, sessions, |entry| self.claims(entry, sole));
        self.known = members.iter().map(|entry| entry.id).collect();
        Ok(members)
    }

    /// Rule 4, for one that no link leads to.
    fn claims(&self, entry: &Entry, sole: bool) -> bool {
        // What started before the child cannot come from it; this spares most environments.
        if entry.zombie || entry.id.start_time < self.leader.start_time {
            return false;
        }
        let came_to_us = sole && entry.parent == std::process::id();
        let marked = || {
            let marker = self.marker.as_ref();
            marker.and_then(|marker| process::carries(&entry.id, &marker.name, &marker.value)) == Some(true)
        };
        came_to_us || marked()
    }

    /// Kills everybody who is there, and returns those who were alive.
    fn strike(&mut self, trusted: &mut HashSet<u32>) -> Result<Vec<ProcessId>, ProcessError> {
        let members = self.look_trusting(trusted)?;
        trusted.extend(members.iter().map(|entry| entry.session));
        let alive: Vec<ProcessId> = members
            .iter()
            .filter(|entry| !entry.zombie)
            .map(|entry| entry.id)
            .collect();
        for id in &alive {
            if let Err(error) = process::send(id, Signal::Kill) {
                // It will be among the survivors.
                tracing::debug!(pid = id.pid, error = %error, "a process cannot be killed");
            }
        }
        reaper::reap_orphans()?;
        Ok(alive)
    }
}

pub(crate) fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    // `known` is replaced whole, so a panic elsewhere does not spoil it.
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills the tree until nobody is left, for at most `limit`. Returns whether there was anybody.
pub(crate) async fn kill(tree: &Mutex<Tree>, limit: Duration) -> Result<bool, KillError> {
    let deadline = Instant::now() + limit;
    let mut trusted = HashSet::new();
    let mut pause = FIRST_PAUSE;
    let mut quiet = 0;
    let mut any = false;
    loop {
        // Reading the table blocks for some milliseconds; killing is rare enough for that.
        let left = lock(tree).strike(&mut trusted)?;
        if left.is_empty() {
            quiet += 1;
            if quiet == QUIET_LOOKS {
                return Ok(any);
            }
        } else {
            (quiet, any) = (0, true);
            if Instant::now() >= deadline {
                return Err(KillError::Survivors { left, limit });
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// All that belong to the tree, by the rules at the top of this file.
fn members(
    table: &[Entry],
    known: &HashSet<ProcessId>,
    trusted: &HashSet<u32>,
    claims: impl Fn(&Entry) -> bool,
) -> Vec<Entry> {
    let own = std::process::id();
    let own_session = table
        .iter()
        .find(|entry| entry.id.pid == own)
        .map_or(0, |entry| entry.session);
    // 0 is the session of kernel threads, and of everybody on Windows.
    let is_foreign = |session: u32| session != 0 && session != own_session;

    let (mut ours, mut others): (Vec<Entry>, Vec<Entry>) = table
        .iter()
        .filter(|entry| entry.id.pid > 1 && entry.id.pid != own)
        .partition(|entry| known.contains(&entry.id));
    let (claimed, rest): (Vec<Entry>, Vec<Entry>) = others
        .into_iter()
        .partition(|entry| is_foreign(entry.session) && claims(entry));
    ours.extend(claimed);
    others = rest;

    let mut numbers: HashSet<u32> = ours.iter().map(|entry| entry.id.pid).collect();
    let mut sessions: HashSet<u32> = trusted
        .iter()
        .copied()
        .filter(|session| is_foreign(*session))
        .collect();
    sessions.extend(
        ours.iter()
            .map(|entry| entry.session)
            .filter(|session| is_foreign(*session)),
    );
    loop {
        let (linked, rest): (Vec<Entry>, Vec<Entry>) = others
            .into_iter()
            .partition(|entry| numbers.contains(&entry.parent) || sessions.contains(&entry.session));
        if linked.is_empty() {
            return ours;
        }
        numbers.extend(linked.iter().map(|entry| entry.id.pid));
        sessions.extend(
            linked
                .iter()
                .map(|entry| entry.session)
                .filter(|session| is_foreign(*session)),
        );
        ours.extend(linked);
        others = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_SESSION: u32 = 3;

    #[test]
    fn descendants_and_sessions_are_followed() {
        let table = [
            own(),
            entry(100, 4, 100),   // the leader
            entry(101, 100, 100), // its child
            entry(102, 101, 102), // made a session of its own
            entry(103, 1, 102),   // its parent is gone, the session is left
            entry(104, 103, 104), // child of that one, in yet another session
            entry(200, 1, 200),   // a stranger
            entry(201, 4, OWN_SESSION),
        ];
        let found = found(&table, &[100], &[]);
        assert_eq!(found, [100, 101, 102, 103, 104]);
    }

    #[test]
    fn number_that_came_round_is_not_ours() {
        let mut reused = entry(100, 1, 100);
        reused.id.start_time += 1;
        let table = [own(), reused, entry(101, 100, 100)];
        assert!(found(&table, &[100], &[]).is_empty());
    }

    #[test]
    fn session_outlives_its_leader_while_a_known_one_is_in_it() {
        let table = [own(), entry(101, 1, 100), entry(102, 101, 100)];
        assert_eq!(found(&table, &[101], &[]), [101, 102]);
        assert!(
            found(&table, &[100], &[]).is_empty(),
            "a bare number is not trusted"
        );
        assert_eq!(found(&table, &[], &[100]), [101, 102], "but for a moment");
    }

    #[test]
    fn agent_and_its_session_are_never_ours() {
        // A child that is still in our session, between fork and setsid.
        let table = [
            own(),
            entry(100, std::process::id(), OWN_SESSION),
            entry(101, 1, OWN_SESSION),
        ];
        assert_eq!(found(&table, &[100], &[OWN_SESSION]), [100]);
        let claimed = members(&table, &HashSet::new(), &HashSet::new(), |_| true);
        assert!(claimed.is_empty(), "{claimed:?}");
    }

    #[test]
    fn claimed_one_brings_its_children() {
        let table = [
            own(),
            entry(300, 1, 300),
            entry(301, 300, 300),
            entry(400, 1, 400),
        ];
        let claimed = members(&table, &HashSet::new(), &HashSet::new(), |entry| {
            entry.id.pid == 300
        });
        assert_eq!(numbers(&claimed), [300, 301]);
    }

    #[test]
    fn orphan_that_came_to_us_is_claimed_by_the_only_tree() {
        let tree = Tree::new(
            ProcessId {
                pid: 100,
                start_time: 7,
            },
            None,
            None,
        );
        let orphan = entry(300, std::process::id(), 300);
        assert!(tree.claims(&orphan, true));
        assert!(!tree.claims(&orphan, false), "it may be of another tree");
        assert!(!tree.claims(&entry(300, 1, 300), true), "it did not come to us");
        let older = Entry {
            id: ProcessId {
                pid: 300,
                start_time: 6,
            },
            ..orphan
        };
        assert!(!tree.claims(&older, true), "it was there before the child");
    }

    fn own() -> Entry {
        entry(std::process::id(), 1, OWN_SESSION)
    }

    fn entry(pid: u32, parent: u32, session: u32) -> Entry {
        Entry {
            id: ProcessId { pid, start_time: 7 },
            parent,
            group: session,
            session,
            zombie: false,
        }
    }

    fn found(table: &[Entry], known: &[u32], trusted: &[u32]) -> Vec<u32> {
        let known = known
            .iter()
            .map(|pid| ProcessId {
                pid: *pid,
                start_time: 7,
            })
            .collect();
        let trusted = trusted.iter().copied().collect();
        numbers(&members(table, &known, &trusted, |_| false))
    }

    fn numbers(entries: &[Entry]) -> Vec<u32> {
        let mut numbers: Vec<u32> = entries.iter().map(|entry| entry.id.pid).collect();
        numbers.sort_unstable();
        numbers
    }
}
