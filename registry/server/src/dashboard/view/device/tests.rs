use orfe_protocol::observed::{CheckCode, ProvisionerState};

use super::*;

#[test]
fn gpus_are_named_and_counted() {
    let gpu = |vendor: &str, model: &str| Gpu {
        vendor: vendor.into(),
        model: model.into(),
        tag: "tag".into(),
        evidence: String::new(),
    };
    for (given, expected) in [
        (vec![], Cell::quiet("none")),
        (
            vec![gpu("NVIDIA", "GeForce RTX 4090")],
            Cell::of("NVIDIA GeForce RTX 4090"),
        ),
        (
            vec![gpu("NVIDIA", "nvidia A100"), gpu("NVIDIA", "nvidia A100")],
            Cell::of("2 × nvidia A100"),
        ),
        (
            vec![gpu("", "Arc"), gpu("AMD", ""), gpu("", "")],
            Cell::of("Arc, AMD, tag"),
        ),
    ] {
        assert_eq!(gpus(&given), expected);
    }
}

#[test]
fn provisioners_are_counted_and_the_first_that_is_not_connected_is_named() {
    use ProvisionerState::{Backoff, Connected, Draining};
    for (states, current, expected) in [
        (&[][..], true, Cell::quiet("none")),
        (&[Connected][..], true, Cell::of("1/1 connected")),
        (
            &[Connected, Backoff, Draining][..],
            true,
            Cell::of("1/3 connected, backoff"),
        ),
        (&[Connected][..], false, Cell::quiet("was 1/1 connected")),
    ] {
        let slots: Vec<ProvisionerStatus> = states.iter().map(|state| slot(*state)).collect();
        assert_eq!(provisioners(&slots, current), expected);
    }
}

#[test]
fn the_worst_check_speaks_for_the_device() {
    use CheckCode::{Connected, Disk, Docker, Terraform};
    let failed = || check(Terraform, CheckOutcome::Failed, true);
    let pending = || check(Connected, CheckOutcome::Pending, true);
    let warning = || check(Docker, CheckOutcome::Warning, false);
    let fine = || check(Disk, CheckOutcome::Ok, true);
    for (checks, tone, text) in [
        (vec![], Tone::Good, "No checks"),
        (vec![fine()], Tone::Good, "The one check passes"),
        (vec![fine(), fine()], Tone::Good, "All 2 checks pass"),
        (vec![fine(), warning()], Tone::Warning, "docker: as docker says"),
        (
            vec![warning(), pending()],
            Tone::Progress,
            "connected: as connected says",
        ),
        (
            vec![warning(), pending(), failed()],
            Tone::Bad,
            "terraform: as terraform says",
        ),
        (
            vec![failed(), failed(), failed()],
            Tone::Bad,
            "terraform: as terraform says (and 2 more)",
        ),
    ] {
        assert_eq!(
            verdict(&observed(checks)),
            Summary {
                tone,
                text: text.into()
            }
        );
    }
}

#[test]
fn what_was_granted_lies_over_what_was_detected() {
    let tags = |list: &[&str]| list.iter().map(|tag| tag.parse().unwrap()).collect::<Tags>();
    let chips = tag_chips(
        Some(&tags(&["gpu=none", "owner=mallory"])),
        &tags(&["owner=alice"]),
    );
    let chips: Vec<_> = chips
        .iter()
        .map(|chip| (chip.text.as_str(), chip.granted))
        .collect();
    assert_eq!(chips, [("gpu=none", false), ("owner=alice", true)]);
}

fn slot(state: ProvisionerState) -> ProvisionerStatus {
    ProvisionerStatus {
        slot: 0,
        name: "a-0".into(),
        state,
        since: Timestamp::UNIX_EPOCH,
        pid: None,
        restarts: 0,
        reason: None,
        hint: None,
    }
}

fn check(code: CheckCode, outcome: CheckOutcome, required: bool) -> Check {
    let message = format!("as {} says", code.as_str());
    Check {
        code,
        outcome,
        required,
        message,
        hint: None,
        since: Timestamp::UNIX_EPOCH,
    }
}

fn observed(checks: Vec<Check>) -> ObservedState {
    let mut observed = crate::dashboard::tests::example_fleet::observed();
    observed.checks = checks;
    observed
}
