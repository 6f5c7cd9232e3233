use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::child::DialFailureKind;

struct Bench {
    slot: Slot,
    now: Now,
    rng: StdRng,
}

impl Bench {
    fn new() -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: Timestamp::UNIX_EPOCH,
        };
        let slot = Slot::new(0, "box-0".into(), Duration::from_secs(600), now);
        Self {
            slot,
            now,
            rng: StdRng::seed_from_u64(3),
        }
    }

    fn connected() -> Self {
        let mut bench = Self::new();
        bench.slot.want(None, bench.now);
        bench.slot.handle_spawned(42);
        bench.say(Sign::Started);
        bench.slot.handle_connections(1, bench.now);
        bench.say(Sign::Connected);
        assert_eq!(bench.shown(), ProvisionerState::Connected);
        bench.commands();
        bench
    }

    fn say(&mut self, sign: Sign) {
        self.slot.handle_sign(sign, self.now);
    }

    fn exit(&mut self, code: i32) {
        let exit = Exit {
            code: Some(code),
            signal: None,
        };
        self.slot.handle_exited(&exit, &mut self.rng, self.now);
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        while let Some((at, _)) = self.slot.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now.instant = self.now.instant.max(at);
            self.slot.handle_timeout(self.now);
        }
        self.now.instant = end;
    }

    fn commands(&mut self) -> Vec<SlotCommand> {
        std::iter::from_fn(|| self.slot.poll_command()).collect()
    }

    fn shown(&self) -> ProvisionerState {
        self.slot.status().state
    }

    fn reason(&self) -> String {
        self.slot.status().reason.unwrap_or_default()
    }
}

fn refused() -> Sign {
    Sign::DialFailed(DialFailure {
        kind: DialFailureKind::Unauthorized,
        text: "401".into(),
    })
}

#[test]
fn a_new_child_is_not_told_why_the_last_one_ended() {
    let mut bench = Bench::connected();
    bench.exit(1);
    assert!(bench.reason().contains("exit"), "{}", bench.reason());
    bench.pass(Duration::from_secs(10));
    assert_eq!(
        (bench.shown(), bench.reason().as_str()),
        (ProvisionerState::Starting, "")
    );
}

#[test]
fn it_waits_for_its_prerequisites_and_says_for_which() {
    let mut bench = Bench::new();
    bench.slot.want(Some("terraform is missing".into()), bench.now);
    assert_eq!(
        (bench.shown(), bench.reason()),
        (ProvisionerState::Blocked, "terraform is missing".into())
    );
    assert_eq!(bench.commands(), []);
    bench.slot.want(None, bench.now);
    assert_eq!(bench.commands(), [SlotCommand::Spawn]);
    assert_eq!(bench.shown(), ProvisionerState::Starting);
}

#[test]
fn connected_needs_the_line_and_the_connection() {
    let mut bench = Bench::new();
    bench.slot.want(None, bench.now);
    bench.say(Sign::Started);
    bench.slot.handle_connections(1, bench.now);
    assert_eq!(bench.shown(), ProvisionerState::Up);
    bench.say(Sign::Connected);
    assert_eq!(bench.shown(), ProvisionerState::Connected);
    bench.slot.handle_connections(0, bench.now);
    bench.pass(UNSEEN);
    assert_eq!(bench.shown(), ProvisionerState::Reconnecting);
    assert!(bench.reason().contains("no connection"), "{}", bench.reason());
}

#[test]
fn a_connection_seen_again_in_time_is_forgiven() {
    let mut bench = Bench::connected();
    bench.slot.handle_connections(0, bench.now);
    bench.pass(UNSEEN / 2);
    bench.slot.handle_connections(1, bench.now);
    bench.pass(UNSEEN * 2);
    assert_eq!(bench.shown(), ProvisionerState::Connected);
}

#[test]
fn a_silent_child_is_cut_first_and_then_replaced_within_the_target() {
    let mut bench = Bench::connected();
    bench.say(Sign::Disconnected);
    bench.pass(WEDGED);
    assert_eq!(bench.commands(), [SlotCommand::Cut]);
    bench.pass(WEDGED);
    assert_eq!(bench.commands(), [SlotCommand::Drain]);
    bench.pass(ENDING);
    assert_eq!(bench.commands(), [SlotCommand::Kill]);
    bench.exit(0);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.commands(), [SlotCommand::Spawn]);
    assert!(WEDGED * 2 + ENDING + Duration::from_secs(1) <= Duration::from_secs(90));
}

