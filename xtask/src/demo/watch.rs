//! Watches the running demo: how the devices are, and whether every part still runs.
//!
//! Each device's daemon is followed by a task of its own, so that what lasts for a moment only is shown, too. The tasks end
//! with the [`View`] that began them.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::agent::{Agent, Status};
use super::screen::Screen;
use super::stage::Stage;

/// How often it is looked whether every part still runs, and whether the registry agrees.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long after a daemon did not answer it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Changes that may wait for the screen. When as many do, the daemons are not listened to until there is room.
const CHANGES: usize = 64;

/// Waits until every device is healthy and the registry shows it; returns the seconds since `started`.
pub(crate) async fn until_healthy(stage: &mut Stage, screen: &mut Screen, started: Instant) -> Result<f64> {
    let mut view = View::of(stage.agents());
    let mut looks = looks();
    loop {
        tokio::select! {
            Some(change) = view.changes.recv() => view.take(change, screen, started),
            _ = looks.tick() => {}
        }
        stage.still_runs()?;
        let seconds = started.elapsed().as_secs_f64();
        if view.is_healthy() && stage.registry_doubts().await?.is_empty() {
            return Ok(seconds);
        }
    }
}

/// Shows every change, until the caller stops it or a part ends.
pub(crate) async fn show(stage: &mut Stage, screen: &mut Screen, started: Instant) -> Result<()> {
    let mut view = View::of(stage.agents());
    let mut looks = looks();
    loop {
        tokio::select! {
            Some(change) = view.changes.recv() => view.take(change, screen, started),
            _ = looks.tick() => {
                stage.still_runs()?;
                screen.check();
            }
        }
    }
}

fn looks() -> tokio::time::Interval {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// A device, by its place in the list, and how it is now.
type Change = (usize, Option<Status>);

/// What the devices said last, and what was shown of it.
#[derive(Debug)]
struct View {
    states: Vec<(String, Option<Status>)>,
    shown: String,
    changes: mpsc::Receiver<Change>,
    _followers: JoinSet<()>,
}

impl View {
    /// Begins to follow the devices.
    fn of(agents: &[Agent]) -> Self {
        let (sender, changes) = mpsc::channel(CHANGES);
        let mut followers = JoinSet::new();
        for (index, agent) in agents.iter().enumerate() {
            followers.spawn(follow(index, agent.clone(), sender.clone()));
        }
        let unheard = agents.iter().map(|agent| (agent.name().to_owned(), None));
        let states: Vec<_> = unheard.collect();
        Self {
            // That a daemon which was just started does not answer yet is no news.
            shown: describe(&states, Status::health),
            states,
            changes,
            _followers: followers,
        }
    }

    /// Shows the change, if it is one of health.
    fn take(&mut self, (index, status): Change, screen: &mut Screen, started: Instant) {
        if let Some((_, state)) = self.states.get_mut(index) {
            *state = status;
        }
        // There are few lines, and an outage needs two: what is waited for is told with a change of health, and is none by
        // itself.
        let state = describe(&self.states, Status::health);
        if state != self.shown {
            let text = describe(&self.states, Status::summary);
            screen.change(&format!("{:>5.1} s  {text}", started.elapsed().as_secs_f64()));
            self.shown = state;
        }
    }

    fn is_healthy(&self) -> bool {
        self.states
            .iter()
            .all(|(_, status)| status.as_ref().is_some_and(Status::is_healthy))
    }
}

/// Says how one device is, whenever that changes, until nobody listens.
async fn follow(index: usize, agent: Agent, changes: mpsc::Sender<Change>) {
    loop {
        if let Ok(mut watching) = agent.watch() {
            while let Some(status) = watching.next().await {
                if changes.send((index, Some(status))).await.is_err() {
                    return;
                }
            }
        }
        if changes.send((index, None)).await.is_err() {
            return;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// One device in words, several in numbers.
fn describe(states: &[(String, Option<Status>)], words: fn(&Status) -> String) -> String {
    let summary = |status: &Option<Status>| {
        status
            .as_ref()
            .map_or_else(|| "the daemon does not answer yet".to_owned(), words)
    };
    if let [(name, status)] = states {
        return format!("{name}: {}", summary(status));
    }
    let healthy = states
        .iter()
        .filter(|(_, status)| status.as_ref().is_some_and(Status::is_healthy))
        .count();
    let rest = states
        .iter()
        .find(|(_, status)| !status.as_ref().is_some_and(Status::is_healthy));
    let rest = rest
        .map(|(name, status)| format!("; {name}: {}", summary(status)))
        .unwrap_or_default();
    format!("{healthy} of {} devices healthy{rest}", states.len())
}

#[cfg(test)]
mod tests {
    use super::{Status, describe};

    #[test]
    fn many_devices_are_one_line() {
        let states = ["demo-1", "demo-2"].map(|name| (name.to_owned(), None));
        let text = describe(&states, Status::summary);
        assert_eq!(
            text,
            "0 of 2 devices healthy; demo-1: the daemon does not answer yet"
        );
        assert_eq!(
            describe(&states[..1], Status::summary),
            "demo-1: the daemon does not answer yet"
        );
    }
}
