//! Observations become checks, and checks become one verdict.
//!
//! A check is *required* when what is desired cannot be without it: the tunnel when one is desired, the connection and
//! terraform when provisioners are wanted, the disk always. Docker is required only when the desired state says so; the session
//! to the registry never is, because everything goes on without it.

mod terraform;

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use orfe_protocol::observed::{
    Check, CheckCode, CheckOutcome, Docker, Health, ProvisionerState, ProvisionerStatus, TunnelPhase,
    TunnelStart, TunnelStatus,
};

pub use self::terraform::{TERRAFORM_MIN, Terraform, read_terraform_version};
use crate::session::LinkState;

/// Below this much free space terraform's providers fit no more; measured in MiB.
pub const DISK_FAILED_MIB: u64 = 256;

/// Below this much free space a warning is due; measured in MiB.
pub const DISK_WARNING_MIB: u64 = 2048;

/// Everything that the checks are made of.
#[derive(Debug, Clone)]
pub struct Observations<'a> {
    pub tunnel_wanted: bool,
    pub tunnel: Option<&'a TunnelStatus>,
    /// How many provisioners are wanted.
    pub provisioners_wanted: u8,
    pub provisioners: &'a [ProvisionerStatus],
    pub terraform: &'a Terraform,
    /// Free space where the state folder is, in MiB; none when it could not be read.
    pub disk_free_mib: Option<u64>,
    pub docker_required: bool,
    pub docker: &'a Docker,
    pub link: &'a LinkState,
    /// The registry withdrew this device's right.
    pub revoked: bool,
}

/// What a check found, before it is known since when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    outcome: CheckOutcome,
    message: String,
    hint: Option<Cow<'static, str>>,
}

impl Finding {
    fn new(outcome: CheckOutcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            message: message.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(Cow::Borrowed(hint));
        self
    }
}

/// Keeps since when each outcome is what it is.
#[derive(Debug, Default)]
pub struct CheckBook {
    since: BTreeMap<CheckCode, (CheckOutcome, Timestamp)>,
}

impl CheckBook {
    /// All checks that apply, in a fixed order.
    pub fn judge(&mut self, observations: &Observations<'_>, now: Timestamp) -> Vec<Check> {
        let wanted = observations.provisioners_wanted > 0;
        let rows = [
            (
                CheckCode::Tunnel,
                observations.tunnel_wanted.then(|| tunnel(observations.tunnel)),
                true,
            ),
            (
                CheckCode::Connected,
                wanted.then(|| connected(observations)),
                true,
            ),
            (
                CheckCode::Terraform,
                wanted.then(|| terraform(observations.terraform)),
                true,
            ),
            (CheckCode::Disk, Some(disk(observations.disk_free_mib)), true),
            (
                CheckCode::Docker,
                Some(docker(observations)),
                observations.docker_required,
            ),
            (CheckCode::Registry, registry(observations), observations.revoked),
        ];
        rows.into_iter()
            .filter_map(|(code, finding, required)| {
                finding.map(|finding| self.date(code, finding, required, now))
            })
            .collect()
    }

    fn date(&mut self, code: CheckCode, finding: Finding, required: bool, now: Timestamp) -> Check {
        let entry = self.since.entry(code).or_insert((finding.outcome, now));
        if entry.0 != finding.outcome {
            *entry = (finding.outcome, now);
        }
        Check {
            code,
            outcome: finding.outcome,
            required,
            message: finding.message,
            hint: finding.hint.map(Cow::into_owned),
            since: entry.1,
        }
    }
}

/// The verdict.
#[must_use]
pub fn verdict(checks: &[Check], provisioners_wanted: u8) -> Health {
    let required = |outcome| {
        checks
            .iter()
            .any(|check| check.required && check.outcome == outcome)
    };
    if required(CheckOutcome::Failed) {
        Health::Unhealthy
    } else if provisioners_wanted == 0 {
        Health::Idle
    } else if required(CheckOutcome::Pending) {
        Health::Starting
    } else {
        Health::Healthy
    }
}

fn tunnel(status: Option<&TunnelStatus>) -> Finding {
    if status.is_some_and(|status| status.start == TunnelStart::Refused) {
        let obstacle = status.and_then(|status| status.obstacle.clone());
        // It says what there is to do, too.
        let reason = obstacle.unwrap_or_else(|| "the tunnel cannot be started".to_owned());
        return Finding::new(CheckOutcome::Failed, reason);
    }
    let obstacle = status.and_then(|status| status.obstacle.as_deref());
    let named =
        |text: &str| obstacle.map_or_else(|| text.to_owned(), |obstacle| format!("{text}: {obstacle}"));
    match status.map(|status| status.phase) {
        Some(TunnelPhase::Up) => Finding::new(CheckOutcome::Ok, named("the tunnel to the gateway is up")),
        Some(TunnelPhase::Resting) => Finding::new(
            CheckOutcome::Ok,
            named("the tunnel to the gateway rests: nothing is open in it, and its last handshake was good"),
        ),
        Some(TunnelPhase::Down) => {
            let finding = Finding::new(CheckOutcome::Failed, named("the gateway does not answer"));
            match obstacle {
                // It says what there is to do, if anything.
                Some(_) => finding,
                None => {
                    finding.hint("check that UDP to the gateway's endpoint is not blocked on this network")
                }
            }
        }
        Some(TunnelPhase::Connecting | TunnelPhase::Unknown) | None => Finding::new(
            CheckOutcome::Pending,
            named("waiting for the gateway's handshake"),
        ),
    }
}

