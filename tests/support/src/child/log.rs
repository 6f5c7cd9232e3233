//! The child's log: slog's JSON and human formats, byte for byte but for the time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

/// How much a line weighs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// A line of the real program: its level and message, and the place in the real source that prints it.
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) message: &'static str,
    pub(super) caller: &'static str,
    pub(super) func: &'static str,
    pub(super) loggers: &'static [&'static str],
}

/// Named values of a line, in their order.
pub(super) type Fields<'a> = &'a [(&'a str, Value)];

enum Sink {
    Stdout,
    Stderr,
    File(Mutex<File>),
}

/// Writes lines to the sinks that the options name.
pub(super) struct Logger {
    human: Option<Sink>,
    json: Option<Sink>,
    least: Level,
}

#[derive(Serialize)]
struct Record<'a> {
    ts: String,
    level: &'static str,
    msg: &'a str,
    caller: &'a str,
    func: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    logger_names: &'a [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "in_order")]
    fields: Fields<'a>,
}

fn in_order<S: Serializer>(fields: &Fields<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(fields.len()))?;
    for (name, value) in *fields {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

impl Logger {
    /// `human` and `json` are paths; empty means none, and `/dev/stderr` and `/dev/stdout` are known by name.
    pub(super) fn open(human: &str, json: &str, verbose: bool) -> io::Result<Self> {
        let least = if verbose { Level::Debug } else { Level::Info };
        Ok(Self {
            human: Sink::open(human)?,
            json: Sink::open(json)?,
            least,
        })
    }

    /// Writes `line`.
    pub(super) fn line(&self, line: &Line, fields: Fields<'_>) {
        self.text(line, line.message, fields);
    }

    /// Writes `line` with a message of its own.
    pub(super) fn text(&self, line: &Line, message: &str, fields: Fields<'_>) {
        if line.level < self.least {
            return;
        }
        if let Some(sink) = &self.human {
            sink.write(&human(line, message, fields));
        }
        if let Some(sink) = &self.json {
            sink.write(&json(line, message, fields));
        }
    }
}

impl Sink {
    fn open(path: &str) -> io::Result<Option<Self>> {
        Ok(match path {
            "" => None,
            "/dev/stderr" => Some(Self::Stderr),
            "/dev/stdout" => Some(Self::Stdout),
            file => Some(Self::File(Mutex::new(
                OpenOptions::new().create(true).append(true).open(file)?,
            ))),
        })
    }

    /// One write for each line, so that lines of several sinks do not mix. A log that cannot be written is lost.
    fn write(&self, line: &str) {
        let _ = match self {
            Self::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Self::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Self::File(file) => file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(line.as_bytes()),
        };
    }
}

fn json(line: &Line, message: &str, fields: Fields<'_>) -> String {
    let level = match line.level {
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    };
    let ts = jiff::Timestamp::now().to_string();
    let record = Record {
        ts,
        level,
        msg: message,
        caller: line.caller,
        func: line.func,
        logger_names: line.loggers,
        fields,
    };
    // Text and names only: there is nothing in a record that could not be written as JSON.
    let mut text = serde_json::to_string(&record).unwrap_or_default();
    // Go escapes these in every string, and outside of strings they do not occur.
    for (character, escaped) in [('&', "\\u0026"), ('<', "\\u003c"), ('>', "\\u003e")] {
        text = text.replace(character, escaped);
    }
    text.push('\n');
    text
}

fn human(line: &Line, message: &str, fields: Fields<'_>) -> String {
    let level = match line.level {
        Level::Debug => "debu",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "erro",
    };
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%d %H:%M:%S%.3f")
        .to_string();
    let mut text = format!("{now} [{level}]  ");
    for logger in line.loggers {
        text.push_str(logger);
        text.push_str(": ");
    }
    text.push_str(message);
    for (name, value) in fields {
        text.push_str("  ");
        text.push_str(name);
        text.push('=');
        text.push_str(&human_value(value));
    }
    text.push('\n');
    text
}

fn human_value(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() || text.contains([' ', '"', '\n', '=']) => format!("{text:?}"),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LINE: Line = Line {
        level: Level::Warn,
        message: "m",
        caller: "a.go:1",
        func: "f",
        loggers: &["l"],
    };

    #[test]
    fn json_keeps_the_order_of_fields_and_escapes_as_go_does() {
        let text = json(&LINE, "m", &[("z", json!("<&>")), ("a", json!(null))]);
        let after_time = text.split_once(',').unwrap().1;
        assert_eq!(
            after_time,
            "\"level\":\"WARN\",\"msg\":\"m\",\"caller\":\"a.go:1\",\"func\":\"f\",\"logger_names\":[\"l\"],\
             \"fields\":{\"z\":\"\\u003c\\u0026\\u003e\",\"a\":null}}\n"
        );
    }

    #[test]
    fn human_quotes_what_needs_it() {
        let text = human(
            &LINE,
            "m",
            &[
                ("tags", json!({})),
                ("name", json!("rec-1")),
                ("error", json!("a \"b\"")),
            ],
        );
        assert!(
            text.ends_with(" [warn]  l: m  tags={}  name=rec-1  error=\"a \\\"b\\\"\"\n"),
            "{text}"
        );
        assert_eq!(text.as_bytes()[19], b'.', "{text}");
    }
}
