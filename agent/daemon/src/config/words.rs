//! Settings that are one word out of a few: from text, or an error that lists the choices.

use std::fmt;

use orfe_tunnel::TcpStack;
use serde::de::{self, Deserializer, Unexpected, Visitor};

use super::LogFormat;
use crate::failure::{Exit, Failure};

/// The one of `choices` whose word stands in the file; the error for anything else lists all words.
pub(super) fn one_of<'de, D: Deserializer<'de>, T: Copy + 'static>(
    deserializer: D,
    choices: &'static [T],
    word: fn(T) -> &'static str,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(OneOf { choices, word })
}

struct OneOf<T: 'static> {
    choices: &'static [T],
    word: fn(T) -> &'static str,
}

impl<T: Copy + 'static> Visitor<'_> for OneOf<T> {
    type Value = T;

    /// As `"auto", "socket" or "tcp"`.
    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, choice) in self.choices.iter().enumerate() {
            let before = if index == 0 {
                ""
            } else if index + 1 == self.choices.len() {
                " or "
            } else {
                ", "
            };
            write!(formatter, "{before}\"{}\"", (self.word)(*choice))?;
        }
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        let chosen = self.choices.iter().find(|choice| (self.word)(**choice) == text);
        chosen
            .copied()
            .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// `tunnel.tcp_stack` in the file.
pub(super) fn tcp_stack_of_file<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<TcpStack>, D::Error> {
    let choices = &[TcpStack::Auto, TcpStack::Namespace, TcpStack::Smoltcp];
    one_of(deserializer, choices, TcpStack::as_str).map(Some)
}

pub(super) fn tcp_stack(text: &str) -> Result<TcpStack, Failure> {
    text.parse().map_err(|_| {
        Failure::new(format!("the variable ORFE_TCP_STACK is `{text}`"))
            .hint("`auto`, `namespace` and `smoltcp` are the choices".to_owned())
            .exit(Exit::Usage)
    })
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, Failure> {
    match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err(Failure::new(format!("ORFE_LOG_FORMAT is `{text}`"))
            .hint("`human` and `json` are the choices".to_owned())
            .exit(Exit::Usage)),
    }
}
