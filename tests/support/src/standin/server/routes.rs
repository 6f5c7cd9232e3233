//! From a request to its answer.

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{self, Answer};
use super::fault::Fault;
use super::keys::{self, NameError};
use super::listener::Connection;
use super::state::State;
use super::{API_VERSION, Tags, VERSION, entitlements, serve};

/// Longest request body that is read.
const BODY_LIMIT: usize = 64 * 1024;
/// A public key for web push; nobody has its private half.
const WEB_PUSH: &str =
    "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const INTERNAL: &str = "An internal server error occurred.";
const BIN_LISTING: &str =
    "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n</pre>\n";

/// Who asks.
#[derive(PartialEq)]
enum Caller {
    Owner,
    Member,
    Nobody,
}

#[derive(Deserialize)]
struct NewKey {
    name: String,
    #[serde(default)]
    tags: Tags,
}

/// Answers one request.
pub(super) async fn answer(state: Arc<State>, connection: Connection, request: Request<Incoming>) -> Answer {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    state
        .recorder
        .request(connection.id, connection.peer, request.method().as_str(), target);
    if let Some(Fault::Answer(canned)) = state.fault() {
        return answer::canned(&canned);
    }
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz"]) => answer::with_type(StatusCode::OK, answer::TEXT, "OK"),
        (&Method::GET, ["bin", ""]) => {
            answer::with_type(StatusCode::OK, "text/html; charset=utf-8", BIN_LISTING)
        }
        (_, ["api", "v2", rest @ ..]) => api(&state, connection, rest, request).await,
        _ => answer::not_found(),
    }
}

async fn api(
    state: &Arc<State>,
    connection: Connection,
    rest: &[&str],
    request: Request<Incoming>,
) -> Answer {
    let get = request.method() == Method::GET;
    match rest {
        [] | [""] if get => answer::message(StatusCode::OK, "👋"),
        ["buildinfo"] if get => answer::json_body(StatusCode::OK, &build_info(state)),
        ["entitlements"] if get => answer::json_body(StatusCode::OK, &entitlements::shown(state.licensed())),
        ["provisionerkeys", _] if get => key_details(state, request.headers()),
        ["organizations", organization, "provisionerdaemons", "serve"] if get => {
            serve::answer(state, connection, organization, request)
        }
        ["organizations", organization, "provisionerdaemons"] if get => {
            match allowed(state, organization, request.headers()) {
                Ok(()) => list_daemons(state, request.uri().query().unwrap_or_default()),
                Err(refused) => *refused,
            }
        }
        ["organizations", organization, "provisionerkeys", more @ ..] => {
            keys(state, organization, more, request).await
        }
        ["users", ..] => answer::signed_out(&state.local_url()),
        _ => answer::message(StatusCode::NOT_FOUND, "Route not found."),
    }
}

fn build_info(state: &State) -> Value {
    json!({
        "external_url": "https://github.com/coder/coder",
        "version": VERSION,
        "dashboard_url": state.access_url(),
        "telemetry": false,
        "workspace_proxy": false,
        "agent_api_version": "1.0",
        "provisioner_api_version": API_VERSION,
        "upgrade_message": "",
        "deployment_id": state.deployment,
        "webpush_public_key": WEB_PUSH,
    })
}

/// Only the header counts; what stands in the path may be anything.
fn key_details(state: &State, headers: &HeaderMap) -> Answer {
    let Some(secret) = text(headers, "coder-provisioner-daemon-key").filter(|secret| !secret.is_empty())
    else {
        return answer::message(StatusCode::UNAUTHORIZED, "provisioner daemon key required");
    };
    if headers.contains_key("coder-provisioner-daemon-psk") {
        return answer::message(
            StatusCode::BAD_REQUEST,
            "API key and external provisioner authentication provided, but only one is allowed",
        );
    }
    if secret.len() != keys::SECRET_LENGTH {
        return answer::detailed(
            StatusCode::BAD_REQUEST,
            "provisioner daemon key invalid",
            "must be 43 characters",
        );
    }
    match state.keys.by_secret(secret) {
        Some(key) => answer::json_body(StatusCode::OK, &key.shown(state.organization)),
        None => answer::message(StatusCode::UNAUTHORIZED, "provisioner daemon key invalid"),
    }
}

fn caller(state: &State, headers: &HeaderMap) -> Caller {
    let Some(token) = text(headers, "coder-session-token").filter(|token| !token.is_empty()) else {
        return Caller::Nobody;
    };
    if state.session_token.as_deref() == Some(token) {
        Caller::Owner
    } else if state.member_token.as_deref() == Some(token) {
        Caller::Member
    } else {
        Caller::Nobody
    }
}

/// Whether the request comes with the owner's session token.
pub(super) fn is_owner(state: &State, headers: &HeaderMap) -> bool {
    caller(state, headers) == Caller::Owner
}

/// The name or id of an organization; there is one.
pub(super) fn is_organization(state: &State, name: &str) -> bool {
    name == "default" || name.parse() == Ok(state.organization)
}

/// The refusal is boxed because it is much larger than what goes well.
fn allowed(state: &State, organization: &str, headers: &HeaderMap) -> Result<(), Box<Answer>> {
    match caller(state, headers) {
        Caller::Nobody => Err(Box::new(answer::signed_out(&state.local_url()))),
        Caller::Owner if is_organization(state, organization) => Ok(()),
        Caller::Owner | Caller::Member => Err(Box::new(answer::not_found())),
    }
}

