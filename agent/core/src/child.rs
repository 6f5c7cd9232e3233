//! What a line of `coder provisionerd` means.
//!
//! The child writes JSON lines with plain text in between, on stdout and stderr. Its own words are the only early news
//! of how it fares: a 403 turns it into a process that lives and never dials again, a 401 into one that dials for ever,
//! and neither ends it. The messages here are the child's own (seen from v2.16.0 to v2.26.0).

use serde::Deserialize;

/// News from the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// It runs; it is not connected.
    Started,
    Connected,
    /// The connection ended; it dials again by itself.
    Disconnected,
    /// A dial failed; it dials again by itself.
    DialFailed(DialFailure),
    /// Any 403: it will never dial again.
    Rejected {
        text: String,
    },
    /// It goes down with this error.
    Fatal {
        text: String,
    },
    /// It found no terraform and downloads one.
    InstallingTerraform,
    /// Output of somebody's build: private, not to be kept.
    BuildOutput,
    /// Nothing that decides anything.
    Other,
}

/// Why a dial failed, as far as the text tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialFailure {
    pub kind: DialFailureKind,
    /// The child's own words, cut to a readable length.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailureKind {
    /// 401: the PSK or key is wrong, or was deleted.
    Unauthorized,
    /// 400 with a version: the child is newer than the server.
    Version,
    /// 200 and other answers of something that is no Coder: a captive portal, a proxy's page.
    NotCoder,
    /// 429.
    RateLimited,
    /// Any other HTTP status.
    Status(u16),
    /// Nobody this machine trusts vouches for the certificate.
    UnknownAuthority,
    /// The certificate is made out to another name, is expired, or cannot be used in some other way.
    Certificate,
    /// No answer at all: refused, reset, not resolved, TLS.
    Network,
}

impl DialFailureKind {
    /// What people call it.
    pub fn describe(self) -> String {
        match self {
            Self::Unauthorized => "Coder does not accept the credential (401)".to_owned(),
            Self::Version => "the coder program is newer than the Coder server (400)".to_owned(),
            Self::NotCoder => {
                "something that is not Coder answers at its address (a captive portal?)".to_owned()
            }
            Self::RateLimited => "Coder asks to slow down (429)".to_owned(),
            Self::Status(status) => format!("Coder's address answers with status {status}"),
            Self::UnknownAuthority => {
                "Coder's certificate is signed by an authority that this machine does not trust".to_owned()
            }
            Self::Certificate => "Coder's certificate does not hold".to_owned(),
            Self::Network => "Coder cannot be reached".to_owned(),
        }
    }

    /// What a person can do about it, where that is known.
    pub const fn hint(self) -> Option<&'static str> {
        match self {
            Self::Unauthorized => Some("the registry's credential for Coder is wrong or was deleted there"),
            Self::Version => Some("install the `coder` program of the server's version"),
            Self::NotCoder => {
                Some("open a page in a browser on this network, or look at who answers at Coder's URL")
            }
            Self::UnknownAuthority => Some(
                "name the authority's PEM file as `ca_file` in `[coder]` of the registry's configuration, \
                 or add it to this machine's trusted certificates",
            ),
            Self::Certificate => Some(
                "compare the name and the dates of Coder's certificate with its URL and with this machine's clock",
            ),
            Self::RateLimited | Self::Status(_) | Self::Network => None,
        }
    }
}

#[derive(Deserialize)]
struct Record {
    msg: String,
    #[serde(default)]
    logger_names: Vec<String>,
    #[serde(default)]
    fields: Fields,
}

#[derive(Deserialize, Default)]
struct Fields {
    #[serde(default)]
    error: Option<String>,
}

/// Longest text that is kept of an error, in characters; a proxy's HTML page can stand in it.
const TEXT_MAX: usize = 300;

/// Reads one line.
#[must_use]
pub fn read(line: &str) -> Sign {
    match serde_json::from_str::<Record>(line) {
        Ok(record) => read_record(&record),
        Err(_) => read_text(line),
    }
}

fn read_record(record: &Record) -> Sign {
    let error = record.fields.error.as_deref().unwrap_or(&record.msg);
    match record.msg.as_str() {
        "starting provisioner daemon" => Sign::Started,
        "successfully connected to coderd" => Sign::Connected,
        "connection to coderd closed" => Sign::Disconnected,
        "coderd client failed to dial" => Sign::DialFailed(dial_failure(error)),
        "not authorized to dial coderd" => Sign::Rejected { text: concise(error) },
        "terraform installation is taking longer than 15 seconds, still in progress"
        | "no usable terraform binary found, downloading to cache dir" => Sign::InstallingTerraform,
        "workspace provisioner job logged" => Sign::BuildOutput,
        _ if record.logger_names.iter().any(|name| name == "runner") => Sign::BuildOutput,
        _ => Sign::Other,
    }
}

fn read_text(line: &str) -> Sign {
    let fatal = line
        .strip_prefix("ERROR: Unexpected error, shutting down server: ")
        .or_else(|| line.strip_prefix("error: "));
    fatal.map_or(Sign::Other, |text| Sign::Fatal { text: shorten(text) })
}

