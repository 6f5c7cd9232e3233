//! The provisioner's WebSocket: who is let in, in the order in which the real server asks, and the session after it.
//!
//! 403 no licence → 404 organization → 400 two credentials, 401 none or a wrong one → 400 tags, provisioner type, API
//! version → 403 a key with tags → (the daemon's row is written) → 426 no upgrade, or 101.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use uuid::Uuid;

use super::answer::{self, Answer};
use super::daemons::{Arrival, TOUCH_INTERVAL};
use super::keys::{self, Key};
use super::listener::Connection;
use super::routes::{is_organization, is_owner, text};
use super::state::State;
use super::{API_VERSION, Tags};
use crate::keepalive;

enum Credential {
    Psk,
    Key(Key),
    Owner,
}

struct Dial {
    name: String,
    tags: Tags,
}

pub(super) fn answer(
    state: &Arc<State>,
    connection: Connection,
    organization: &str,
    mut request: Request<Incoming>,
) -> Answer {
    let admitted = admit(state, organization, &request);
    let arrival = match admitted {
        Ok(arrival) => arrival,
        Err(refusal) => return *refusal,
    };
    // Recorded: the row is there even when the request turns out to be no WebSocket.
    let row = state.daemons.arrive(arrival);
    let key = match upgrade_key(request.headers()) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = connection.tasks.clone();
    tasks.spawn(keep_session(Arc::clone(state), connection, row, upgrade));
    switching(&key)
}

/// The refusal is boxed because it is much larger than what goes well.
fn admit(state: &State, organization: &str, request: &Request<Incoming>) -> Result<Arrival, Box<Answer>> {
    let headers = request.headers();
    if !state.licensed() {
        return Err(Box::new(answer::message(
            StatusCode::FORBIDDEN,
            "External provisioner daemons is an Enterprise feature. Contact sales!",
        )));
    }
    if !is_organization(state, organization) {
        return Err(Box::new(answer::not_found()));
    }
    let credential = authenticate(state, headers)?;
    let dial = read_query(request.uri().query().unwrap_or_default())?;
    let version = text(headers, "x-coder-build-version")
        .unwrap_or_default()
        .to_owned();
    arrival(credential, dial, version)
}

fn authenticate(state: &State, headers: &HeaderMap) -> Result<Credential, Box<Answer>> {
    let owner = is_owner(state, headers);
    let psk = text(headers, "coder-provisioner-daemon-psk");
    let key = text(headers, "coder-provisioner-daemon-key");
    if owner && (psk.is_some() || key.is_some()) {
        return Err(Box::new(answer::message(
            StatusCode::BAD_REQUEST,
            "API key and external provisioner authentication provided, but only one is allowed",
        )));
    }
    let credential = match (owner, key, psk) {
        (true, ..) => Some(Credential::Owner),
        (false, Some(secret), None) => state.keys.by_secret(secret).map(Credential::Key),
        (false, None, Some(psk)) => state
            .psk
            .as_deref()
            .filter(|known| *known == psk)
            .map(|_| Credential::Psk),
        (false, ..) => None,
    };
    credential.ok_or_else(|| {
        Box::new(answer::message(
            StatusCode::UNAUTHORIZED,
            "API key or external provisioner authentication required, but none provided",
        ))
    })
}

fn read_query(query: &str) -> Result<Dial, Box<Answer>> {
    let bad = |message: &str| Box::new(answer::message(StatusCode::BAD_REQUEST, message));
    let mut name = String::new();
    let mut version = "1.0".to_owned();
    let mut provisioners = Vec::new();
    let mut tags = Tags::new();
    for (parameter, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*parameter {
            "name" => name = value.into_owned(),
            "version" => version = value.into_owned(),
            "provisioner" => provisioners.push(value.into_owned()),
            "tag" => {
                let Some((key, value)) = value.split_once('=') else {
                    let message =
                        format!("Invalid format for tag {value:?}. Key and value must be separated with =.");
                    return Err(bad(&message));
                };
                tags.insert(key.to_owned(), value.to_owned());
            }
            // Older clients send an id; it is ignored.
            _ => {}
        }
    }
    if provisioners.is_empty() {
        return Err(bad("The provisioner query parameter must be specified."));
    }
    if let Some(unknown) = provisioners
        .iter()
        .find(|kind| !matches!(kind.as_str(), "terraform" | "echo"))
    {
        return Err(bad(&format!("Unknown provisioner type {unknown:?}")));
    }
    if tags
        .iter()
        .any(|(key, value)| key.contains('\0') || value.contains('\0'))
    {
        return Err(bad("Given tags are not acceptable to the service"));
    }
    check_version(&version).map_err(|detail| {
        Box::new(answer::invalid(
            "Incompatible or unparsable version",
            "version",
            &detail,
        ))
    })?;
    Ok(Dial { name, tags })
}

