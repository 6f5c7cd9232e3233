//! Settings that are one word out of a few: from text, or an error that lists the choices.

use orfe_tunnel::TcpStack;

use super::LogFormat;
use crate::failure::{Exit, Failure};

pub(super) fn tcp_stack(place: &str, name: &str) -> Result<TcpStack, Failure> {
    name.parse().map_err(|_| {
        Failure::new(format!("{place} is `{name}`"))
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
