//! What is known of a device beside its checks, line by line.

use jiff::Timestamp;
use orfe_protocol::observed::{Docker, ProvisionerStatus, TunnelStatus};

use crate::dashboard::view::text::{Moment, clean, memory};
use crate::fleet::DeviceRow;

/// One line of what else is known.
#[derive(Debug)]
pub(crate) struct Detail {
    pub(crate) label: &'static str,
    pub(crate) text: String,
}

pub(super) fn of(row: &DeviceRow, now: Timestamp) -> Vec<Detail> {
    let mut details = Vec::new();
    let mut add = |label, text: String| details.push(Detail { label, text });
    if let Some(observed) = row.observed.as_deref() {
        let facts = &observed.facts;
        for (label, fact) in [
            ("System", &facts.os_version),
            ("Chassis", &facts.chassis),
            ("Host name", &facts.hostname),
        ] {
            let fact = clean(fact);
            if !fact.is_empty() {
                add(label, fact);
            }
        }
        add(
            "Hardware",
            format!(
                "{}, {} cores, {}",
                clean(&facts.cpu_model),
                facts.cpu_cores,
                memory(facts.memory_mib)
            ),
        );
        add("Docker", docker(&facts.docker));
        for slot in &observed.provisioners {
            add("Provisioner", provisioner(slot, now));
        }
        add(
            "Tunnel",
            observed.tunnel.as_ref().map_or_else(|| "off".to_owned(), tunnel),
        );
        let started = Moment::new(observed.started_at, now).age;
        add(
            "Agent",
            format!("{}, started {started}", clean(&observed.agent_version)),
        );
    }
    if let Some(since) = row.session_since {
        add("Session", format!("since {}", Moment::new(since, now).absolute));
    }
    add("Enrolled", Moment::new(row.created_at, now).absolute);
    add("Id", row.id.to_string());
    details
}

fn docker(docker: &Docker) -> String {
    match docker {
        Docker::Present { version } => clean(version),
        Docker::Absent { reason } => format!("none: {}", clean(reason)),
        Docker::Unknown => "unknown".to_owned(),
    }
}

/// `laptop-0: backoff for 3 min, restarted 2 times; terraform is missing`.
fn provisioner(slot: &ProvisionerStatus, now: Timestamp) -> String {
    let lasted = Moment::new(slot.since, now).lasted;
    let mut text = format!("{}: {} for {lasted}", clean(&slot.name), slot.state.as_str());
    match slot.restarts {
        0 => {}
        1 => text.push_str(", restarted once"),
        number => text = format!("{text}, restarted {number} times"),
    }
    if let Some(reason) = &slot.reason {
        text = format!("{text}; {}", clean(reason));
    }
    text
}

/// `up, 100.64.0.2, to 203.0.113.7:51820, smoltcp`.
fn tunnel(tunnel: &TunnelStatus) -> String {
    let addresses = tunnel.addresses.iter().map(ToString::to_string);
    let endpoint = tunnel.endpoint.map(|endpoint| format!("to {endpoint}"));
    let parts: Vec<String> = std::iter::once(tunnel.phase.as_str().to_owned())
        .chain(addresses)
        .chain(endpoint)
        .chain([clean(&tunnel.tcp_stack)])
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use orfe_protocol::observed::ProvisionerState;

    use super::*;

    #[test]
    fn a_slot_tells_its_story() {
        let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(90);
        let mut told = ProvisionerStatus {
            slot: 0,
            name: "a-0".into(),
            state: ProvisionerState::Backoff,
            since: Timestamp::UNIX_EPOCH,
            pid: None,
            restarts: 0,
            reason: None,
            hint: None,
        };
        assert_eq!(provisioner(&told, now), "a-0: backoff for 1 min");
        told.restarts = 1;
        assert_eq!(provisioner(&told, now), "a-0: backoff for 1 min, restarted once");
        told.restarts = 3;
        told.reason = Some("exit 1".into());
        assert_eq!(
            provisioner(&told, now),
            "a-0: backoff for 1 min, restarted 3 times; exit 1"
        );
    }
}