/// Same major version, and a minor version that this server has.
fn check_version(version: &str) -> Result<(), String> {
    let parse = |text: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let Some((major, minor)) = parse(version) else {
        return Err(format!("invalid version string: {version}"));
    };
    let (own_major, own_minor) = parse(API_VERSION).unwrap_or_default();
    if major > own_major {
        Err(format!(
            "server is at version {API_VERSION}, behind requested major version {version}"
        ))
    } else if major < own_major {
        Err(format!("version {version} is no longer supported"))
    } else if minor > own_minor {
        Err(format!(
            "server is at version {API_VERSION}, behind requested minor version {version}"
        ))
    } else {
        Ok(())
    }
}

fn arrival(credential: Credential, dial: Dial, version: String) -> Result<Arrival, Box<Answer>> {
    let mut tags = dial.tags;
    let (key_id, key_name) = match credential {
        Credential::Psk => (keys::psk_id(), "psk".to_owned()),
        Credential::Owner => (Uuid::from_u128(keys::RESERVED[2].1), "user-auth".to_owned()),
        Credential::Key(_) if !tags.is_empty() => {
            let scope = tags.get("scope").map_or("", String::as_str);
            return Err(Box::new(answer::detailed(
                StatusCode::FORBIDDEN,
                &format!("You aren't allowed to create provisioner daemons with scope {scope:?}"),
                "tags are not allowed when using a provisioner key",
            )));
        }
        Credential::Key(key) => {
            tags = key.tags;
            (key.id, key.name)
        }
    };
    // What the real server makes of them: organization scope has no owner, and empty values are dropped.
    tags.retain(|_, value| !value.is_empty());
    tags.insert("scope".to_owned(), "organization".to_owned());
    tags.insert("owner".to_owned(), String::new());
    Ok(Arrival {
        name: dial.name,
        version,
        tags,
        key_id,
        key_name,
    })
}

/// The WebSocket key, or the 426 of a request that asks for no upgrade.
fn upgrade_key(headers: &HeaderMap) -> Result<String, Box<Answer>> {
    let connection = text(headers, "connection").unwrap_or_default();
    let has = |list: &str, word: &str| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(word));
    let upgrade = text(headers, "upgrade").unwrap_or_default();
    let problem = if !has(connection, "upgrade") {
        format!("WebSocket protocol violation: Connection header {connection:?} does not contain Upgrade")
    } else if !has(upgrade, "websocket") {
        format!("WebSocket protocol violation: Upgrade header {upgrade:?} does not contain websocket")
    } else {
        match text(headers, "sec-websocket-key") {
            Some(key) => return Ok(key.to_owned()),
            None => "WebSocket protocol violation: missing Sec-WebSocket-Key".to_owned(),
        }
    };
    // Recorded: the plain text of the one layer, then the JSON of the other, in one body.
    let quoted = problem.replace('"', "\\\"");
    let body = format!(
        "{problem}\n{{\n\t\"message\": \"Internal error accepting websocket connection.\",\n\t\"detail\": \"failed to \
         accept WebSocket connection: {quoted}\"\n}}\n"
    );
    Err(Box::new(answer::with_type(
        StatusCode::UPGRADE_REQUIRED,
        answer::TEXT,
        body,
    )))
}

fn switching(key: &str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer::mark(headers);
    response
}

async fn keep_session(
    state: Arc<State>,
    connection: Connection,
    row: Uuid,
    upgrade: hyper::upgrade::OnUpgrade,
) {
    let session = async {
        // Fails when the peer is gone before the answer reached it.
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let touch = async {
            loop {
                tokio::time::sleep(state.time_scale.scaled(TOUCH_INTERVAL)).await;
                state.daemons.touch(row);
            }
        };
        tokio::select! {
            () = touch => {}
            _end = keepalive::run(&mut socket, state.time_scale) => {}
        }
    };
    let _ = connection.cut.run_until_cancelled(session).await;
    state.closed(connection.id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for good in ["1.9", "1.0", "1.1"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("1.10", "minor"),
            ("2.0", "major"),
            ("0.9", "no longer"),
            ("x", "invalid"),
        ] {
            assert!(check_version(bad).unwrap_err().contains(word), "{bad}");
        }
    }
}
