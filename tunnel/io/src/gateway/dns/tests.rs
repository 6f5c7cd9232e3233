use std::net::SocketAddr;

use hickory_proto::rr::Name;

use super::*;
use crate::gateway::policy::{Destination, DnsPolicy, Ports, Rule, Via};

fn policy(suffixes: &[&str], resolver: Option<SocketAddr>) -> Policy {
    let rule = |name: &str, last: u8| Rule {
        name: name.to_owned(),
        destination: Destination::Name {
            addresses: vec![
                IpAddr::from([100, 127, 1, last]),
                format!("fd00::{last}").parse().unwrap(),
            ],
            via: Via::Host(name.to_owned()),
        },
        tcp: 443.into(),
        udp: Ports::default(),
    };
    let dns = DnsPolicy {
        suffixes: suffixes.iter().map(ToString::to_string).collect(),
        resolver,
    };
    Policy::of_rules([rule("coder.internal", 1), rule("secret.internal", 2)], dns).unwrap()
}

fn first_only() -> Access {
    Access::Rules([true].into())
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn replied(answer: Answer) -> Message {
    match answer {
        Answer::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_of_the_policy_is_answered_for_those_it_holds_for() {
    let policy = policy(&[], None);
    let ask = |name, kind| replied(answer(&question(name, kind), &policy, &first_only()));
    let v4 = ask("Coder.Internal.", RecordType::A);
    assert_eq!(v4.metadata.id, 7);
    assert_eq!(v4.answers[0].data.to_string(), "100.127.1.1");
    assert_eq!(
        v4.answers[0].name.to_string(),
        "Coder.Internal.",
        "as it was asked"
    );
    assert_eq!(
        ask("coder.internal.", RecordType::AAAA).answers[0]
            .data
            .to_string(),
        "fd00::1"
    );
    let other = ask("coder.internal.", RecordType::TXT);
    assert_eq!(
        (other.metadata.response_code, other.answers.len()),
        (ResponseCode::NoError, 0)
    );
    for (name, code) in [
        ("secret.internal.", ResponseCode::NXDomain),
        ("example.com.", ResponseCode::Refused),
        ("x.coder.internal.", ResponseCode::Refused),
    ] {
        assert_eq!(ask(name, RecordType::A).metadata.response_code, code, "{name}");
    }
}

#[test]
fn only_names_below_a_suffix_are_asked_for() {
    let resolver = Some("127.0.0.1:53".parse().unwrap());
    let is_asked = |suffix: &str, name: &str| {
        let policy = policy(&[suffix], resolver);
        matches!(
            answer(&question(name, RecordType::A), &policy, &first_only()),
            Answer::Ask(_)
        )
    };
    for (suffix, name, expected) in [
        ("svc.cluster.local", "a.b.svc.cluster.local.", true),
        ("svc.cluster.local", "svc.cluster.local.", true),
        ("svc.cluster.local", "asvc.cluster.local.", false),
        ("svc.cluster.local", "example.com.", false),
        ("", "example.com.", true),
        ("internal", "secret.internal.", false),
    ] {
        assert_eq!(is_asked(suffix, name), expected, "{name} below {suffix}");
    }
    let without = policy(&["x"], None);
    let refused = replied(answer(&question("a.x.", RecordType::A), &without, &first_only()));
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
}

fn asked(name: &str) -> Question {
    let policy = policy(&[""], Some("127.0.0.1:53".parse().unwrap()));
    match answer(&question(name, RecordType::A), &policy, &first_only()) {
        Answer::Ask(question) => *question,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_counts_only_when_it_is_one_to_the_question() {
    let question = asked("a.example.");
    let mut message = Message::from_vec(&question.to_resolver(99).unwrap()).unwrap();
    assert_eq!(
        question.accept(99, &message.to_vec().unwrap()),
        None,
        "a question"
    );
    message.metadata.message_type = MessageType::Response;
    let good = message.to_vec().unwrap();
    assert_eq!(question.accept(98, &good), None, "another number");
    let accepted = question.accept(99, &good).unwrap();
    assert_eq!(Message::from_vec(&accepted).unwrap().metadata.id, 7);
    assert_eq!(asked("b.example.").accept(99, &good), None, "another name");
    assert_eq!(question.accept(99, &[0; 5]), None);
}

#[test]
fn a_long_answer_is_cut_and_says_so() {
    let question = asked("a.example.");
    let mut message = Message::from_vec(&question.to_resolver(99).unwrap()).unwrap();
    message.metadata.message_type = MessageType::Response;
    for last in 0..60 {
        let data = RData::from(std::net::Ipv4Addr::new(10, 0, 0, last));
        message.add_answer(Record::from_rdata("a.example.".parse().unwrap(), 1, data));
    }
    let whole = message.to_vec().unwrap();
    assert!(whole.len() > question.room);
    let cut = Message::from_vec(&question.fit(whole)).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
}

#[test]
fn what_is_no_question_is_not_answered() {
    let policy = policy(&[], None);
    let mut response = Message::from_vec(&question("coder.internal.", RecordType::A)).unwrap();
    response.metadata.message_type = MessageType::Response;
    let mut update = response.clone();
    update.metadata.message_type = MessageType::Query;
    update.metadata.op_code = OpCode::Update;
    for bytes in [&[][..], &[1, 2, 3], &response.to_vec().unwrap()] {
        assert!(matches!(answer(bytes, &policy, &first_only()), Answer::Ignore));
    }
    let _ = answer(&update.to_vec().unwrap(), &policy, &first_only());
}
