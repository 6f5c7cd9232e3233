//! The JSON object of `--check`.

use std::time::Duration;

use serde_json::{Value, json};

use super::agent::Agent;
use super::screen::Screen;
use super::stage::Stage;

/// The answer of `--check`.
#[derive(Debug)]
pub(crate) struct Report {
    pub healthy: bool,
    pub document: Value,
}

/// A part failed before there was an answer.
pub(crate) fn failed(error: &anyhow::Error) -> Value {
    json!({"healthy": false, "missing": [format!("{error:#}")], "device": null})
}

/// Everything is healthy, `seconds` after the first device began to join; also said on the screen, where the changes that led
/// to it may have had no room.
pub(crate) async fn healthy(stage: &Stage, screen: &mut Screen, seconds: f64) -> Report {
    let devices = documents(stage.agents()).await;
    screen.line(&healthy_after(devices.len(), seconds));
    let mut report = json!({
        "healthy": true,
        "seconds_to_healthy": (seconds * 1000.0).round() / 1000.0,
        "device": devices.first().cloned().unwrap_or(Value::Null),
    });
    if devices.len() > 1 {
        report["devices"] = Value::Array(devices);
    }
    Report {
        healthy: true,
        document: report,
    }
}

fn healthy_after(devices: usize, seconds: f64) -> String {
    let who = match devices {
        1 => "the device is healthy".to_owned(),
        devices => format!("all {devices} devices are healthy"),
    };
    format!("{who} and the registry shows it, after {seconds:.1} s")
}

/// It took longer than `limit`: what is still missing, also said on the screen.
pub(crate) async fn missing(stage: &Stage, screen: &mut Screen, limit: Duration) -> Report {
    let missing = still_missing(stage).await;
    screen.line(&format!(
        "not healthy after {} s; still missing:",
        limit.as_secs()
    ));
    screen.list(&missing);
    let devices = documents(stage.agents()).await;
    let document = json!({
        "healthy": false,
        "missing": missing,
        "device": devices.into_iter().next().unwrap_or(Value::Null),
    });
    Report {
        healthy: false,
        document,
    }
}

async fn documents(agents: &[Agent]) -> Vec<Value> {
    let mut documents = Vec::new();
    for agent in agents {
        documents.push(agent.status().await.map_or(Value::Null, |status| status.whole));
    }
    documents
}

async fn still_missing(stage: &Stage) -> Vec<String> {
    let mut missing = Vec::new();
    if stage.agents().is_empty() {
        missing.push(format!("the demo was still {}", stage.doing()));
    }
    for agent in stage.agents() {
        match agent.status().await {
            None => missing.push(format!("{}: the daemon does not answer", agent.name())),
            Some(status) => {
                missing.extend(
                    status
                        .missing()
                        .into_iter()
                        .map(|line| format!("{}: {line}", agent.name())),
                );
            }
        }
    }
    match stage.registry_doubts().await {
        Ok(doubts) => missing.extend(doubts),
        Err(error) => missing.push(format!("registry: {error:#}")),
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::healthy_after;

    #[test]
    fn the_end_is_said_for_one_device_and_for_many() {
        assert_eq!(
            healthy_after(1, 2.04),
            "the device is healthy and the registry shows it, after 2.0 s"
        );
        assert_eq!(
            healthy_after(3, 12.0),
            "all 3 devices are healthy and the registry shows it, after 12.0 s"
        );
    }
}
