//! What the stand-in can be told to do wrong. The canned answers are those of the recorded cases.

use std::str::FromStr;

/// One way of misbehaving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The same answer to every request.
    Answer(Canned),
    /// Connections are accepted and never answered.
    NeverAnswer,
    /// Connections are closed as soon as they are accepted.
    CloseAfterAccept,
}

/// An answer to everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canned {
    /// The status code.
    pub status: u16,
    /// The reason phrase, if not the usual one.
    pub reason: Option<&'static str>,
    /// The Content-Type.
    pub content_type: &'static str,
    /// The body.
    pub body: &'static str,
}

const HTML: &str = "text/html";
const JSON: &str = "application/json";

const fn canned(status: u16, content_type: &'static str, body: &'static str) -> Canned {
    Canned {
        status,
        reason: None,
        content_type,
        body,
    }
}

impl Fault {
    /// A block page of a proxy.
    pub const BLOCKED: Self = Self::Answer(canned(403, HTML, "<html><body>Blocked by policy</body></html>"));
    /// A proxy without its server.
    pub const BAD_GATEWAY: Self = Self::Answer(canned(502, HTML, "<html><body>Bad gateway</body></html>"));
    /// The login page of a hotel.
    pub const CAPTIVE_PORTAL: Self = Self::Answer(canned(
        200,
        HTML,
        "<html><body>Welcome to the hotel network, please log in</body></html>",
    ));
    /// Coder's rate limit.
    pub const RATE_LIMITED: Self = Self::Answer(canned(
        429,
        JSON,
        r#"{"message":"You've been rate limited for sending more than 512 requests in 1m0s."}"#,
    ));
    /// A server that is older than its child.
    pub const OLD_SERVER: Self = Self::Answer(canned(
        400,
        JSON,
        concat!(
            r#"{"message":"Incompatible or unparsable version","validations":[{"field":"version","#,
            r#""detail":"server is at version 1.8, behind requested minor version 1.9"}]}"#
        ),
    ));
    /// Coder's answer about what is not there.
    pub const NOT_FOUND: Self = Self::Answer(canned(
        404,
        JSON,
        r#"{"message":"Resource not found or you do not have access to this resource"}"#,
    ));
    /// Coder's answer to a wrong credential.
    pub const UNAUTHORIZED: Self = Self::Answer(canned(
        401,
        JSON,
        r#"{"message":"API key or external provisioner authentication required, but none provided"}"#,
    ));
    /// A proxy that lets nobody through, in plain text.
    pub const PROXY_FORBIDS: Self = Self::Answer(canned(403, "text/plain", "no"));
    /// A proxy that knows no CONNECT.
    pub const PROXY_WITHOUT_CONNECT: Self = Self::Answer(Canned {
        status: 501,
        reason: Some("Unsupported method ('CONNECT')"),
        content_type: HTML,
        body: "",
    });
}

/// The word names no fault.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown fault {0:?}; hint: answer-200, -400, -401, -403, -404, -429 or -502, never-answer, close-after-accept"
)]
pub struct UnknownFault(String);

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        Ok(match text {
            "answer-200" => Self::CAPTIVE_PORTAL,
            "answer-400" => Self::OLD_SERVER,
            "answer-401" => Self::UNAUTHORIZED,
            "answer-403" => Self::BLOCKED,
            "answer-404" => Self::NOT_FOUND,
            "answer-429" => Self::RATE_LIMITED,
            "answer-502" => Self::BAD_GATEWAY,
            "never-answer" => Self::NeverAnswer,
            "close-after-accept" => Self::CloseAfterAccept,
            _ => return Err(UnknownFault(text.to_owned())),
        })
    }
}
