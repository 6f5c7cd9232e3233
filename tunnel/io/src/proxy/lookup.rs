//! Asks the gateway, inside the tunnel, for the address of a name of the cluster.
//!
//! Over TCP: a stream is what every stack behind the [`Dialer`](crate::dial::Dialer) has, and nobody can slip in an answer.
//! The gateway then asks its own resolver over TCP as well, which every resolver has to answer (RFC 7766).
//! Nothing is kept: the gateway's resolver has a cache, and a name that moves is followed by the next connection.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rand::Rng as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::Limits;
use super::reach::{self, Destination, WatchedDialer};
use super::refusal::Refusal;
use super::routes::Lookup;
use crate::gateway::dns::resolver::{read_message, write_message};

/// Finds the address and dials it. Waits for the tunnel as any dial does.
pub(super) async fn dial(
    dialer: WatchedDialer,
    lookup: &Lookup,
    limits: &Limits,
) -> Result<Destination, Refusal> {
    let address = find(dialer.clone(), lookup, limits).await?;
    reach::through_tunnel(dialer, address, limits).await
}

/// The address of the name that policy lets be dialled: an IPv4 one where there is one.
pub(super) async fn find(
    dialer: WatchedDialer,
    lookup: &Lookup,
    limits: &Limits,
) -> Result<SocketAddr, Refusal> {
    let mut stream = reach::held(dialer, lookup.server, limits).await?;
    let asked = async {
        let mut refusal = Refusal::NameNotResolved;
        for kind in [RecordType::A, RecordType::AAAA] {
            let found = ask(&mut stream, &lookup.name, kind).await.map_err(|error| {
                tracing::debug!(%error, "the gateway gave no answer about a name");
                Refusal::NameNotResolved
            })?;
            match lookup.allowed(&found) {
                Ok(address) => return Ok(address),
                Err(Refusal::NameNotResolved) => {}
                Err(other) => refusal = other,
            }
        }
        Err(refusal)
    };
    timeout(limits.dial, asked)
        .await
        .map_err(|_| Refusal::DialTimedOut)?
}

/// The addresses of one kind. A name that is not there has none.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    name: &str,
    kind: RecordType,
) -> io::Result<Vec<IpAddr>> {
    let name = Name::from_ascii(format!("{name}.")).map_err(invalid)?;
    let mut question = Message::new(rand::rng().random(), MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    write_message(stream, &question.to_vec().map_err(invalid)?).await?;
    let answer = Message::from_vec(&read_message(stream).await?).map_err(invalid)?;
    let is_answer = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries;
    match answer.metadata.response_code {
        _ if !is_answer => Err(invalid("an answer to another question")),
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(addresses(&answer)),
        code => Err(invalid(code.to_string())),
    }
}

/// Behind an alias, the address stands in a record of the name that it leads to; all of them answer the question.
fn addresses(answer: &Message) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0).to_canonical()),
        _ => None,
    };
    answer
        .answers
        .iter()
        .filter_map(|record| address(&record.data))
        .collect()
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