fn list_daemons(state: &State, query: &str) -> Answer {
    let mut limit = 50;
    let mut offline = false;
    let mut statuses: Vec<String> = Vec::new();
    let mut ids: Option<Vec<Uuid>> = None;
    let mut tags = Tags::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let bad = |detail: &str| answer::invalid("Invalid query parameters.", &name, detail);
        match &*name {
            "limit" => match value.parse() {
                Ok(number) => limit = number,
                Err(_) => {
                    return bad(&format!(
                        "Query param \"limit\" must be a valid integer ({value})"
                    ));
                }
            },
            "offline" => offline = value == "true",
            "status" => statuses.extend(value.split(',').map(str::to_owned)),
            "ids" => ids = Some(value.split(',').filter_map(|id| id.parse().ok()).collect()),
            "tags" => match serde_json::from_str(&value) {
                Ok(wanted) => tags = wanted,
                Err(_) => return bad("Query param \"tags\" must be a valid JSON object"),
            },
            "max_age" => {}
            _ => return bad(&format!("{name:?} is not a valid query param")),
        }
    }
    let offline = offline || statuses.iter().any(|status| status == "offline");
    let mut found = state.daemons.all(state.time_scale);
    found.retain(|daemon| {
        (daemon.online || offline)
            && (statuses.is_empty() || statuses.iter().any(|status| status == daemon.status()))
            && ids.as_ref().is_none_or(|ids| ids.contains(&daemon.id))
            && tags
                .iter()
                .all(|(key, value)| daemon.tags.get(key) == Some(value))
    });
    if limit > 0 {
        found.truncate(limit);
    }
    let rows: Vec<Value> = found
        .iter()
        .map(|daemon| daemon.shown(state.organization))
        .collect();
    answer::json_body(StatusCode::OK, &rows)
}

async fn keys(state: &State, organization: &str, more: &[&str], request: Request<Incoming>) -> Answer {
    // Recorded: a member who makes a key is told of an internal error, not of a missing right.
    let is_member = caller(state, request.headers()) == Caller::Member;
    if is_member && request.method() == Method::POST && more.is_empty() {
        let detail = "unauthorized: rbac: forbidden";
        return answer::detailed(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL, detail);
    }
    if let Err(refused) = allowed(state, organization, request.headers()) {
        return *refused;
    }
    if !state.licensed() {
        return answer::message(
            StatusCode::FORBIDDEN,
            "External Provisioner Daemons is a Premium feature. Contact sales!",
        );
    }
    match (request.method(), more) {
        (&Method::GET, []) => {
            let shown: Vec<Value> = state
                .keys
                .all()
                .iter()
                .map(|key| key.shown(state.organization))
                .collect();
            answer::json_body(StatusCode::OK, &shown)
        }
        (&Method::GET, ["daemons"]) => answer::json_body(StatusCode::OK, &keys_with_daemons(state)),
        (&Method::POST, []) => create_key(state, request).await,
        (&Method::DELETE, [name]) => delete_key(state, name),
        _ => answer::message(StatusCode::NOT_FOUND, "Route not found."),
    }
}

fn keys_with_daemons(state: &State) -> Vec<Value> {
    let daemons = state.daemons.all(state.time_scale);
    let of_key = |id: Uuid| -> Vec<Value> {
        let own = daemons
            .iter()
            .filter(|daemon| daemon.key_id == id && daemon.online);
        own.map(|daemon| daemon.shown_under_key(state.organization))
            .collect()
    };
    let created_at = jiff::Timestamp::UNIX_EPOCH.to_string();
    let reserved = keys::RESERVED.iter().map(|(name, number)| {
        let id = Uuid::from_u128(*number);
        let key = json!({
            "id": id, "created_at": created_at, "organization": state.organization, "name": name, "tags": {},
        });
        json!({ "key": key, "daemons": of_key(id) })
    });
    let own = state.keys.all();
    let own = own
        .iter()
        .map(|key| json!({ "key": key.shown(state.organization), "daemons": of_key(key.id) }));
    reserved.chain(own).collect()
}

async fn create_key(state: &State, request: Request<Incoming>) -> Answer {
    let body = Limited::new(request.into_body(), BODY_LIMIT).collect().await;
    let wanted: NewKey = match body.map(|body| serde_json::from_slice(&body.to_bytes())) {
        Ok(Ok(wanted)) => wanted,
        Ok(Err(error)) => {
            let detail = error.to_string();
            return answer::detailed(
                StatusCode::BAD_REQUEST,
                "Request body must be valid JSON.",
                &detail,
            );
        }
        Err(_) => return answer::message(StatusCode::BAD_REQUEST, "Request body cannot be read."),
    };
    let name = &wanted.name;
    let about_name = |message: &str| answer::invalid(message, "name", message);
    match keys::check_name(name) {
        Err(NameError::Empty) => return about_name("Name is required"),
        Err(NameError::TooLong) => return about_name("Name must be at most 64 characters"),
        Err(NameError::Reserved) => return about_name(&format!("Name cannot be reserved name '{name}'")),
        Ok(()) => {}
    }
    match state.keys.create(name, &wanted.tags) {
        Some(secret) => answer::json_body(StatusCode::CREATED, &json!({ "key": secret })),
        None => answer::message(
            StatusCode::CONFLICT,
            &format!("Provisioner key with name '{name}' already exists in organization"),
        ),
    }
}

fn delete_key(state: &State, name: &str) -> Answer {
    if keys::is_reserved(name) {
        let refusal = format!("Cannot delete reserved '{name}' provisioner key");
        return answer::message(StatusCode::BAD_REQUEST, &refusal);
    }
    if state.delete_key(name) {
        answer::no_content()
    } else {
        answer::not_found()
    }
}

/// A header as text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
