//! Responses in Coder's shape.

use bytes::Bytes;
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::VERSION;
use super::fault::Canned;

pub(super) type Answer = Response<Full<Bytes>>;

const JSON: &str = "application/json; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const NOT_FOUND: &str = "Resource not found or you do not have access to this resource";

/// `status` with `body` of `content_type`, and the headers that every response bears.
pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    mark(headers);
    response
}

/// The headers that every response bears.
pub(super) fn mark(headers: &mut hyper::HeaderMap) {
    let id = uuid::Uuid::new_v4().to_string();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-coder-request-id"), id);
    }
    headers.insert(
        HeaderName::from_static("x-coder-build-version"),
        HeaderValue::from_static(VERSION),
    );
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        HeaderName::from_static("orfe-stand-in"),
        HeaderValue::from_static("coder"),
    );
}

/// A JSON body. Values of this server can all be written as JSON.
pub(super) fn json_body(status: StatusCode, body: &impl Serialize) -> Answer {
    with_type(status, JSON, serde_json::to_vec(body).unwrap_or_default())
}

/// An error with nothing but its message.
pub(super) fn message(status: StatusCode, message: &str) -> Answer {
    json_body(status, &json!({ "message": message }))
}

/// An error with a message and a detail.
pub(super) fn detailed(status: StatusCode, message: &str, detail: &str) -> Answer {
    json_body(status, &json!({ "message": message, "detail": detail }))
}

/// An error about one field.
pub(super) fn invalid(message: &str, field: &str, detail: &str) -> Answer {
    let validations: Value = json!([{ "field": field, "detail": detail }]);
    json_body(
        StatusCode::BAD_REQUEST,
        &json!({ "message": message, "validations": validations }),
    )
}

/// Coder's 404.
pub(super) fn not_found() -> Answer {
    message(StatusCode::NOT_FOUND, NOT_FOUND)
}

/// 204, which bears a Content-Type all the same.
pub(super) fn no_content() -> Answer {
    with_type(StatusCode::NO_CONTENT, JSON, Bytes::new())
}

/// The 401 of calls that need a session token.
pub(super) fn signed_out(local_url: &str) -> Answer {
    let mut response = detailed(
        StatusCode::UNAUTHORIZED,
        "You are signed out or your session has expired. Please sign in again to continue.",
        "Cookie \"coder_session_token\" or query parameter must be provided.",
    );
    let challenge = format!(
        "Bearer realm=\"coder\", error=\"invalid_token\", error_description=\"The access token has expired\", \
         resource_metadata=\"{local_url}/.well-known/oauth-protected-resource\""
    );
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        response
            .headers_mut()
            .insert(hyper::header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// A fault's answer.
pub(super) fn canned(canned: &Canned) -> Answer {
    let status = StatusCode::from_u16(canned.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_type(status, canned.content_type, canned.body);
    if let Some(reason) = canned
        .reason
        .and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok())
    {
        response.extensions_mut().insert(reason);
    }
    response
}
