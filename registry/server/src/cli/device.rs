//! `orfe-registry device …`

use std::io::Write;

use jiff::Timestamp;
use orfe_protocol::observed::{CheckOutcome, ObservedState};

use super::client::Client;
use super::table::{Table, age, hang, harmless};
use super::{DeviceCommand, Failure, print, print_json};
use crate::api::{ChangeTags, DeviceAnswer, DeviceList, DeviceView, Done};
use crate::fleet;

/// Width of the labels on a device's page.
const LABEL: usize = 15;

pub(super) async fn run(
    client: &Client,
    command: &DeviceCommand,
    width: Option<usize>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    match command {
        DeviceCommand::List(format) => {
            let list: DeviceList = client.get("/v1/devices").await?;
            if format.json {
                print_json(out, &list)
            } else {
                print(out, &table(&list, Timestamp::now(), width))
            }
        }
        DeviceCommand::Show { name, format } => {
            let answer: DeviceAnswer = client.get(&format!("/v1/devices/{name}")).await?;
            if format.json {
                print_json(out, &answer)
            } else {
                print(out, &page(&answer.device, Timestamp::now(), width))
            }
        }
        DeviceCommand::Tag {
            name,
            tags,
            remove,
            format,
        } => {
            if tags.is_empty() && remove.is_empty() {
                let failure = Failure::usage("no tag to set and none to take away");
                return Err(failure.hint("such as `orfe-registry device tag NAME team=ml`"));
            }
            let request = ChangeTags {
                set: super::join_code::tags(tags)?,
                remove: remove.clone(),
            };
            let answer: DeviceAnswer = client.post(&format!("/v1/devices/{name}/tags"), &request).await?;
            if format.json {
                return print_json(out, &answer);
            }
            let granted = &answer.device.granted_tags;
            let granted = if granted.is_empty() {
                "none".to_owned()
            } else {
                granted.to_string()
            };
            print(out, &format!("tags granted to {name}: {granted}\n"))
        }
        DeviceCommand::Revoke { name } => {
            let done: Done = client.post(&format!("/v1/devices/{name}/revoke"), &()).await?;
            print(out, &format!("device {} is revoked\n", done.revoked))
        }
    }
}

fn table(list: &DeviceList, now: Timestamp, width: Option<usize>) -> String {
    if list.devices.is_empty() {
        return "no devices yet; `orfe-registry join-code create` makes a code to join with\n".to_owned();
    }
    let head = [
        "NAME",
        "STATE",
        "OS/ARCH",
        "GPU",
        "PROVISIONERS",
        "HANDSHAKE",
        "SEEN",
        "TAGS",
    ];
    let mut table = Table::new(&head);
    for device in &list.devices {
        table.row([
            device.name.to_string(),
            device.state.clone(),
            system(device),
            gpu(device),
            provisioners(device),
            age(device.tunnel_handshake_at, now),
            age(device.last_seen_at, now),
            device.tags().to_string(),
        ]);
    }
    table.render(width)
}

fn page(device: &DeviceView, now: Timestamp, width: Option<usize>) -> String {
    let mut rows = vec![
        ("name", device.name.to_string()),
        ("state", device.state.clone()),
        ("id", device.id.to_string()),
        ("tags", device.tags().to_string()),
        ("system", system(device)),
        ("gpu", gpu(device)),
        ("provisioners", provisioners(device)),
        ("inner address", device.inner_address.to_string()),
        ("handshake", age(device.tunnel_handshake_at, now)),
        ("seen", age(device.last_seen_at, now)),
        ("joined", format!("{:.0}", device.created_at)),
        ("noise key", device.noise_public_key.to_string()),
        ("wireguard key", device.wireguard_public_key.to_string()),
    ];
    if let Some(at) = device.revoked_at {
        rows.push(("revoked", format!("{at:.0}")));
    }
    rows.extend(
        device
            .counters
            .iter()
            .flat_map(|counters| super::peer::counter_rows(counters)),
    );
    let mut text = String::new();
    for (label, value) in rows {
        let label = format!("{label:LABEL$}");
        hang(&mut text, &label, &harmless(&value), width);
    }
    if let Some(observed) = &device.observed {
        text.push('\n');
        text.push_str(&checks(observed, width));
    }
    text
}

fn checks(observed: &ObservedState, width: Option<usize>) -> String {
    let mut table = Table::new(&["CHECK", "OUTCOME", "REQUIRED", "MESSAGE"]);
    for check in &observed.checks {
        let outcome = match check.outcome {
            CheckOutcome::Ok => "ok",
            CheckOutcome::Pending => "pending",
            CheckOutcome::Warning => "warning",
            CheckOutcome::Failed => "failed",
            CheckOutcome::Unknown => "unknown",
        };
        let required = if check.required { "yes" } else { "no" };
        let hint = check
            .hint
            .as_ref()
            .map(|hint| format!(" (hint: {hint})"))
            .unwrap_or_default();
        table.row([
            check.code.as_str().to_owned(),
            outcome.to_owned(),
            required.to_owned(),
            format!("{}{hint}", check.message),
        ]);
    }
    table.render(width)
}

fn system(device: &DeviceView) -> String {
    device.observed.as_ref().map_or("-".to_owned(), |observed| {
        format!("{}/{}", observed.facts.os, observed.facts.arch)
    })
}

fn gpu(device: &DeviceView) -> String {
    let Some(observed) = &device.observed else {
        return "-".to_owned();
    };
    let tags: Vec<&str> = observed.facts.gpus.iter().map(|gpu| gpu.tag.as_str()).collect();
    if tags.is_empty() {
        "none".to_owned()
    } else {
        tags.join(",")
    }
}

fn provisioners(device: &DeviceView) -> String {
    let current = !matches!(device.state.as_str(), "offline" | "unknown" | "revoked");
    device
        .observed
        .as_ref()
        .and_then(|observed| fleet::provisioners(&observed.provisioners, current))
        .unwrap_or("-".to_owned())
}

#[cfg(test)]
#[path = "device/tests.rs"]
mod tests;
