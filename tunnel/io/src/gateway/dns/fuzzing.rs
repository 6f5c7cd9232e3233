//! The gateway's DNS for the fuzz targets (`tests/fuzz`) and for the test that replays their corpus (`tests/replay`).

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType};

use super::{Answer, PLAIN_ANSWER_MAX, Question, UDP_ANSWER_MAX, answer};
use crate::gateway::policy::{Access, Destination, DnsPolicy, Policy, Ports, Rule, Via};

/// The number under which the resolver is asked.
const ID: u16 = 0x4f46;
/// Nobody is asked here.
const RESOLVER: ([u8; 4], u16) = ([127, 0, 0, 1], 53);

/// A peer's question and, behind it, what its resolver may answer: the first byte says how long the question is. A question of
/// more than 255 bytes is one without an answer.
pub fn dns(bytes: &[u8]) {
    let Some(policy) = policy() else { return };
    let access = Access::Rules([true, false].into());
    check(bytes, &[], &policy, &access);
    if let Some((&length, rest)) = bytes.split_first() {
        let (question, upstream) = rest.split_at(usize::from(length).min(rest.len()));
        check(question, upstream, &policy, &access);
    }
}

fn check(asked: &[u8], upstream: &[u8], policy: &Policy, access: &Access) {
    match answer(asked, policy, access) {
        Answer::Ignore => {}
        Answer::Reply(reply) => {
            check_answer(&reply, asked);
            assert!(reply.len() <= PLAIN_ANSWER_MAX, "{} bytes", reply.len());
            let records = Message::from_vec(&reply).map(|message| message.answers);
            for record in records.unwrap_or_default() {
                let data = record.data.to_string();
                assert!(data == "100.127.1.1" || data == "fd00::1", "{data} is for others");
            }
        }
        Answer::Ask(question) => check_forwarded(&question, asked, upstream),
    }
}

/// What goes to the resolver, and what comes back from it, or from who pretends to be it.
fn check_forwarded(question: &Question, asked: &[u8], upstream: &[u8]) {
    check_answer(&question.failed(), asked);
    let Some(sent) = question.to_resolver(ID) else {
        return;
    };
    assert!(sent.len() <= PLAIN_ANSWER_MAX, "{} bytes are asked", sent.len());
    // As it came, and as one that got number and question right.
    let mut likely = sent.clone();
    if let Some(flags) = likely.get_mut(2) {
        *flags |= 0x80;
    }
    likely.extend_from_slice(upstream);
    for bytes in [upstream, &likely] {
        if let Some(accepted) = question.accept(ID, bytes) {
            assert_eq!(accepted.len(), bytes.len(), "an answer is passed on as it is");
            let fitted = question.fit(accepted);
            assert!(fitted.len() <= question.room && question.room <= UDP_ANSWER_MAX);
            if !fitted.is_empty() {
                check_answer(&fitted, asked);
            }
        }
    }
}

/// An answer under the number of the question.
fn check_answer(answer: &[u8], asked: &[u8]) {
    let message = Message::from_vec(answer);
    assert!(message.is_ok(), "what is answered can be read");
    if let Ok(message) = message {
        assert_eq!(message.metadata.message_type, MessageType::Response);
    }
    assert_eq!(answer.get(..2), asked.get(..2), "the peer's own number");
}

/// One name for the peer, one for others, everything else from the resolver.
fn policy() -> Option<Policy> {
    let rule = |name: &str, last: u8| Rule {
        name: name.to_owned(),
        destination: Destination::Name {
            addresses: vec![
                IpAddr::from([100, 127, 1, last]),
                IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
            ],
            via: Via::Host(name.to_owned()),
        },
        tcp: 443.into(),
        udp: Ports::default(),
    };
    let dns = DnsPolicy {
        suffixes: vec![String::new()],
        resolver: Some(SocketAddr::from(RESOLVER)),
    };
    Policy::of_rules([rule("coder.internal", 1), rule("secret.internal", 2)], dns).ok()
}
