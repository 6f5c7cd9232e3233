//! `orfe-registry peer …`
//!
//! The private key of a client is made here, in the process that prints it, and never reaches the registry: `add` sends the
//! public key alone.

mod conf;

use std::io::Write;

use jiff::Timestamp;
use orfe_platform::private::{self, NewFile, PrivateFileError};
use orfe_protocol::key::{NoisePrivateKey, WireGuardPublicKey};
use orfe_protocol::secret::Secret;
use orfe_tunnel::PresharedKey;
use serde::Serialize;

use super::client::Client;
use super::table::{Table, age, hang, harmless};
use super::{Failure, PeerAddArgs, PeerCommand, print, print_json};
use crate::api::{AddPeer, PeerAnswer, PeerCounters, PeerList, PeerView, Removed};
use crate::span::Span;

/// Width of the labels on a peer's page.
const LABEL: usize = 15;

pub(super) async fn run(
    client: &Client,
    command: &PeerCommand,
    width: Option<usize>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    match command {
        PeerCommand::Add(args) => add(client, args, width, out).await,
        PeerCommand::List(format) => {
            let list: PeerList = client.get("/v1/peers").await?;
            if format.json {
                print_json(out, &list)
            } else {
                print(out, &table(&list, Timestamp::now(), width))
            }
        }
        PeerCommand::Show { name, format } => {
            let answer: PeerAnswer = client.get(&format!("/v1/peers/{name}")).await?;
            if format.json {
                print_json(out, &answer)
            } else {
                print(out, &page(&answer.peer, Timestamp::now(), width))
            }
        }
        PeerCommand::Remove { name } => {
            let removed: Removed = client.post(&format!("/v1/peers/{name}/remove"), &()).await?;
            print(out, &format!("peer {} is removed\n", removed.removed))
        }
    }
}

/// What `add --json` prints: the answer of the registry, and the file that holds what the registry does not have.
#[derive(Serialize)]
struct Added<'a> {
    #[serde(flatten)]
    answer: &'a PeerAnswer,
    conf: &'a str,
}

/// The keys of a client, as far as they are made here.
struct ClientKeys {
    private: Option<NoisePrivateKey>,
    public: WireGuardPublicKey,
    preshared: Option<Secret>,
}

impl ClientKeys {
    fn make(args: &PeerAddArgs) -> Result<Self, Failure> {
        let (private, public) = if let Some(public) = args.public_key {
            (None, public)
        } else {
            let private = NoisePrivateKey::generate()
                .map_err(|error| Failure::new(format!("the system gives no random numbers: {error}")))?;
            let public = WireGuardPublicKey::from_bytes(*private.public_key().as_bytes());
            (Some(private), public)
        };
        let preshared = args
            .preshared_key
            .then(|| Secret::new(PresharedKey::generate().to_base64().to_string()));
        Ok(Self {
            private,
            public,
            preshared,
        })
    }
}

async fn add(
    client: &Client,
    args: &PeerAddArgs,
    width: Option<usize>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let keys = ClientKeys::make(args)?;
    let request = AddPeer {
        name: args.name.clone(),
        wireguard_public_key: keys.public,
        preshared_key: keys.preshared.clone(),
        ttl_s: args.ttl.map(Span::whole_seconds),
        allowed: (!args.allowed.is_empty()).then(|| args.allowed.clone()),
        note: args.note.clone(),
    };
    request.check()?;
    // Made before the peer is: a private key with no place to go would be lost, and its peer of no use. When the request fails,
    // the empty file goes away again.
    let file = args.output.as_deref().map(private::create_new);
    let file = file.transpose().map_err(|error| unwritten(&error))?;
    let answer: PeerAnswer = client.post("/v1/peers", &request).await?;
    let shown = conf::Keys {
        private: keys.private.as_ref().map(NoisePrivateKey::to_base64),
        preshared: keys.preshared.as_ref(),
    };
    let conf = conf::render(&answer, &shown, !args.no_dns);
    if args.format.json {
        return print_json(
            out,
            &Added {
                answer: &answer,
                conf: &conf,
            },
        );
    }
    match file {
        Some(file) => write_to(file, args, &conf, out)?,
        None => print(out, &conf)?,
    }
    let on_terminal = width.is_some() && args.output.is_none();
    // Without its private key a configuration is of no use to a phone.
    if args.qr || (on_terminal && !args.no_qr && keys.private.is_some()) {
        print(out, &conf::qr(&conf)?)?;
    }
    Ok(())
}

