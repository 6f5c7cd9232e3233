//! What the child makes of an answer that is not 101: the real program's words for it, and whether it gives up.

use serde::Deserialize;
use url::Url;

use super::dial::DialError;
use super::http::{self, Head, JSON_BODY, Stream};

/// How much of an answer that is not JSON goes into the error's text.
const QUOTED_BODY: usize = 2048;

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    validations: Vec<Validation>,
}

#[derive(Deserialize)]
struct Validation {
    field: String,
    detail: String,
}

/// Reads the answer's body and words the error.
pub(super) async fn refusal(url: &Url, stream: &mut Stream, head: Head) -> DialError {
    let status = head.status;
    let content_type = head.header("Content-Type").unwrap_or_default().to_owned();
    let limit = if is_json(&content_type) {
        JSON_BODY
    } else {
        QUOTED_BODY
    };
    let body = http::body(stream, head, limit).await.unwrap_or_default();
    let text = format!(
        "GET {url}: unexpected status code {status}: {}",
        refusal_text(status, &content_type, &body)
    );
    if status == 403 {
        DialError::Forbidden(text)
    } else {
        DialError::Failed(text)
    }
}

fn is_json(content_type: &str) -> bool {
    content_type
        .split(';')
        .next()
        .is_some_and(|mime| mime.trim() == "application/json")
}

fn refusal_text(status: u16, content_type: &str, body: &[u8]) -> String {
    let parsed = if is_json(content_type) {
        serde_json::from_slice::<ErrorBody>(body).ok()
    } else {
        None
    };
    let Some(parsed) = parsed else {
        let body = String::from_utf8_lossy(body);
        return format!("unexpected non-JSON response {content_type:?}\n\tError: {body}");
    };
    let mut text = parsed.message;
    if status == 401 {
        text.push_str(": Try logging in using 'coder login'.");
    }
    if !parsed.detail.is_empty() {
        text.push_str("\n\tError: ");
        text.push_str(&parsed.detail);
    }
    for validation in parsed.validations {
        text.push_str("\n\t");
        text.push_str(&validation.field);
        text.push_str(": ");
        text.push_str(&validation.detail);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_refusals_as_the_real_program_does() {
        let json = br#"{"message":"m","detail":"d","validations":[{"field":"f","detail":"x"}]}"#;
        assert_eq!(
            refusal_text(400, "application/json; charset=utf-8", json),
            "m\n\tError: d\n\tf: x"
        );
        assert!(refusal_text(401, "application/json", br#"{"message":"m"}"#).ends_with("'coder login'."));
        assert_eq!(
            refusal_text(200, "text/html", b"<html>"),
            "unexpected non-JSON response \"text/html\"\n\tError: <html>"
        );
    }
}
