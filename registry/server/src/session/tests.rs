use jiff::Timestamp;
use orfe_protocol::id::{BootId, DeviceId, JoinCodeId, Revision};
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::message::{Goodbye, Heartbeat};
use orfe_protocol::noise::{Initiator, MESSAGE_MAX};
use orfe_protocol::secret::Secret;

use super::*;

const HEARTBEAT: Duration = Duration::from_secs(15);

/// A session and the device at its other end.
struct Pair {
    session: Session,
    device: Channel,
    key: NoisePublicKey,
    sent: u64,
}

impl Pair {
    fn new() -> Self {
        let registry = Arc::new(NoisePrivateKey::generate().unwrap());
        let key = NoisePrivateKey::generate().unwrap();
        let (initiator, first) = Initiator::start(&key, &registry.public_key()).unwrap();
        let mut session = Session::new(registry);
        let outputs = session.handle_frame(&first, HEARTBEAT);
        let [Output::Send(answer)] = outputs.as_slice() else {
            panic!("{outputs:?}")
        };
        Self {
            session,
            device: initiator.finish(answer).unwrap(),
            key: key.public_key(),
            sent: 0,
        }
    }

    fn live() -> Self {
        let mut pair = Self::new();
        pair.say(&hello());
        let outputs = pair.session.begun(Ok(welcome()));
        assert_eq!(pair.heard(&outputs), [FromRegistry::Welcome(welcome())]);
        pair
    }

    fn say(&mut self, message: &FromAgent) -> Vec<Output> {
        self.sent += 1;
        let json = envelope::encode(self.sent, message).unwrap();
        self.say_raw(&json)
    }

    fn say_raw(&mut self, json: &[u8]) -> Vec<Output> {
        let frames = self.device.seal(json).unwrap();
        frames
            .iter()
            .flat_map(|frame| self.session.handle_frame(frame, HEARTBEAT))
            .collect()
    }

    fn heard(&mut self, outputs: &[Output]) -> Vec<FromRegistry> {
        let frames = outputs.iter().filter_map(|output| match output {
            Output::Send(frame) => Some(frame),
            _ => None,
        });
        let messages = frames.filter_map(|frame| self.device.open(frame).unwrap());
        messages
            .map(|json| match envelope::decode(&json).unwrap() {
                Incoming::Known { message, .. } => message,
                Incoming::Unknown { kind } => panic!("unknown {kind}"),
            })
            .collect()
    }
}

fn hello() -> FromAgent {
    FromAgent::Hello(Hello {
        agent_version: "0.1.0".into(),
        boot: BootId::generate(),
        desired: Revision::default(),
        capabilities: Vec::new(),
    })
}

fn claim() -> FromAgent {
    FromAgent::Claim(Claim {
        join_code: JoinCodeId::from_bytes([1; 16]),
        secret: Secret::new("s".into()),
        name: "laptop".parse().unwrap(),
        wireguard_public_key: WireGuardPublicKey::from_bytes([2; 32]),
        agent_version: "0.1.0".into(),
    })
}

fn heartbeat() -> FromAgent {
    FromAgent::Heartbeat(Heartbeat {})
}

fn goodbye() -> FromAgent {
    FromAgent::Goodbye(Goodbye {
        reason: GoodbyeReason::Sleep,
    })
}

fn welcome() -> Welcome {
    Welcome {
        device: DeviceId::from_bytes([3; 16]),
        name: "laptop".parse().unwrap(),
        session_epoch: 4,
        heartbeat_ms: 15_000,
        server_time: Timestamp::UNIX_EPOCH,
    }
}

fn refused(reason: RefusedReason) -> Refused {
    Refused {
        reason,
        message: "no".into(),
    }
}

fn closing(outputs: &[Output]) -> Option<Closing> {
    outputs.iter().find_map(|output| match output {
        Output::Close(closing) => Some(*closing),
        _ => None,
    })
}

#[test]
fn a_claim_and_then_a_session_on_one_connection() {
    let mut pair = Pair::new();
    let outputs = pair.say(&claim());
    let [Output::Claim { key, .. }] = outputs.as_slice() else {
        panic!("{outputs:?}")
    };
    assert_eq!(*key, pair.key);

    let claimed = Claimed {
        device: DeviceId::from_bytes([3; 16]),
        name: "laptop".parse().unwrap(),
        tunnel: None,
    };
    let outputs = pair.session.claimed(Ok(claimed.clone()));
    assert_eq!(pair.heard(&outputs), [FromRegistry::Claimed(claimed)]);

    let outputs = pair.say(&hello());
    let [Output::Begin { key, .. }] = outputs.as_slice() else {
        panic!("{outputs:?}")
    };
    assert_eq!(*key, pair.key);
    let outputs = pair.session.begun(Ok(welcome()));
    assert_eq!(pair.heard(&outputs), [FromRegistry::Welcome(welcome())]);

    let outputs = pair.say(&heartbeat());
    assert!(matches!(outputs[0], Output::Heard));
    assert_eq!(
        pair.heard(&outputs),
        [FromRegistry::Ack(Ack { heartbeat_ms: 15_000 })]
    );
}

