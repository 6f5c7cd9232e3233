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
fn a_tunnel_that_cannot_be_started_says_why_and_does_not_blame_the_gateway() {
    let reason = "the tunnel cannot be started: no namespace (allow it)";
    let refused = TunnelStatus {
        phase: TunnelPhase::Down,
        obstacle: Some(reason.to_owned()),
        start: TunnelStart::Refused,
        ..up()
    };
    let unanswered = TunnelStatus {
        start: TunnelStart::Granted,
        ..refused.clone()
    };
    let (health, checks) = judge(|o| o.tunnel = Some(refused));
    assert_eq!(health, Health::Unhealthy);
    assert_eq!(checks[0].message, reason);
    let (_, checks) = judge(|o| o.tunnel = Some(unanswered));
    assert_eq!(
        checks[0].message,
        format!("the gateway does not answer: {reason}")
    );
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
    let again = LinkState::Connecting {
        after: Some("refused".into()),
    };
    let (health, checks) = judge(|o| o.link = again);
    assert_eq!(health, Health::Healthy);
    let registry = checks
        .iter()
        .find(|check| check.code.as_str() == "registry")
        .unwrap();
    assert_eq!(registry.message, "not connected to the registry: refused");
}

#[test]
fn a_provisioner_that_never_connected_and_complains_is_not_on_its_way() {
    let complaining = slot(
        ProvisionerState::Up,
        Some("Coder does not accept the credential (401)"),
    );
    let (health, checks) = judge(|o| o.provisioners = vec![complaining]);
    assert_eq!(health, Health::Unhealthy);
    let connected = checks
        .iter()
        .find(|check| check.outcome == CheckOutcome::Failed)
        .unwrap();
    assert!(connected.message.contains("(401)"), "{}", connected.message);
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