#[test]
fn a_frozen_child_is_replaced_within_the_target() {
    let mut bench = Bench::connected();
    bench.slot.handle_moved(bench.now.instant);
    for _ in 0..20 {
        bench.pass(Duration::from_secs(30));
        assert_eq!(
            (bench.commands(), bench.shown()),
            (vec![], ProvisionerState::Connected)
        );
        bench.slot.handle_moved(bench.now.instant);
    }
    let frozen = bench.now.instant;
    bench.pass(STALLED);
    assert_eq!(bench.commands(), [SlotCommand::Cut]);
    bench.pass(WEDGED);
    assert_eq!(bench.commands(), [SlotCommand::Drain]);
    bench.pass(ENDING);
    assert_eq!(bench.commands(), [SlotCommand::Kill]);
    assert!(bench.now.instant.duration_since(frozen) <= Duration::from_secs(75));
}

#[test]
fn a_stalled_connection_that_the_child_dials_anew_is_enough() {
    let mut bench = Bench::connected();
    bench.slot.handle_moved(bench.now.instant);
    bench.pass(STALLED);
    assert_eq!(bench.commands(), [SlotCommand::Cut]);
    bench.say(Sign::Disconnected);
    bench.say(Sign::Connected);
    bench.pass(WEDGED * 3);
    assert_eq!(
        (bench.commands(), bench.shown()),
        (vec![], ProvisionerState::Connected)
    );
}

#[test]
fn a_child_that_complains_is_left_to_dial() {
    let mut bench = Bench::connected();
    bench.say(Sign::Disconnected);
    for _ in 0..100 {
        bench.pass(Duration::from_secs(10));
        bench.say(refused());
    }
    assert_eq!(bench.commands(), []);
    assert_eq!(bench.shown(), ProvisionerState::Reconnecting);
    assert!(
        bench.reason().contains("does not accept the credential"),
        "{}",
        bench.reason()
    );
}

#[test]
fn a_rejected_child_is_ended_and_comes_back_much_later() {
    let mut bench = Bench::new();
    bench.slot.want(None, bench.now);
    bench.say(Sign::Started);
    bench.commands();
    bench.say(Sign::Rejected {
        text: "no licence".into(),
    });
    assert_eq!(bench.commands(), [SlotCommand::Drain]);
    assert_eq!(bench.shown(), ProvisionerState::Rejected);
    bench.exit(0);
    assert_eq!(bench.shown(), ProvisionerState::Rejected);
    assert!(bench.reason().contains("no licence"));
    bench.pass(REJECTED.saturating_sub(Duration::from_secs(1)));
    assert_eq!(bench.commands(), []);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.commands(), [SlotCommand::Spawn]);
    assert_eq!(bench.shown(), ProvisionerState::Starting);
}

#[test]
fn a_crash_is_restarted_with_growing_delay_and_its_last_words_kept() {
    let mut bench = Bench::new();
    bench.slot.want(None, bench.now);
    bench.say(Sign::Fatal {
        text: "install terraform: no such host".into(),
    });
    bench.exit(1);
    assert_eq!(bench.shown(), ProvisionerState::Backoff);
    assert_eq!(
        bench.reason(),
        "the provisioner ended with exit code 1: install terraform: no such host"
    );
    assert_eq!(bench.slot.status().restarts, 1);
    for _ in 0..20 {
        let (restart, why) = bench.slot.poll_timeout().unwrap();
        assert_eq!(why, "start the provisioner again");
        bench.commands();
        bench.pass(restart.saturating_duration_since(bench.now.instant));
        assert_eq!(bench.commands(), [SlotCommand::Spawn]);
        bench.exit(1);
    }
    assert_eq!(bench.slot.backoff.ceiling(), Duration::from_secs(300));
}

