use jiff::Timestamp;
use orfe_protocol::id::DeviceId;
use orfe_protocol::message::{Ack, Refused};
use rand::SeedableRng;

use super::*;

struct Bench {
    session: Session,
    now: Instant,
    rng: StdRng,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let session = Session::new(true, BootId::generate(), "0".into(), Revision::default(), now);
        Self {
            session,
            now,
            rng: StdRng::seed_from_u64(7),
        }
    }

    fn live() -> Self {
        let mut bench = Self::new();
        bench.run_to_timeout();
        bench.session.handle_connected(bench.now);
        bench.hear(welcome(1000));
        bench.drain();
        bench
    }

    fn run_to_timeout(&mut self) -> &'static str {
        let (at, why) = self.session.poll_timeout().unwrap();
        self.now = self.now.max(at);
        self.session.handle_timeout(self.now, &mut self.rng);
        why
    }

    fn hear(&mut self, message: FromRegistry) {
        self.session.handle_message(message, self.now, &mut self.rng);
    }

    fn drain(&mut self) -> Vec<SessionCommand> {
        std::iter::from_fn(|| self.session.poll_command()).collect()
    }

    fn wait_left(&self) -> Duration {
        let LinkState::Waiting { until, .. } = self.session.link() else {
            panic!("not waiting")
        };
        until.saturating_duration_since(self.now)
    }
}

fn welcome(heartbeat_ms: u64) -> FromRegistry {
    FromRegistry::Welcome(Welcome {
        device: DeviceId::generate(),
        name: "ab".parse().unwrap(),
        session_epoch: 1,
        heartbeat_ms,
        server_time: Timestamp::UNIX_EPOCH,
    })
}

fn desired(epoch: u64, revision: u64) -> FromRegistry {
    let json = format!(r#"{{"epoch":{epoch},"revision":{revision},"device":"ab"}}"#);
    FromRegistry::Desired(serde_json::from_str(&json).unwrap())
}

#[test]
fn it_connects_greets_and_beats() {
    let mut bench = Bench::new();
    bench.run_to_timeout();
    assert_eq!(bench.drain(), [SessionCommand::Connect]);
    bench.session.handle_connected(bench.now);
    assert!(matches!(
        bench.drain()[..],
        [SessionCommand::Send(FromAgent::Hello(_))]
    ));
    assert_eq!(bench.session.link(), LinkState::Connecting { after: None });
    bench.hear(welcome(1000));
    assert_eq!(bench.session.link(), LinkState::Connected);
    for _ in 0..5 {
        assert_eq!(bench.run_to_timeout(), "heartbeat");
        assert!(matches!(
            bench.drain()[..],
            [SessionCommand::Send(FromAgent::Heartbeat(_))]
        ));
        bench.hear(FromRegistry::Ack(Ack { heartbeat_ms: 1000 }));
    }
}

#[test]
fn silence_ends_the_session_after_two_beats_and_the_grace() {
    let mut bench = Bench::live();
    let heard = bench.now;
    while bench.session.is_live() {
        bench.run_to_timeout();
    }
    assert_eq!(bench.now.duration_since(heard), Duration::from_secs(2) + GRACE);
    assert!(bench.drain().contains(&SessionCommand::Close));
}

#[test]
fn a_registry_that_never_greets_is_given_up() {
    let mut bench = Bench::new();
    bench.run_to_timeout();
    bench.session.handle_connected(bench.now);
    assert_eq!(bench.run_to_timeout(), "no welcome from the registry");
    assert!(matches!(bench.session.link(), LinkState::Waiting { .. }));
    // While it is tried again, what went wrong before stays in sight; a session makes an end of it.
    bench.run_to_timeout();
    let after = Some("the registry was silent for too long".to_owned());
    assert_eq!(bench.session.link(), LinkState::Connecting { after });
    bench.session.handle_connected(bench.now);
    bench.hear(welcome(1000));
    assert_eq!(bench.session.link(), LinkState::Connected);
}

#[test]
fn a_stable_session_starts_the_backoff_anew_and_a_short_one_does_not() {
    for (lived, attempts) in [(STABLE, 1), (Duration::from_secs(1), 4)] {
        let mut bench = Bench::new();
        for _ in 0..3 {
            bench.run_to_timeout();
            bench
                .session
                .handle_closed(&Closed::Lost("refused".into()), bench.now, &mut bench.rng);
        }
        bench.run_to_timeout();
        bench.session.handle_connected(bench.now);
        bench.hear(welcome(60_000));
        bench.now += lived;
        bench
            .session
            .handle_closed(&Closed::Lost("reset".into()), bench.now, &mut bench.rng);
        assert_eq!(bench.session.backoff.attempts(), attempts);
    }
}

#[test]
fn while_connections_are_refused_the_next_attempt_is_never_far() {
    for (closed, at_most) in [
        (Closed::Refused("refused".into()), REFUSED),
        (Closed::Lost("no route".into()), Duration::from_secs(30)),
    ] {
        let mut bench = Bench::new();
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            bench.run_to_timeout();
            bench.session.handle_closed(&closed, bench.now, &mut bench.rng);
            longest = longest.max(bench.wait_left());
        }
        assert!(
            longest <= at_most && longest > at_most / 2,
            "{closed}: {longest:?}"
        );
        assert_eq!(
            bench.session.backoff.attempts(),
            40,
            "what it is counts all the same"
        );
    }
}

#[test]
fn a_refusal_that_no_retry_cures_waits_long_and_says_why() {
    let mut bench = Bench::live();
    bench.hear(FromRegistry::Refused(Refused {
        reason: RefusedReason::DeviceRevoked,
        message: "revoked by alice".into(),
    }));
    bench
        .session
        .handle_closed(&Closed::Code(4003, String::new()), bench.now, &mut bench.rng);
    assert!(bench.wait_left() >= LONG / 2);
    let LinkState::Waiting { reason, .. } = bench.session.link() else {
        panic!("not waiting")
    };
    assert_eq!(reason, "revoked by alice");
    bench.session.hurry(bench.now);
    assert_eq!(bench.wait_left(), Duration::ZERO);
}

#[test]
fn older_desired_states_are_not_taken() {
    let mut bench = Bench::live();
    bench.hear(desired(2, 5));
    bench.hear(desired(2, 4));
    bench.hear(desired(1, 900));
    bench.hear(desired(2, 5));
    bench.hear(desired(3, 1));
    let taken: Vec<String> = bench
        .drain()
        .iter()
        .filter_map(|command| match command {
            SessionCommand::Desired(desired) => Some(desired.revision.to_string()),
            SessionCommand::Connect | SessionCommand::Send(_) | SessionCommand::Close => None,
        })
        .collect();
    assert_eq!(taken, ["2.5", "2.5", "3.1"]);
}

#[test]
fn nothing_is_said_before_the_welcome_or_after_goodbye() {
    let mut bench = Bench::new();
    bench.session.report(FromAgent::Heartbeat(Heartbeat {}));
    bench.hear(desired(1, 1));
    assert_eq!(bench.drain(), []);
    let mut bench = Bench::live();
    bench.session.goodbye(GoodbyeReason::Shutdown);
    assert!(matches!(
        bench.drain()[..],
        [SessionCommand::Send(FromAgent::Goodbye(_)), SessionCommand::Close]
    ));
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn an_absurd_interval_is_bounded() {
    assert_eq!(interval(0), HEARTBEAT_MIN);
    assert_eq!(interval(u64::MAX), HEARTBEAT_MAX);
}