fn connected(observations: &Observations<'_>) -> Finding {
    let wanted = usize::from(observations.provisioners_wanted);
    let up = observations
        .provisioners
        .iter()
        .filter(|slot| slot.state == ProvisionerState::Connected)
        .count();
    if up >= wanted {
        return Finding::new(
            CheckOutcome::Ok,
            format!("{up} of {wanted} provisioners connected to Coder"),
        );
    }
    let mut outcome = CheckOutcome::Pending;
    let mut message = format!("{up} of {wanted} provisioners connected to Coder");
    let mut hint = None;
    for slot in observations.provisioners {
        match slot.state {
            ProvisionerState::Rejected | ProvisionerState::Backoff | ProvisionerState::Reconnecting => {
                outcome = CheckOutcome::Failed;
            }
            // It runs and has something to complain of: a credential that Coder does not take is not on its way to work.
            ProvisionerState::Up if slot.reason.is_some() => outcome = CheckOutcome::Failed,
            _ => {}
        }
        if slot.state != ProvisionerState::Connected
            && let Some(reason) = &slot.reason
        {
            message = format!("{}: {reason}", slot.name);
            hint.clone_from(&slot.hint);
            break;
        }
    }
    Finding {
        hint: hint.map(Cow::Owned),
        ..Finding::new(outcome, message)
    }
}

fn terraform(found: &Terraform) -> Finding {
    const INSTALL: &str = "install terraform 1.1.0 or newer where the daemon's PATH finds it";
    match found {
        Terraform::Unknown => Finding::new(CheckOutcome::Pending, found.to_string()),
        Terraform::Found { .. } => Finding::new(CheckOutcome::Ok, found.to_string()),
        Terraform::Missing | Terraform::TooOld { .. } | Terraform::Broken { .. } => {
            Finding::new(CheckOutcome::Failed, found.to_string()).hint(INSTALL)
        }
    }
}

fn disk(free_mib: Option<u64>) -> Finding {
    const HINT: &str = "make room on the disk that holds the state folder";
    match free_mib {
        None => Finding::new(CheckOutcome::Warning, "the free disk space cannot be read"),
        Some(free) if free < DISK_FAILED_MIB => {
            Finding::new(CheckOutcome::Failed, format!("only {free} MiB of disk left")).hint(HINT)
        }
        Some(free) if free < DISK_WARNING_MIB => {
            Finding::new(CheckOutcome::Warning, format!("only {free} MiB of disk left")).hint(HINT)
        }
        Some(free) => Finding::new(CheckOutcome::Ok, format!("{} GiB of disk free", free / 1024)),
    }
}

fn docker(observations: &Observations<'_>) -> Finding {
    match observations.docker {
        Docker::Present { version } => Finding::new(CheckOutcome::Ok, format!("Docker {version}")),
        Docker::Absent { reason } => {
            let outcome = if observations.docker_required {
                CheckOutcome::Failed
            } else {
                CheckOutcome::Warning
            };
            Finding::new(outcome, format!("no engine: {reason}"))
                .hint("templates that make containers need a running Docker engine")
        }
        Docker::Unknown => Finding::new(CheckOutcome::Pending, "looking for a Docker engine"),
    }
}

fn registry(observations: &Observations<'_>) -> Option<Finding> {
    if observations.revoked {
        return Some(
            Finding::new(CheckOutcome::Failed, "this device was revoked in the registry")
                .hint("to put it back to work, move its state folder away and join with a new code"),
        );
    }
    match observations.link {
        LinkState::Off => None,
        LinkState::Connecting { after: None } => {
            Some(Finding::new(CheckOutcome::Pending, "connecting to the registry"))
        }
        LinkState::Connected => Some(Finding::new(CheckOutcome::Ok, "connected to the registry")),
        LinkState::Connecting { after: Some(reason) } | LinkState::Waiting { reason, .. } => Some(
            Finding::new(
                CheckOutcome::Warning,
                format!("not connected to the registry: {reason}"),
            )
            .hint("everything goes on without it; it is tried again by itself"),
        ),
    }
}

#[cfg(test)]
mod tests;
