//! One device of the list.

mod details;

use jiff::Timestamp;
use orfe_protocol::observed::{Check, CheckOutcome, Facts, Gpu, ObservedState, ProvisionerStatus};
use orfe_protocol::tag::Tags;

use self::details::Detail;
use super::text::{Moment, clean};
use super::{Badge, Tone};
use crate::fleet::{self, DeviceRow, Link};

/// A device as its two rows say it: one of cells, one that opens.
#[derive(Debug)]
pub(crate) struct Device {
    /// Unique in the page and the same in every list, so that a replaced list keeps focus and opened rows.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: Badge,
    /// Whether what the device says of itself is of now, and not of its last session.
    pub(crate) current: bool,
    pub(crate) tags: Vec<TagChip>,
    pub(crate) system: Cell,
    pub(crate) gpu: Cell,
    pub(crate) provisioners: Cell,
    pub(crate) handshake: When,
    pub(crate) last_seen: When,
    /// The one line that says whether something needs a person.
    pub(crate) summary: Summary,
    pub(crate) checks: Vec<CheckLine>,
    pub(crate) details: Vec<Detail>,
}

/// A tag, and who says so.
#[derive(Debug)]
pub(crate) struct TagChip {
    pub(crate) text: String,
    /// Given by the registry, not merely detected by the device.
    pub(crate) granted: bool,
}

/// A value; a quiet one says that there is nothing to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) quiet: bool,
}

/// A moment, or the word for there being none.
#[derive(Debug)]
pub(crate) struct When {
    pub(crate) at: Option<Moment>,
    pub(crate) otherwise: &'static str,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

/// One check, opened.
#[derive(Debug)]
pub(crate) struct CheckLine {
    pub(crate) code: &'static str,
    pub(crate) outcome: Badge,
    pub(crate) required: bool,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) since: Moment,
}

impl Device {
    pub(super) fn new(row: &DeviceRow, now: Timestamp) -> Self {
        let current = row.link == Link::Online;
        let observed = row.observed.as_deref();
        let facts = observed.map(|observed| &observed.facts);
        let tunnel_off = observed.is_some_and(|observed| observed.tunnel.is_none());
        Self {
            id: format!("device-{}", row.id),
            name: row.name.to_string(),
            state: Badge::of_state(row.state()),
            current,
            tags: tag_chips(observed.map(|observed| &observed.tags), &row.granted_tags),
            system: facts.map_or_else(Cell::unknown, system),
            gpu: facts.map_or_else(Cell::unknown, |facts| gpus(&facts.gpus)),
            provisioners: observed
                .map_or_else(Cell::unknown, |seen| provisioners(&seen.provisioners, current)),
            handshake: When::new(
                row.tunnel_handshake_at,
                now,
                if tunnel_off { "no tunnel" } else { "never" },
            ),
            last_seen: When::new(row.last_seen_at, now, "never"),
            summary: summary(row),
            checks: observed
                .map(|observed| checks(&observed.checks, now))
                .unwrap_or_default(),
            details: details::of(row, now),
        }
    }
}

impl Cell {
    fn of(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            quiet: false,
        }
    }

    fn quiet(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            quiet: true,
        }
    }

    /// Nothing was reported yet.
    fn unknown() -> Self {
        Self::quiet("unknown")
    }
}

impl When {
    fn new(at: Option<Timestamp>, now: Timestamp, otherwise: &'static str) -> Self {
        Self {
            at: at.map(|at| Moment::new(at, now)),
            otherwise,
        }
    }
}

/// What is in force: the device's tags, and over them those that it was given.
fn tag_chips(detected: Option<&Tags>, granted: &Tags) -> Vec<TagChip> {
    let all = detected.map_or_else(|| granted.clone(), |detected| detected.overlaid(granted));
    all.iter()
        .map(|(key, value)| TagChip {
            text: format!("{key}={value}"),
            granted: granted.get(key).is_some(),
        })
        .collect()
}

fn system(facts: &Facts) -> Cell {
    Cell::of(clean(&format!("{}/{}", facts.os, facts.arch)))
}