#[test]
fn stopping_drains_and_only_the_deadline_kills() {
    let mut bench = Bench::connected();
    bench.slot.unwant(bench.now);
    assert_eq!(bench.commands(), [SlotCommand::Drain]);
    bench.pass(Duration::from_secs(599));
    assert_eq!(
        (bench.commands(), bench.shown()),
        (vec![], ProvisionerState::Draining)
    );
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.commands(), [SlotCommand::Kill]);
    bench.exit(0);
    assert!(bench.slot.is_at_rest());
    assert_eq!(bench.slot.status().restarts, 0);
}

#[test]
fn a_changed_child_is_drained_and_started_anew_at_once() {
    let mut bench = Bench::connected();
    bench.slot.replace(bench.now);
    assert_eq!(bench.commands(), [SlotCommand::Drain]);
    bench.exit(0);
    assert_eq!(bench.commands(), [SlotCommand::Spawn]);
    assert_eq!(bench.slot.status().restarts, 0);
}

#[test]
fn a_child_wanted_again_while_it_drains_comes_back() {
    let mut bench = Bench::connected();
    bench.slot.unwant(bench.now);
    bench.slot.want(None, bench.now);
    bench.exit(0);
    assert_eq!(bench.commands(), [SlotCommand::Drain, SlotCommand::Spawn]);
}

#[test]
fn a_program_that_cannot_be_started_is_tried_again() {
    let mut bench = Bench::new();
    bench.slot.want(None, bench.now);
    bench
        .slot
        .handle_spawn_failed("`coder` is not on the PATH".into(), &mut bench.rng, bench.now);
    assert_eq!(
        (bench.shown(), bench.reason()),
        (ProvisionerState::Backoff, "`coder` is not on the PATH".into())
    );
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.commands(), [SlotCommand::Spawn, SlotCommand::Spawn]);
}

#[derive(Debug, Clone)]
enum Step {
    Want(bool),
    Unwant,
    Replace,
    Say(u8),
    Connections(usize),
    Exit,
    SpawnFailed,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Want),
        Just(Step::Unwant),
        Just(Step::Replace),
        (0_u8..7).prop_map(Step::Say),
        (0_usize..3).prop_map(Step::Connections),
        Just(Step::Exit),
        Just(Step::SpawnFailed),
        (0_u64..700).prop_map(Step::Pass),
    ]
}

proptest! {
    /// The model: at most one child runs, and nothing is asked of a child that does not.
    #[test]
    fn at_most_one_child_whatever_happens(steps in proptest::collection::vec(step(), 0..60)) {
        let mut bench = Bench::new();
        let mut running = false;
        for step in steps {
            match step {
                Step::Want(ready) => bench.slot.want((!ready).then(|| "x".to_owned()), bench.now),
                Step::Unwant => bench.slot.unwant(bench.now),
                Step::Replace => bench.slot.replace(bench.now),
                Step::Say(n) if running => bench.say(match n {
                    0 => Sign::Started,
                    1 => Sign::Connected,
                    2 => Sign::Disconnected,
                    3 => refused(),
                    4 => Sign::Rejected { text: String::new() },
                    5 => Sign::Fatal { text: String::new() },
                    _ => Sign::Other,
                }),
                Step::Connections(n) if running => bench.slot.handle_connections(n, bench.now),
                Step::Exit if running => {
                    running = false;
                    bench.exit(1);
                }
                Step::SpawnFailed if running => {
                    running = false;
                    bench.slot.handle_spawn_failed("no".into(), &mut bench.rng, bench.now);
                }
                Step::Pass(s) => bench.pass(Duration::from_secs(s)),
                Step::Say(_) | Step::Connections(_) | Step::Exit | Step::SpawnFailed => {}
            }
            for command in bench.commands() {
                match command {
                    SlotCommand::Spawn => {
                        prop_assert!(!running, "a second child was started");
                        running = true;
                    }
                    SlotCommand::Drain | SlotCommand::Kill | SlotCommand::Cut => prop_assert!(running),
                }
            }
        }
        // However it went, it comes to rest when it is told to.
        bench.slot.unwant(bench.now);
        bench.pass(Duration::from_secs(700));
        if running {
            bench.exit(0);
        }
        prop_assert!(bench.slot.is_at_rest());
    }
}