/// Writes the configuration to the file that was made for it.
fn write_to(
    file: NewFile,
    args: &PeerAddArgs,
    conf: &str,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let path = file.path().display().to_string();
    file.fill(conf.as_bytes()).map_err(|error| {
        let name = &args.name;
        // The key went with the configuration, so the peer that is there now cannot be used.
        Failure::new(format!("peer {name} is added, but {}", crate::chain(&error))).hint(format!(
            "take it away with `orfe-registry peer remove {name}`, and add it again"
        ))
    })?;
    print(out, &format!("{path} holds the configuration of {}\n", args.name))
}

fn unwritten(error: &PrivateFileError) -> Failure {
    let failure = Failure::new(crate::chain(error));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None if error.is_not_found() => failure.hint("`--output` names a file in a folder that is there"),
        None => failure.hint("choose another place with `--output`"),
    }
}

fn table(list: &PeerList, now: Timestamp, width: Option<usize>) -> String {
    if list.peers.is_empty() {
        return "no peers yet; `orfe-registry peer add NAME` lets one in\n".to_owned();
    }
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "ADDRESS",
        "HANDSHAKE",
        "RECEIVED",
        "SENT",
        "EXPIRES",
        "NOTE",
    ]);
    for peer in &list.peers {
        let counters = peer.counters.as_ref();
        let bytes_of =
            |count: fn(&PeerCounters) -> u64| counters.map_or("-".to_owned(), |all| bytes(count(all)));
        table.row([
            peer.name.to_string(),
            peer.state.clone(),
            peer.addresses
                .first()
                .map_or_else(String::new, ToString::to_string),
            age(counters.and_then(|counters| counters.last_handshake_at), now),
            bytes_of(|counters| counters.rx_bytes),
            bytes_of(|counters| counters.tx_bytes),
            peer.expires_at
                .map_or("never".to_owned(), |at| format!("{at:.0}")),
            peer.note.clone(),
        ]);
    }
    table.render(width)
}

fn page(peer: &PeerView, now: Timestamp, width: Option<usize>) -> String {
    let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
    let mut rows = vec![
        ("name", peer.name.to_string()),
        ("state", peer.state.clone()),
        ("addresses", addresses.join(", ")),
        (
            "allowed",
            peer.allowed
                .as_ref()
                .map_or("what policy gives people".to_owned(), |allowed| {
                    allowed.join(", ")
                }),
        ),
        ("wireguard key", peer.wireguard_public_key.to_string()),
        (
            "preshared key",
            if peer.has_preshared_key { "yes" } else { "no" }.to_owned(),
        ),
        ("added", format!("{:.0}", peer.created_at)),
        (
            "expires",
            peer.expires_at
                .map_or("never".to_owned(), |at| format!("{at:.0}")),
        ),
        ("note", peer.note.clone()),
    ];
    let counters = peer.counters.as_ref();
    rows.push((
        "handshake",
        age(counters.and_then(|all| all.last_handshake_at), now),
    ));
    rows.extend(counters.iter().flat_map(|all| counter_rows(all)));
    let mut text = String::new();
    for (label, value) in rows {
        let label = format!("{label:LABEL$}");
        hang(&mut text, &label, &harmless(&value), width);
    }
    text
}

/// What the gateway counts, as rows of a page.
pub(super) fn counter_rows(counters: &PeerCounters) -> Vec<(&'static str, String)> {
    let dropped = counters.dropped;
    let causes = [
        ("foreign source", dropped.spoofed_source),
        ("rejected", dropped.rejected),
        ("no endpoint", dropped.no_endpoint),
        ("unsupported", dropped.unsupported),
        ("no room", dropped.overflow),
    ];
    let causes = causes.iter().filter(|(_, count)| *count > 0);
    let causes: Vec<String> = causes.map(|(cause, count)| format!("{count} {cause}")).collect();
    let dropped = if causes.is_empty() {
        "none".to_owned()
    } else {
        causes.join(", ")
    };
    vec![
        (
            "endpoint",
            counters
                .endpoint
                .map_or("-".to_owned(), |endpoint| endpoint.to_string()),
        ),
        (
            "traffic",
            format!(
                "{} received, {} sent",
                bytes(counters.rx_bytes),
                bytes(counters.tx_bytes)
            ),
        ),
        (
            "connections",
            format!(
                "{} open, {} UDP flows, {} forwarded, {} refused, {} failed",
                counters.connections,
                counters.udp_flows,
                counters.forwarded,
                counters.refused,
                counters.failed
            ),
        ),
        ("dropped", dropped),
    ]
}

/// A number of bytes in a unit that people read.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
#[path = "peer/tests.rs"]
mod tests;