/// `NVIDIA RTX 4090`, `2 × NVIDIA A100`, `none`.
fn gpus(gpus: &[Gpu]) -> Cell {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for gpu in gpus {
        let name = gpu_name(gpu);
        match counted.iter_mut().find(|(known, _)| *known == name) {
            Some((_, number)) => *number += 1,
            None => counted.push((name, 1)),
        }
    }
    if counted.is_empty() {
        return Cell::quiet("none");
    }
    let names: Vec<String> = counted
        .into_iter()
        .map(|(name, number)| {
            if number == 1 {
                name
            } else {
                format!("{number} × {name}")
            }
        })
        .collect();
    Cell::of(names.join(", "))
}

/// The model, with its vendor in front unless it begins with it.
fn gpu_name(gpu: &Gpu) -> String {
    let (vendor, model) = (clean(&gpu.vendor), clean(&gpu.model));
    match (vendor.as_str(), model.as_str()) {
        (_, "") => {
            if vendor.is_empty() {
                clean(&gpu.tag)
            } else {
                vendor
            }
        }
        ("", _) => model,
        _ if model.to_lowercase().starts_with(&vendor.to_lowercase()) => model,
        _ => format!("{vendor} {model}"),
    }
}

/// How many are connected; of a device that is away, how many were.
fn provisioners(slots: &[ProvisionerStatus], current: bool) -> Cell {
    match fleet::provisioners(slots, current) {
        Some(text) if current => Cell::of(text),
        Some(text) => Cell::quiet(text),
        None => Cell::quiet("none"),
    }
}

fn summary(row: &DeviceRow) -> Summary {
    let quiet = |text: &str| Summary {
        tone: Tone::Away,
        text: text.to_owned(),
    };
    match (row.link, row.observed.as_deref()) {
        (Link::Revoked, _) => quiet("Revoked: it may not come back"),
        (Link::NeverSeen, _) => quiet("Enrolled; waits for “orfe run” on the device"),
        (Link::Unknown, _) => quiet("The registry has just started and waits for the device to come back"),
        (Link::Offline, None) => quiet("Went offline before it reported anything"),
        (Link::Offline, Some(_)) => quiet("Last report before it went offline"),
        (Link::Online, None) => quiet("Connected; nothing reported yet"),
        (Link::Online, Some(observed)) => verdict(observed),
    }
}

/// The check that matters most, and how many more there are like it.
fn verdict(observed: &ObservedState) -> Summary {
    let checks = &observed.checks;
    let of = |wanted: fn(&Check) -> bool| {
        checks
            .iter()
            .filter(move |check| wanted(check))
            .collect::<Vec<_>>()
    };
    let groups: [(Tone, Vec<&Check>); 3] = [
        (
            Tone::Bad,
            of(|check| check.required && check.outcome == CheckOutcome::Failed),
        ),
        (
            Tone::Progress,
            of(|check| check.required && !matches!(check.outcome, CheckOutcome::Ok | CheckOutcome::Failed)),
        ),
        (
            Tone::Warning,
            of(|check| !check.required && check.outcome != CheckOutcome::Ok),
        ),
    ];
    for (tone, group) in groups {
        if let Some((first, rest)) = group.split_first() {
            let more = if rest.is_empty() {
                String::new()
            } else {
                format!(" (and {} more)", rest.len())
            };
            return Summary {
                tone,
                text: format!("{}: {}{more}", first.code.as_str(), clean(&first.message)),
            };
        }
    }
    let text = match checks.len() {
        0 => "No checks".to_owned(),
        1 => "The one check passes".to_owned(),
        number => format!("All {number} checks pass"),
    };
    Summary {
        tone: Tone::Good,
        text,
    }
}

/// The checks, those that need a person first.
fn checks(checks: &[Check], now: Timestamp) -> Vec<CheckLine> {
    let mut lines: Vec<(u8, CheckLine)> = checks
        .iter()
        .map(|check| {
            let (rank, word, tone) = match check.outcome {
                CheckOutcome::Failed => (0, "failed", Tone::Bad),
                CheckOutcome::Warning => (1, "warning", Tone::Warning),
                CheckOutcome::Pending => (2, "pending", Tone::Progress),
                CheckOutcome::Unknown => (3, "unknown", Tone::Unknown),
                CheckOutcome::Ok => (4, "ok", Tone::Good),
            };
            let line = CheckLine {
                code: check.code.as_str(),
                outcome: Badge { word, tone },
                required: check.required,
                message: clean(&check.message),
                hint: check.hint.as_deref().map(clean),
                since: Moment::new(check.since, now),
            };
            (rank, line)
        })
        .collect();
    lines.sort_by_key(|(rank, _)| *rank);
    lines.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests;
