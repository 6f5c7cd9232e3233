//! Observations become checks, and checks become one verdict.
//!
//! A check is *required* when what is desired cannot be without it: the tunnel when one is desired, the connection and
//! terraform when provisioners are wanted, the disk always. Docker is required only when the desired state says so; the session
//! to the registry never is, because everything goes on without it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use orfe_protocol::observed::{
    Check, CheckCode, CheckOutcome, Docker, Health, ProvisionerState, ProvisionerStatus, TunnelPhase,
    TunnelStatus,
};

use crate::session::LinkState;

/// Below this much free space terraform's providers fit no more; measured in MiB.
pub const DISK_FAILED_MIB: u64 = 256;

/// Below this much free space a warning is due; measured in MiB.
pub const DISK_WARNING_MIB: u64 = 2048;

/// Oldest terraform that `coder provisionerd` takes.
pub const TERRAFORM_MIN: (u64, u64, u64) = (1, 1, 0);

/// What was found when terraform was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Terraform {
    /// Not looked for yet.
    #[default]
    Unknown,
    Found {
        version: String,
    },
    Missing,
    TooOld {
        version: String,
    },
    /// It is there and does not answer; the text says how.
    Broken {
        reason: String,
    },
}

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
        if matches!(
            slot.state,
            ProvisionerState::Rejected | ProvisionerState::Backoff | ProvisionerState::Reconnecting
        ) {
            outcome = CheckOutcome::Failed;
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
        Terraform::Unknown => Finding::new(CheckOutcome::Pending, "looking for terraform"),
        Terraform::Found { version } => Finding::new(CheckOutcome::Ok, format!("terraform {version}")),
        Terraform::Missing => {
            Finding::new(CheckOutcome::Failed, "terraform is not on the PATH").hint(INSTALL)
        }
        Terraform::TooOld { version } => Finding::new(
            CheckOutcome::Failed,
            format!("terraform {version} is too old for Coder"),
        )
        .hint(INSTALL),
        Terraform::Broken { reason } => {
            Finding::new(CheckOutcome::Failed, format!("terraform does not work: {reason}")).hint(INSTALL)
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
        LinkState::Connecting => Some(Finding::new(CheckOutcome::Pending, "connecting to the registry")),
        LinkState::Connected => Some(Finding::new(CheckOutcome::Ok, "connected to the registry")),
        LinkState::Waiting { reason, .. } => Some(
            Finding::new(
                CheckOutcome::Warning,
                format!("not connected to the registry: {reason}"),
            )
            .hint("everything goes on without it; it is tried again by itself"),
        ),
    }
}

/// Reads what `terraform version -json` printed.
#[must_use]
pub fn read_terraform_version(stdout: &str) -> Terraform {
    #[derive(serde::Deserialize)]
    struct Answer {
        terraform_version: String,
    }
    let Ok(Answer {
        terraform_version: version,
    }) = serde_json::from_str(stdout)
    else {
        return Terraform::Broken {
            reason: "`terraform version -json` prints no version".to_owned(),
        };
    };
    match parse_version(&version) {
        Some(parsed) if parsed >= TERRAFORM_MIN => Terraform::Found { version },
        Some(_) => Terraform::TooOld { version },
        None => Terraform::Broken {
            reason: format!("version `{version}` is not of the form 1.2.3"),
        },
    }
}

fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(str::parse);
    let version = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn slot(state: ProvisionerState, reason: Option<&str>) -> ProvisionerStatus {
        ProvisionerStatus {
            slot: 0,
            name: "box-0".into(),
            state,
            since: Timestamp::UNIX_EPOCH,
            pid: None,
            restarts: 0,
            reason: reason.map(str::to_owned),
            hint: None,
        }
    }

    fn up() -> TunnelStatus {
        TunnelStatus::new(TunnelPhase::Up, Timestamp::UNIX_EPOCH, "smoltcp")
    }

    /// A device on which everything is well but Docker; tests change one thing.
    struct World {
        tunnel_wanted: bool,
        tunnel: Option<TunnelStatus>,
        wanted: u8,
        provisioners: Vec<ProvisionerStatus>,
        terraform: Terraform,
        disk_free_mib: Option<u64>,
        docker_required: bool,
        link: LinkState,
    }

    fn judge(change: impl FnOnce(&mut World)) -> (Health, Vec<Check>) {
        let mut world = World {
            tunnel_wanted: true,
            tunnel: Some(up()),
            wanted: 1,
            provisioners: vec![slot(ProvisionerState::Connected, None)],
            terraform: Terraform::Found {
                version: "1.11.4".into(),
            },
            disk_free_mib: Some(50_000),
            docker_required: false,
            link: LinkState::Connected,
        };
        change(&mut world);
        let observations = Observations {
            tunnel_wanted: world.tunnel_wanted,
            tunnel: world.tunnel.as_ref(),
            provisioners_wanted: world.wanted,
            provisioners: &world.provisioners,
            terraform: &world.terraform,
            disk_free_mib: world.disk_free_mib,
            docker_required: world.docker_required,
            docker: &Docker::Absent {
                reason: "not installed".into(),
            },
            link: &world.link,
            revoked: false,
        };
        let checks = CheckBook::default().judge(&observations, Timestamp::UNIX_EPOCH);
        (verdict(&checks, world.wanted), checks)
    }

    #[test]
    fn all_required_checks_make_it_healthy_and_docker_is_a_warning() {
        let (health, checks) = judge(|_| {});
        assert_eq!(health, Health::Healthy);
        let codes: Vec<&str> = checks.iter().map(|check| check.code.as_str()).collect();
        assert_eq!(
            codes,
            ["tunnel", "connected", "terraform", "disk", "docker", "registry"]
        );
        assert_eq!(checks[4].outcome, CheckOutcome::Warning);
    }

    #[test]
    fn each_required_check_can_fail_it() {
        let down = TunnelStatus {
            phase: TunnelPhase::Down,
            ..up()
        };
        let backoff = slot(ProvisionerState::Backoff, Some("exit code 1"));
        assert_eq!(judge(|o| o.tunnel = Some(down)).0, Health::Unhealthy);
        assert_eq!(judge(|o| o.provisioners = vec![backoff]).0, Health::Unhealthy);
        assert_eq!(judge(|o| o.terraform = Terraform::Missing).0, Health::Unhealthy);
        assert_eq!(judge(|o| o.disk_free_mib = Some(10)).0, Health::Unhealthy);
        assert_eq!(judge(|o| o.docker_required = true).0, Health::Unhealthy);
    }

    #[test]
    fn a_tunnel_that_rests_is_well() {
        let resting = TunnelStatus {
            phase: TunnelPhase::Resting,
            ..up()
        };
        let (health, checks) = judge(|o| o.tunnel = Some(resting));
        assert_eq!(health, Health::Healthy);
        assert_eq!(checks[0].outcome, CheckOutcome::Ok);
    }

    #[test]
    fn what_is_on_its_way_is_starting_and_the_registry_never_matters() {
        let waiting = slot(ProvisionerState::Up, None);
        assert_eq!(judge(|o| o.tunnel = None).0, Health::Starting);
        assert_eq!(judge(|o| o.provisioners = vec![waiting]).0, Health::Starting);
        let lost = LinkState::Waiting {
            reason: "refused".into(),
            until: Instant::now(),
        };
        assert_eq!(judge(|o| o.link = lost).0, Health::Healthy);
    }

    #[test]
    fn nothing_wanted_is_idle_and_asks_for_less() {
        let (health, checks) = judge(|o| (o.wanted, o.tunnel_wanted) = (0, false));
        assert_eq!(health, Health::Idle);
        assert!(checks.iter().all(|check| check.code != CheckCode::Terraform));
    }

    #[test]
    fn an_outcome_keeps_its_date_until_it_changes() {
        let (terraform, link) = (Terraform::Missing, LinkState::Off);
        let docker = Docker::Unknown;
        let mut observations = Observations {
            tunnel_wanted: false,
            tunnel: None,
            provisioners_wanted: 1,
            provisioners: &[],
            terraform: &terraform,
            disk_free_mib: Some(50_000),
            docker_required: false,
            docker: &docker,
            link: &link,
            revoked: false,
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut book = CheckBook::default();
        book.judge(&observations, at(1));
        let since = |checks: Vec<Check>| {
            checks
                .iter()
                .find(|c| c.code == CheckCode::Terraform)
                .unwrap()
                .since
        };
        assert_eq!(since(book.judge(&observations, at(2))), at(1));
        let found = Terraform::Found {
            version: "1.2.3".into(),
        };
        observations.terraform = &found;
        assert_eq!(since(book.judge(&observations, at(3))), at(3));
    }

    #[test]
    fn terraform_versions() {
        let json = |version: &str| format!(r#"{{"terraform_version":"{version}","platform":"linux_amd64"}}"#);
        assert_eq!(
            read_terraform_version(&json("1.11.4")),
            Terraform::Found {
                version: "1.11.4".into()
            }
        );
        assert_eq!(
            read_terraform_version(&json("1.13.0-rc1")),
            Terraform::Found {
                version: "1.13.0-rc1".into()
            }
        );
        assert_eq!(
            read_terraform_version(&json("1.0.11")),
            Terraform::TooOld {
                version: "1.0.11".into()
            }
        );
        assert!(matches!(
            read_terraform_version(&json("1.x")),
            Terraform::Broken { .. }
        ));
        assert!(matches!(
            read_terraform_version("Terraform v1.2.3"),
            Terraform::Broken { .. }
        ));
    }
}
