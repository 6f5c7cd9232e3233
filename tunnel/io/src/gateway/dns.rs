//! DNS at the gateway's own inner addresses: what a question is answered with.
//!
//! ```text
//!   named by policy for this peer ─► its inner addresses (no data for other types)
//!   named for others only ─────────► NXDOMAIN: a peer does not learn what it may not reach
//!   below a configured suffix ─────► asked of the gateway's own resolver
//!   everything else ───────────────► REFUSED
//! ```
//!
//! Nothing here reads or waits; `resolver` asks, `stream` serves TCP. Only peers of the tunnel ask, an answer goes to
//! the address that the tunnel proved, and its size is bounded, so there is nothing to amplify.

pub(crate) mod fuzzing;
pub(crate) mod resolver;
pub(super) mod stream;

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use super::policy::{Access, Policy};

/// Longest answer over UDP that is given, whatever the question allows: with its headers it fits into 1280 bytes.
pub(super) const UDP_ANSWER_MAX: usize = 1232;
/// And to questions that do not say what they allow (RFC 1035, section 4.2.1).
const PLAIN_ANSWER_MAX: usize = 512;
/// How long an answer from the policy may be kept, in seconds: a change of policy is seen within a minute.
const TTL_S: u32 = 60;

/// What is to be done with a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask the resolver.
    Ask(Box<Question>),
    /// It is no question; say nothing.
    Ignore,
}

/// A question that the gateway's resolver is to answer.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// The peer's own number for it, which the answer carries.
    id: u16,
    query: Query,
    /// The longest answer that the peer takes over UDP.
    room: usize,
    has_edns: bool,
    dnssec_ok: bool,
}

/// Decides what a peer's question is answered with.
pub(super) fn answer(bytes: &[u8], policy: &Policy, access: &Access) -> Answer {
    let Ok(message) = Message::from_vec(bytes) else {
        return Answer::Ignore;
    };
    if message.metadata.message_type != MessageType::Query {
        return Answer::Ignore;
    }
    let query = match message.queries.as_slice() {
        [query] if message.metadata.op_code == OpCode::Query => query.clone(),
        [_] => return reply(&failure(&message, ResponseCode::NotImp)),
        _ => return reply(&failure(&message, ResponseCode::FormErr)),
    };
    if query.query_class != DNSClass::IN {
        return reply(&failure(&message, ResponseCode::Refused));
    }
    let name = query.name.to_ascii().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    if let Some(addresses) = policy.addresses(access, name) {
        return reply(&of_policy(&message, &query, &addresses));
    }
    if policy.addresses(&Access::Everything, name).is_some() {
        return reply(&failure(&message, ResponseCode::NXDomain));
    }
    let dns = policy.dns();
    let is_forwarded = dns.suffixes.iter().any(|suffix| is_below(name, suffix));
    if dns.resolver.is_none() || !is_forwarded {
        return reply(&failure(&message, ResponseCode::Refused));
    }
    let edns = message.edns.as_ref();
    Answer::Ask(Box::new(Question {
        id: message.metadata.id,
        query,
        room: edns.map_or(PLAIN_ANSWER_MAX, |edns| {
            usize::from(edns.max_payload()).clamp(PLAIN_ANSWER_MAX, UDP_ANSWER_MAX)
        }),
        has_edns: edns.is_some(),
        dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok),
    }))
}

/// Whether `name` is `suffix` or ends with it; the empty suffix, the root, has every name below it.
fn is_below(name: &str, suffix: &str) -> bool {
    suffix.is_empty()
        || name
            .strip_suffix(suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn of_policy(message: &Message, query: &Query, addresses: &[IpAddr]) -> Message {
    let mut answer = failure(message, ResponseCode::NoError);
    answer.metadata.authoritative = true;
    for address in addresses {
        let data = match (address, query.query_type) {
            (IpAddr::V4(v4), RecordType::A | RecordType::ANY) => RData::from(*v4),
            (IpAddr::V6(v6), RecordType::AAAA | RecordType::ANY) => RData::from(*v6),
            _ => continue,
        };
        answer.add_answer(Record::from_rdata(query.name.clone(), TTL_S, data));
    }
    answer
}

/// An answer without records.
fn failure(message: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(message.queries.iter().take(1).cloned());
    if message.edns.is_some() {
        answer.set_edns(edns(false));
    }
    answer
}

fn edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_ANSWER_MAX as u16);
    edns.set_dnssec_ok(dnssec_ok);
    edns
}

fn reply(message: &Message) -> Answer {
    message.to_vec().map_or(Answer::Ignore, Answer::Reply)
}

impl Question {
    /// The question as the resolver is asked it, under a number of our own.
    fn to_resolver(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        if self.has_edns {
            message.set_edns(edns(self.dnssec_ok));
        }
        message.to_vec().ok()
    }

    /// The resolver's answer under the peer's number, if it is one to this question.
    fn accept(&self, id: u16, bytes: &[u8]) -> Option<Vec<u8>> {
        let message = Message::from_vec(bytes).ok()?;
        let is_answer = message.metadata.message_type == MessageType::Response && message.metadata.id == id;
        if !is_answer || message.queries.as_slice() != [self.query.clone()] {
            return None;
        }
        let mut answer = bytes.to_vec();
        answer.get_mut(..2)?.copy_from_slice(&self.id.to_be_bytes());
        Some(answer)
    }

    /// The answer as it goes to the peer over UDP: itself, or without records and marked as cut where it is too long.
    pub(super) fn fit(&self, answer: Vec<u8>) -> Vec<u8> {
        if answer.len() <= self.room {
            return answer;
        }
        let Ok(whole) = Message::from_vec(&answer) else {
            return Vec::new();
        };
        let mut cut = whole.truncate();
        // Of the options only ours: what the resolver put there has no bound.
        cut.edns = self.has_edns.then(|| edns(self.dnssec_ok));
        cut.to_vec().unwrap_or_default()
    }

    /// What the peer is told when the resolver does not answer.
    pub(super) fn failed(&self) -> Vec<u8> {
        let mut answer = Message::response(self.id, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = ResponseCode::ServFail;
        answer.add_query(self.query.clone());
        answer.to_vec().unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "dns/tests.rs"]
mod tests;