/// Every message in every state in which a device may speak.
#[test]
fn each_state_takes_what_fits_it_and_refuses_the_rest() {
    type State = fn() -> Pair;
    let await_first: State = Pair::new;
    let await_hello: State = || {
        let mut pair = Pair::new();
        pair.say(&claim());
        let claimed = Claimed {
            device: DeviceId::from_bytes([3; 16]),
            name: "laptop".parse().unwrap(),
            tunnel: None,
        };
        let outputs = pair.session.claimed(Ok(claimed));
        pair.heard(&outputs);
        pair
    };
    let table: [(State, &str, FromAgent, &str); 12] = [
        (await_first, "first", claim(), "claim"),
        (await_first, "first", hello(), "begin"),
        (await_first, "first", heartbeat(), "refused"),
        (await_first, "first", goodbye(), "refused"),
        (await_hello, "hello", claim(), "refused"),
        (await_hello, "hello", hello(), "begin"),
        (await_hello, "hello", heartbeat(), "refused"),
        (await_hello, "hello", goodbye(), "refused"),
        (Pair::live, "live", claim(), "refused"),
        (Pair::live, "live", hello(), "refused"),
        (Pair::live, "live", heartbeat(), "heard"),
        (Pair::live, "live", goodbye(), "goodbye"),
    ];
    for (state, name, message, expected) in table {
        let mut pair = state();
        let outputs = pair.say(&message);
        let found = match &outputs[0] {
            Output::Claim { .. } => "claim",
            Output::Begin { .. } => "begin",
            Output::Heard => "heard",
            Output::Goodbye(GoodbyeReason::Sleep) => "goodbye",
            Output::Send(_) => {
                assert_eq!(closing(&outputs).unwrap().code, close::OVERFLOW);
                let heard = pair.heard(&outputs);
                assert!(matches!(
                    &heard[0],
                    FromRegistry::Refused(Refused {
                        reason: RefusedReason::Protocol,
                        ..
                    })
                ));
                "refused"
            }
            _ => "other",
        };
        assert_eq!(found, expected, "{name}: {message:?}");
        let closes = matches!(expected, "refused" | "goodbye");
        assert_eq!(closing(&outputs).is_some(), closes, "{name}: {message:?}");
    }
}

#[test]
fn a_refusal_says_why_and_closes_with_its_code() {
    for (reason, code) in [
        (RefusedReason::UnknownDevice, close::NOT_AUTHENTICATED),
        (RefusedReason::DeviceRevoked, close::REVOKED),
        (RefusedReason::Unavailable, close::OVERLOADED),
    ] {
        let mut pair = Pair::new();
        pair.say(&hello());
        let outputs = pair.session.begun(Err(refused(reason)));
        assert_eq!(closing(&outputs).unwrap().code, code);
        assert_eq!(pair.heard(&outputs), [FromRegistry::Refused(refused(reason))]);
        assert!(
            pair.say(&heartbeat()).is_empty(),
            "a closed session does nothing more"
        );
    }
    let mut pair = Pair::new();
    pair.say(&claim());
    let outputs = pair.session.claimed(Err(refused(RefusedReason::JoinCodeUsed)));
    assert_eq!(closing(&outputs).unwrap().code, close::NOT_AUTHENTICATED);
}

#[test]
fn what_is_no_handshake_ends_the_connection() {
    let mut session = Session::new(Arc::new(NoisePrivateKey::generate().unwrap()));
    assert_eq!(
        closing(&session.handle_frame(&[0; 96], HEARTBEAT)),
        Some(Closing::HANDSHAKE)
    );
    let mut session = Session::new(Arc::new(NoisePrivateKey::generate().unwrap()));
    assert_eq!(closing(&session.handle_text()), Some(Closing::TEXT));
}

#[test]
fn a_frame_that_was_altered_or_repeated_ends_the_session() {
    let json = envelope::encode(1, &heartbeat()).unwrap();
    let mut pair = Pair::live();
    let mut frame = pair.device.seal(&json).unwrap().remove(0);
    frame[7] ^= 1;
    assert_eq!(
        closing(&pair.session.handle_frame(&frame, HEARTBEAT)),
        Some(Closing::MALFORMED)
    );

    let mut pair = Pair::live();
    let frame = pair.device.seal(&json).unwrap().remove(0);
    assert_eq!(closing(&pair.session.handle_frame(&frame, HEARTBEAT)), None);
    assert_eq!(
        closing(&pair.session.handle_frame(&frame, HEARTBEAT)),
        Some(Closing::MALFORMED)
    );
}

#[test]
fn what_is_no_message_ends_the_session_and_what_is_from_the_future_does_not() {
    let mut pair = Pair::live();
    assert!(pair.say_raw(br#"{"v":1,"t":"teleport","b":{}}"#).is_empty());
    assert_eq!(pair.session.unknown_messages(), 1);
    assert!(matches!(pair.say(&heartbeat())[0], Output::Heard));

    for json in [
        &b"{"[..],
        br#"{"v":2,"t":"heartbeat"}"#,
        br#"{"v":1,"t":"hello","b":7}"#,
    ] {
        let mut pair = Pair::live();
        assert_eq!(closing(&pair.say_raw(json)), Some(Closing::MALFORMED));
    }
}

#[test]
fn a_message_in_parts_is_taken_and_one_without_end_is_not() {
    let mut pair = Pair::live();
    let padding = "x".repeat(MESSAGE_MAX - 100);
    let json = format!(r#"{{"v":1,"t":"heartbeat","b":{{"padding":"{padding}"}}}}"#);
    let outputs = pair.say_raw(json.as_bytes());
    assert!(matches!(outputs[0], Output::Heard), "{outputs:?}");
}

#[test]
fn patience_depends_on_the_state() {
    let pair = Pair::new();
    assert_eq!(pair.session.patience(HEARTBEAT), STEP_DEADLINE);
    assert_eq!(Pair::live().session.patience(HEARTBEAT), Duration::from_secs(40));
}

#[test]
fn a_standing_session_that_cannot_be_told_comes_back_soon_unless_it_may_not() {
    for (reason, code) in [
        (RefusedReason::Unavailable, close::GOING_AWAY),
        (RefusedReason::DeviceRevoked, close::REVOKED),
    ] {
        assert_eq!(Closing::untold(reason).code, code, "{reason:?}");
    }
}
