//! Telling a record from plain text in a child's output.
//!
//! With `--log-json`, `coder provisionerd` writes one JSON object for each record, and plain text in between: warnings of its
//! command line, errors that end it, empty lines. [`parse`] takes one line apart and judges nothing; it is pure and never
//! fails, because what is no record is text.
//!
//! A record as recorded from v2.26.0:
//! `{"ts":"2026-11-20T22:56:42.496580598Z","level":"INFO","msg":"…","caller":"…","func":"…","logger_names":["terraform"],"fields":{…}}`

use serde::Deserialize;
use serde_json::{Map, Value};

/// One line of output.
#[derive(Debug, Clone, PartialEq)]
pub enum Output<'a> {
    /// A record of its logger.
    Record(Record),
    /// Anything else.
    Text(&'a str),
}

/// A record of the child's logger (Go package `cdr.dev/slog`). Fields that are not named here are left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// When, as RFC 3339 text of the child's own clock and zone.
    #[serde(default)]
    pub ts: Option<String>,
    /// How bad.
    #[serde(default)]
    pub level: Level,
    /// The message, a fixed text.
    #[serde(rename = "msg")]
    pub message: String,
    /// The loggers it went through, the outermost first; empty for the main one.
    #[serde(default, deserialize_with = "null_is_default")]
    pub logger_names: Vec<String>,
    /// What is special about this one, such as `error`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub fields: Map<String, Value>,
}

/// The logger's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Only with `--verbose`.
    Debug,
    /// The usual.
    Info,
    /// Worth a look.
    Warn,
    /// Failed.
    Error,
    /// Failed, and somebody should know.
    Critical,
    /// Failed, and the program ends.
    Fatal,
    /// None, or one of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Record {
    /// A field that is text.
    pub fn text_field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// Whether it came through the logger of this name.
    pub fn is_from(&self, logger: &str) -> bool {
        self.logger_names.iter().any(|name| name == logger)
    }
}

/// Takes a line apart. A JSON object without a `msg` is text too.
pub fn parse(line: &str) -> Output<'_> {
    // Most plain text is told by its first character, without a parser's error.
    if !line.trim_start().starts_with('{') {
        return Output::Text(line);
    }
    serde_json::from_str(line).map_or(Output::Text(line), Output::Record)
}

/// Go writes an empty list or map as `null` when it was never made.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn connected_record() {
        let record = record(
            r#"{"ts":"2026-11-20T22:53:48.180811799Z","level":"INFO","msg":"successfully connected to coderd","caller":"provisionerd/provisionerd.go:258","func":"github.com/coder/coder/v2/provisionerd.(*Server).connect"}"#,
        );
        assert_eq!(record.message, "successfully connected to coderd");
        assert_eq!(record.level, Level::Info);
        assert_eq!(record.ts.as_deref(), Some("2026-11-20T22:53:48.180811799Z"));
        assert!(record.logger_names.is_empty() && record.fields.is_empty());
    }

    #[test]
    fn record_with_logger_and_fields() {
        let record = record(
            r#"{"ts":"2026-11-20T22:56:42.496580598Z","level":"INFO","msg":"unpacking template source archive","caller":"provisionersdk/session.go:239","func":"f","logger_names":["terraform"],"fields":{"session_id":"86fa965f-b422-4236-9f82-8946ea9d435c","size_bytes":10240}}"#,
        );
        assert!(record.is_from("terraform") && !record.is_from("runner"));
        assert_eq!(
            record.text_field("session_id"),
            Some("86fa965f-b422-4236-9f82-8946ea9d435c")
        );
        assert_eq!(record.text_field("size_bytes"), None, "a number");
        assert_eq!(record.fields["size_bytes"], 10240);
    }

    #[test]
    fn text_between_the_records() {
        for text in [
            "",
            "WARN: `CODER_PROVISIONER_DAEMON_PSK` is deprecated, please use `CODER_PROVISIONER_DAEMON_KEY` instead.",
            "ERROR: Unexpected error, shutting down server: install terraform: install: Get \"https://releases.hashicorp.com/\": no such host",
            "error: shutdown: context canceled",
            "Stop caught, waiting for provisioner jobs to complete and gracefully exiting. Use ctrl+\\ to force quit",
            "{not json",
            "{\"message\":\"an object of somebody else\"}",
            "{\"msg\":7}",
            "{\"msg\":\"cut in the mid",
            "[\"msg\"]",
        ] {
            assert_eq!(parse(text), Output::Text(text));
        }
    }

    #[test]
    fn later_versions_and_nulls() {
        let record =
            record(r#"{"level":"NOTICE","msg":"m","logger_names":null,"fields":null,"new":{"a":[1]}}"#);
        assert_eq!(record.level, Level::Unknown);
        assert!(record.logger_names.is_empty() && record.fields.is_empty());
        for (text, level) in [
            ("DEBUG", Level::Debug),
            ("WARN", Level::Warn),
            ("FATAL", Level::Fatal),
        ] {
            assert_eq!(
                self::record(&format!(r#"{{"level":"{text}","msg":""}}"#)).level,
                level
            );
        }
    }

    #[test]
    fn deep_nesting_is_text() {
        let line = format!(
            r#"{{"msg":"m","fields":{{"a":{}1{}}}}}"#,
            "[".repeat(5000),
            "]".repeat(5000)
        );
        assert!(matches!(parse(&line), Output::Text(_)));
    }

    proptest! {
        #[test]
        fn any_text_is_taken(line in ".*") {
            prop_assert_eq!(parse(&line), Output::Text(line.as_str()));
        }

        #[test]
        fn any_message_and_field_come_back(message in ".*", value in ".*") {
            let line = serde_json::json!({"level": "ERROR", "msg": message, "fields": {"error": value}}).to_string();
            let Output::Record(record) = parse(&line) else { panic!("{line}") };
            prop_assert_eq!(record.message.as_str(), message.as_str());
            prop_assert_eq!(record.text_field("error"), Some(value.as_str()));
        }

        #[test]
        fn a_record_cut_anywhere_does_not_panic(at in 0..200_usize) {
            let line = r#"{"ts":"2026-11-20T22:53:48Z","level":"INFO","msg":"starting provisioner daemon","fields":{"tags":{},"name":"ä"}}"#;
            let cut = &line[..line.floor_char_boundary(at.min(line.len() - 1))];
            prop_assert_eq!(parse(cut), Output::Text(cut));
        }
    }

    fn record(line: &str) -> Record {
        match parse(line) {
            Output::Record(record) => record,
            Output::Text(text) => panic!("text: {text}"),
        }
    }
}
