//! Reading logs in which JSON lines and plain text stand mixed, as the provisioner's stderr does.

use std::path::Path;

use serde_json::Value;

/// One line of a log.
#[derive(Debug, Clone, PartialEq)]
pub enum LogLine {
    /// A JSON object.
    Json(Value),
    /// Anything else, as it stands; bytes that are not UTF-8 are replaced.
    Plain(String),
}

impl LogLine {
    /// Reads one line.
    pub fn parse(line: &str) -> Self {
        match serde_json::from_str(line) {
            Ok(value @ Value::Object(_)) => Self::Json(value),
            _ => Self::Plain(line.to_owned()),
        }
    }

    /// The message: the field `msg` or `message` of a JSON line, the whole of a plain one.
    pub fn message(&self) -> &str {
        match self {
            Self::Json(value) => value
                .get("msg")
                .or_else(|| value.get("message"))
                .and_then(Value::as_str)
                .unwrap_or_default(),
            Self::Plain(text) => text,
        }
    }
}

/// The complete lines of a log file; a last line without its end is left out, because its writer may not be done.
pub fn read(path: &Path) -> std::io::Result<Vec<LogLine>> {
    let bytes = std::fs::read(path)?;
    Ok(complete_lines(&bytes)
        .iter()
        .map(|line| LogLine::parse(line))
        .collect())
}

/// The complete lines of `bytes` as text.
pub fn complete_lines(bytes: &[u8]) -> Vec<String> {
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |position| position + 1);
    String::from_utf8_lossy(&bytes[..end])
        .lines()
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_json_from_plain_text() {
        assert_eq!(LogLine::parse(r#"{"msg":"up"}"#).message(), "up");
        assert_eq!(LogLine::parse("WARN: old").message(), "WARN: old");
        assert_eq!(LogLine::parse("42"), LogLine::Plain("42".to_owned()));
    }

    #[test]
    fn leaves_an_unfinished_line_out() {
        assert_eq!(complete_lines(b"one\n\ntw"), ["one", ""]);
        assert!(complete_lines(b"half").is_empty());
    }
}
