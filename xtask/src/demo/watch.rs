//! Watches the running demo: how the devices are, and whether every part still runs.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::agent::Status;
use super::screen::Screen;
use super::stage::Stage;

/// How often the devices are asked while they come up.
const WHILE_RISING: Duration = Duration::from_millis(100);
/// How often they are asked once they are healthy.
const WHEN_HEALTHY: Duration = Duration::from_secs(1);

/// Waits until every device is healthy and the registry shows it; returns the seconds since `started`.
pub(crate) async fn until_healthy(stage: &mut Stage, screen: &mut Screen, started: Instant) -> Result<f64> {
    let mut view = View::default();
    loop {
        stage.still_runs()?;
        let healthy = view.look(stage, screen, started).await;
        let seconds = started.elapsed().as_secs_f64();
        if healthy && registry_agrees(stage).await? {
            return Ok(seconds);
        }
        tokio::time::sleep(WHILE_RISING).await;
    }
}

/// Shows every change, until the caller stops it or a part ends.
pub(crate) async fn show(stage: &mut Stage, screen: &mut Screen, started: Instant) -> Result<()> {
    let mut view = View::default();
    loop {
        stage.still_runs()?;
        let healthy = view.look(stage, screen, started).await;
        screen.check();
        tokio::time::sleep(if healthy { WHEN_HEALTHY } else { WHILE_RISING }).await;
    }
}

/// What was shown last.
#[derive(Debug, Default)]
struct View {
    shown: String,
}

impl View {
    /// Asks every device, shows what changed, and says whether all are healthy.
    async fn look(&mut self, stage: &Stage, screen: &mut Screen, started: Instant) -> bool {
        let mut states = Vec::new();
        for agent in stage.agents() {
            states.push((agent.name(), agent.status().await));
        }
        let healthy = states
            .iter()
            .all(|(_, status)| status.as_ref().is_some_and(Status::is_healthy));
        let text = describe(&states);
        if text != self.shown {
            screen.change(&format!("{:>5.1} s  {text}", started.elapsed().as_secs_f64()));
            self.shown = text;
        }
        healthy
    }
}

/// One device in words, several in numbers.
fn describe(states: &[(&str, Option<Status>)]) -> String {
    let summary = |status: &Option<Status>| {
        status
            .as_ref()
            .map_or_else(|| "the daemon does not answer yet".to_owned(), Status::summary)
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

/// Whether the registry lists every device as healthy too.
async fn registry_agrees(stage: &Stage) -> Result<bool> {
    Ok(stage.registry_doubts().await?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn many_devices_are_one_line() {
        let states = [("demo-1", None), ("demo-2", None)];
        let text = describe(&states);
        assert_eq!(
            text,
            "0 of 2 devices healthy; demo-1: the daemon does not answer yet"
        );
        assert_eq!(describe(&states[..1]), "demo-1: the daemon does not answer yet");
    }
}
