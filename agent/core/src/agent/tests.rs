use orfe_protocol::desired::Credential;
use orfe_protocol::id::{BootId, DeviceId};
use orfe_protocol::message::Welcome;
use orfe_protocol::observed::{CheckCode, CheckOutcome, Health, ProvisionerState};
use rand::SeedableRng;

use super::observation::unknown_facts;
use super::*;
use crate::child::Sign;
use crate::session::Closed;
use crate::slot::Exit;

struct Bench {
    agent: Agent,
    now: Now,
    commands: Vec<Command>,
}

impl Bench {
    fn new(desired: Option<DesiredState>) -> Self {
        Self::with_tunnel_off(desired, false)
    }

    fn with_tunnel_off(desired: Option<DesiredState>, tunnel_off: bool) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: Timestamp::UNIX_EPOCH,
        };
        let start = Start {
            enrolled: true,
            name: "box".parse().unwrap(),
            boot: BootId::generate(),
            agent_version: "0.1.0".into(),
            desired,
            drain_timeout: Duration::from_secs(600),
            tunnel_off,
            rng: StdRng::seed_from_u64(5),
        };
        Self {
            agent: Agent::new(start, now),
            now,
            commands: Vec::new(),
        }
    }

    /// An agent that has everything a child needs, and whose child was just asked for.
    fn ready() -> Self {
        let mut bench = Self::new(Some(desired(1)));
        bench.input(Input::Facts(Box::new(Facts {
            os: "linux".into(),
            ..unknown_facts()
        })));
        bench.input(Input::Terraform(Terraform::Found {
            version: "1.11.4".into(),
        }));
        bench.input(Input::Tunnel(Some(Box::new(tunnel(TunnelPhase::Up)))));
        bench
    }

    fn connected() -> Self {
        let mut bench = Self::ready();
        bench.input(Input::ChildSpawned { slot: 0, pid: 7 });
        bench.input(Input::ChildSign {
            slot: 0,
            sign: Sign::Started,
        });
        bench.input(Input::Connections { slot: 0, open: 1 });
        bench.input(Input::ChildSign {
            slot: 0,
            sign: Sign::Connected,
        });
        bench.take();
        bench
    }

    fn link(&mut self) {
        while !self.take().contains(&Command::Connect) {
            let (at, _) = self.agent.poll_timeout().unwrap();
            self.now.instant = self.now.instant.max(at);
            self.agent.handle_timeout(self.now);
        }
        self.input(Input::LinkConnected);
        self.hear(FromRegistry::Welcome(Welcome {
            device: DeviceId::generate(),
            name: "box".parse().unwrap(),
            session_epoch: 1,
            heartbeat_ms: 15_000,
            server_time: Timestamp::UNIX_EPOCH,
        }));
    }

    fn input(&mut self, input: Input) {
        self.agent.handle(input, self.now);
    }

    fn hear(&mut self, message: FromRegistry) {
        self.input(Input::LinkMessage(Box::new(message)));
    }

    fn take(&mut self) -> Vec<Command> {
        self.commands
            .extend(std::iter::from_fn(|| self.agent.poll_command()));
        std::mem::take(&mut self.commands)
    }

    fn health(&self) -> Health {
        self.agent.observed().health
    }

    fn reports(&mut self) -> Vec<ObservedState> {
        let reports = self.take().into_iter().filter_map(|command| match command {
            Command::Send(FromAgent::Observed(observed)) => Some(*observed),
            _ => None,
        });
        reports.collect()
    }
}

fn desired(revision: u64) -> DesiredState {
    let json = serde_json::json!({
        "epoch": 1, "revision": revision, "device": "box", "tags": {"owner": "alice", "location": "home"},
        "coder": {"url": "https://coder.demo.internal", "credential": {"psk": "s3cret"}},
        "tunnel": {
            "addresses": ["100.64.0.1"],
            "gateway": {
                "public_key": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
                "endpoints": ["127.0.0.1:51820"],
                "instance": "01990f3e-5d2c-7b1a-9c1e-0a1b2c3d4e5f",
            },
            "names": {"coder.demo.internal": {"address": "100.127.0.1", "ports": [443]}},
        },
    });
    serde_json::from_value(json).unwrap()
}

fn tunnel(phase: TunnelPhase) -> TunnelStatus {
    TunnelStatus::new(phase, Timestamp::UNIX_EPOCH, "smoltcp")
}

fn spawns(commands: &[Command]) -> Vec<&ChildPlan> {
    let plans = commands.iter().filter_map(|command| match command {
        Command::Spawn(plan) => Some(&**plan),
        _ => None,
    });
    plans.collect()
}