/// Tells dial errors apart by the status in their text.
#[must_use]
pub fn dial_failure(text: &str) -> DialFailure {
    let kind = match status_in(text) {
        Some(401) => DialFailureKind::Unauthorized,
        Some(400) if text.contains("version") => DialFailureKind::Version,
        Some(200..=399) => DialFailureKind::NotCoder,
        Some(429) => DialFailureKind::RateLimited,
        Some(status) => DialFailureKind::Status(status),
        // The words are those of Go's crypto/x509.
        None if text.contains("x509: certificate signed by unknown authority") => {
            DialFailureKind::UnknownAuthority
        }
        None if text.contains("x509: ") => DialFailureKind::Certificate,
        None => DialFailureKind::Network,
    };
    DialFailure {
        kind,
        text: concise(text),
    }
}

const STATUS: &str = "unexpected status code ";

fn status_in(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once(STATUS)?;
    rest.get(..3)?.parse().ok()
}

/// The part of a dial error that tells something: what comes after the URL, which is long and always the same.
fn concise(text: &str) -> String {
    let start = text
        .find(STATUS)
        .or_else(|| text.rfind("\": ").map(|at| at + 3))
        .unwrap_or(0);
    shorten(&text[start..])
}

fn shorten(text: &str) -> String {
    // Whoever answers the child chooses this text; it must not steer the terminal that it is shown on.
    let mut chars = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = chars.by_ref().take(TEXT_MAX).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(msg: &str, error: &str) -> String {
        serde_json::json!({"ts": "2026-11-20T22:53:48Z", "level": "INFO", "msg": msg, "fields": {"error": error}})
            .to_string()
    }

    #[test]
    fn lines_that_decide_something() {
        for (msg, sign) in [
            ("starting provisioner daemon", Sign::Started),
            ("successfully connected to coderd", Sign::Connected),
            ("connection to coderd closed", Sign::Disconnected),
            ("workspace provisioner job logged", Sign::BuildOutput),
            ("attempting graceful shutdown", Sign::Other),
        ] {
            assert_eq!(read(&json(msg, "")), sign, "{msg}");
        }
        assert_eq!(
            read(&json(
                "not authorized to dial coderd",
                "GET http://x: unexpected status code 403: no"
            )),
            Sign::Rejected {
                text: "unexpected status code 403: no".into()
            }
        );
    }

    #[test]
    fn dial_errors_are_told_apart_by_their_status() {
        for (error, kind) in [
            (
                "GET http://x: unexpected status code 401: API key or …",
                DialFailureKind::Unauthorized,
            ),
            (
                "GET http://x: unexpected status code 400: Incompatible or unparsable version",
                DialFailureKind::Version,
            ),
            (
                "GET http://x: unexpected status code 400: bad",
                DialFailureKind::Status(400),
            ),
            (
                "GET http://x: unexpected status code 200: unexpected non-JSON response",
                DialFailureKind::NotCoder,
            ),
            (
                "GET http://x: unexpected status code 429: slow",
                DialFailureKind::RateLimited,
            ),
            (
                "GET http://x: unexpected status code 502: bad gateway",
                DialFailureKind::Status(502),
            ),
            (
                "Get \"https://x\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
                DialFailureKind::UnknownAuthority,
            ),
            (
                "Get \"https://x\": tls: failed to verify certificate: x509: certificate is valid for y, not x",
                DialFailureKind::Certificate,
            ),
            (
                "dial tcp 127.0.0.1:1: connect: connection refused",
                DialFailureKind::Network,
            ),
        ] {
            let Sign::DialFailed(failure) = read(&json("coderd client failed to dial", error)) else {
                panic!("{error}")
            };
            assert_eq!(failure.kind, kind, "{error}");
        }
    }

    #[test]
    fn the_url_is_left_out_of_what_people_read() {
        let long = format!(
            "Get \"http://x/{}\": dial tcp: connection refused",
            "a".repeat(500)
        );
        assert_eq!(dial_failure(&long).text, "dial tcp: connection refused");
        let long = format!(
            "GET http://x/{}: unexpected status code 404: gone",
            "a".repeat(500)
        );
        assert_eq!(dial_failure(&long).text, "unexpected status code 404: gone");
    }

    #[test]
    fn plain_text_between_the_json() {
        let line = "ERROR: Unexpected error, shutting down server: install terraform: no such host";
        assert_eq!(
            read(line),
            Sign::Fatal {
                text: "install terraform: no such host".into()
            }
        );
        assert_eq!(
            read("error: unable to get provisioner key details"),
            Sign::Fatal {
                text: "unable to get provisioner key details".into()
            }
        );
        for line in [
            "",
            "WARN: `CODER_PROVISIONER_DAEMON_PSK` is deprecated",
            "{\"half\":",
            "null",
            "[1]",
        ] {
            assert_eq!(read(line), Sign::Other, "{line}");
        }
    }

    #[test]
    fn build_output_is_known_by_its_logger() {
        let line = r#"{"level":"ERROR","msg":"secret stuff","logger_names":["runner"]}"#;
        assert_eq!(read(line), Sign::BuildOutput);
    }

    #[test]
    fn a_text_cannot_steer_the_terminal() {
        let text = dial_failure("unexpected status code 502: \u{1b}[2J\u{7}\n\tgone").text;
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }

    #[test]
    fn a_page_in_an_error_is_cut() {
        let Sign::Rejected { text } = read(&json("not authorized to dial coderd", &"ä".repeat(4000))) else {
            panic!("not rejected")
        };
        assert_eq!(text.chars().count(), TEXT_MAX + 1);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in ".{0,300}") {
            let _ = read(&line);
        }
    }
}