#[test]
fn the_desired_state_on_disk_is_made_true_without_the_registry() {
    let mut bench = Bench::ready();
    let commands = bench.take();
    assert!(
        matches!(commands[0], Command::ApplyTunnel(Some(_))),
        "{commands:?}"
    );
    let [plan] = spawns(&commands)[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(
        (plan.name.as_str(), plan.tags.to_string().as_str()),
        ("box-0", "gpu=none,location=home,os=linux")
    );
    bench.input(Input::ChildSign {
        slot: 0,
        sign: Sign::Started,
    });
    bench.input(Input::Connections { slot: 0, open: 1 });
    bench.input(Input::ChildSign {
        slot: 0,
        sign: Sign::Connected,
    });
    assert_eq!(bench.health(), Health::Healthy);
}

#[test]
fn a_tunnel_that_the_owner_ruled_out_is_not_waited_for() {
    let mut bench = Bench::with_tunnel_off(Some(desired(1)), true);
    bench.input(Input::Facts(Box::new(Facts {
        os: "linux".into(),
        ..unknown_facts()
    })));
    bench.input(Input::Terraform(Terraform::Found {
        version: "1.11.4".into(),
    }));
    let commands = bench.take();
    assert!(matches!(commands[0], Command::ApplyTunnel(None)), "{commands:?}");
    assert_eq!(spawns(&commands).len(), 1, "{commands:?}");
}

#[test]
fn nothing_starts_before_its_prerequisites() {
    let mut bench = Bench::new(Some(desired(1)));
    let states = |bench: &mut Bench| {
        let commands = bench.take();
        assert!(spawns(&commands).is_empty(), "{commands:?}");
        let slot = bench.agent.observed().provisioners[0].clone();
        assert_eq!(slot.state, ProvisionerState::Blocked);
        slot.reason.unwrap()
    };
    assert_eq!(states(&mut bench), "detecting hardware");
    bench.input(Input::Facts(Box::new(unknown_facts())));
    assert_eq!(states(&mut bench), "looking for terraform");
    bench.input(Input::Terraform(Terraform::Missing));
    assert_eq!(states(&mut bench), "terraform is not on the PATH");
    assert_eq!(bench.health(), Health::Unhealthy);
    bench.input(Input::Terraform(Terraform::Found {
        version: "1.11.4".into(),
    }));
    assert_eq!(states(&mut bench), "waiting for the tunnel");
    bench.input(Input::DiskFree(Some(1)));
    assert_eq!(states(&mut bench), "the disk is full");
}

#[test]
fn a_lost_tunnel_makes_it_unhealthy_and_leaves_the_child_alone() {
    let mut bench = Bench::connected();
    bench.input(Input::Tunnel(Some(Box::new(tunnel(TunnelPhase::Down)))));
    assert_eq!(bench.health(), Health::Unhealthy);
    assert!(
        bench
            .take()
            .iter()
            .all(|command| !matches!(command, Command::Drain { .. } | Command::Kill { .. }))
    );
}

#[test]
fn changes_are_reported_at_once_and_only_once() {
    let mut bench = Bench::connected();
    bench.link();
    assert_eq!(bench.reports().len(), 1);
    bench.input(Input::Tunnel(Some(Box::new(tunnel(TunnelPhase::Up)))));
    assert_eq!(bench.reports().len(), 0);
    bench.input(Input::ChildSign {
        slot: 0,
        sign: Sign::Disconnected,
    });
    let [report] = &bench.reports()[..] else {
        panic!("not one report")
    };
    assert_eq!(report.health, Health::Unhealthy);
    let check = report
        .checks
        .iter()
        .find(|check| check.code == CheckCode::Connected)
        .unwrap();
    assert_eq!(check.outcome, CheckOutcome::Failed);
}

#[test]
fn a_new_session_is_told_everything_again() {
    let mut bench = Bench::connected();
    bench.link();
    bench.reports();
    bench.input(Input::LinkClosed(Closed::Lost("reset".into())));
    bench.link();
    assert_eq!(bench.reports().len(), 1);
}

#[test]
fn a_changed_credential_replaces_the_child_and_a_changed_detail_does_not() {
    let mut bench = Bench::connected();
    bench.link();
    bench.hear(FromRegistry::Desired(Box::new(desired(2))));
    let commands = bench.take();
    assert!(
        commands
            .iter()
            .any(|command| matches!(command, Command::StoreDesired(_)))
    );
    assert!(!commands.contains(&Command::Drain { slot: 0 }), "{commands:?}");

    let mut rotated = desired(3);
    if let Some(coder) = &mut rotated.coder {
        coder.credential = Credential::Psk(orfe_protocol::secret::Secret::new("n3w".into()));
    }
    bench.hear(FromRegistry::Desired(Box::new(rotated.clone())));
    assert!(bench.take().contains(&Command::Drain { slot: 0 }));
    bench.input(Input::ChildExited {
        slot: 0,
        exit: Exit {
            code: Some(0),
            signal: None,
        },
    });
    let commands = bench.take();
    assert_eq!(spawns(&commands)[0].coder, rotated.coder.unwrap());
}

#[test]
fn a_provisioner_key_brings_its_own_tags() {
    let mut desired = desired(1);
    if let Some(coder) = &mut desired.coder {
        coder.credential = Credential::Key(orfe_protocol::secret::Secret::new("k".into()));
    }
    let bench = Bench::new(Some(desired));
    assert!(bench.agent.plan(0).unwrap().tags.is_empty());
}

#[test]
fn slots_come_and_go_with_the_desired_state() {
    let mut bench = Bench::connected();
    bench.link();
    let mut three = desired(2);
    three.slots = 3;
    bench.hear(FromRegistry::Desired(Box::new(three)));
    let commands = bench.take();
    assert_eq!(
        spawns(&commands)
            .iter()
            .map(|plan| plan.name.as_str())
            .collect::<Vec<_>>(),
        ["box-1", "box-2"]
    );
    let mut none = desired(3);
    none.coder = None;
    bench.hear(FromRegistry::Desired(Box::new(none)));
    let commands = bench.take();
    for slot in 0..3 {
        assert!(commands.contains(&Command::Drain { slot }), "{commands:?}");
        bench.input(Input::ChildExited {
            slot,
            exit: Exit {
                code: Some(0),
                signal: None,
            },
        });
    }
    assert!(bench.agent.observed().provisioners.is_empty());
    assert_eq!(bench.health(), Health::Idle);
}

#[test]
fn stopping_drains_then_says_goodbye() {
    let mut bench = Bench::connected();
    bench.link();
    bench.take();
    bench.input(Input::Stop);
    let commands = bench.take();
    assert!(commands.contains(&Command::Drain { slot: 0 }) && !commands.contains(&Command::Stopped));
    bench.input(Input::StopNow);
    assert!(bench.take().contains(&Command::Kill { slot: 0 }));
    bench.input(Input::ChildExited {
        slot: 0,
        exit: Exit {
            code: None,
            signal: Some(9),
        },
    });
    let commands = bench.take();
    assert!(
        commands
            .iter()
            .any(|command| matches!(command, Command::Send(FromAgent::Goodbye(_))))
    );
    assert_eq!(commands.last(), Some(&Command::Stopped));
    assert!(spawns(&commands).is_empty());
}

#[test]
fn after_a_path_change_everything_is_cut_and_tried_at_once() {
    let mut bench = Bench::connected();
    bench.link();
    bench.input(Input::LinkClosed(Closed::Lost("reset".into())));
    bench.take();
    bench.input(Input::PathChanged);
    assert!(bench.take().contains(&Command::Cut { slot: 0 }));
    assert_eq!(bench.agent.poll_timeout().unwrap().0, bench.now.instant);
}

#[test]
fn an_orphan_finishes_before_anything_starts_in_its_slot() {
    let mut bench = Bench::new(Some(desired(1)));
    bench.input(Input::OrphanLeft { slot: 0 });
    bench.input(Input::Facts(Box::new(unknown_facts())));
    bench.input(Input::Terraform(Terraform::Found {
        version: "1.11.4".into(),
    }));
    bench.input(Input::Tunnel(Some(Box::new(tunnel(TunnelPhase::Up)))));
    assert!(spawns(&bench.take()).is_empty());
    assert_eq!(
        bench.agent.observed().provisioners[0].reason.as_deref(),
        Some(ORPHAN)
    );
    bench.input(Input::OrphanGone { slot: 0 });
    assert_eq!(spawns(&bench.take()).len(), 1);
}

#[test]
fn stopping_waits_for_an_orphan_too() {
    let mut bench = Bench::new(None);
    bench.input(Input::OrphanLeft { slot: 0 });
    bench.input(Input::Stop);
    assert!(!bench.take().contains(&Command::Stopped));
    let waits_for = &bench.agent.observed().provisioners[0];
    assert_eq!(
        (waits_for.state, waits_for.reason.as_deref()),
        (ProvisionerState::Draining, Some(ORPHAN))
    );
    bench.input(Input::StopNow);
    assert!(bench.take().contains(&Command::KillOrphans));
    bench.input(Input::OrphanGone { slot: 0 });
    assert!(bench.take().contains(&Command::Stopped));

    let mut bench = Bench::new(None);
    bench.input(Input::OrphanStays { slot: 0 });
    bench.input(Input::Stop);
    assert!(
        bench.take().contains(&Command::Stopped),
        "nobody waits for what never ends"
    );
}

#[test]
fn a_revoked_device_forgets_its_credential_and_stops_working() {
    let mut bench = Bench::connected();
    bench.link();
    bench.take();
    bench.hear(FromRegistry::Refused(orfe_protocol::message::Refused {
        reason: orfe_protocol::message::RefusedReason::DeviceRevoked,
        message: "revoked".into(),
    }));
    let commands = bench.take();
    for command in [
        Command::ForgetDesired,
        Command::ApplyTunnel(None),
        Command::Drain { slot: 0 },
    ] {
        assert!(
            commands.contains(&command),
            "{command:?} is missing in {commands:?}"
        );
    }
    assert_eq!(bench.health(), Health::Unhealthy);
    bench.input(Input::ChildExited {
        slot: 0,
        exit: Exit {
            code: Some(0),
            signal: None,
        },
    });
    assert!(spawns(&bench.take()).is_empty());
}

#[test]
fn a_secret_is_in_no_debug_output() {
    let mut bench = Bench::ready();
    let commands = bench.take();
    let shown = format!("{:?} {commands:?}", bench.agent);
    assert!(!shown.contains("s3cret"), "{shown}");
}
