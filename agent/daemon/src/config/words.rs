//! Settings that are one word out of a few, or a name: from text, or an error that lists the choices.

use std::path::Path;

use orfe_tunnel::TcpStack;

use super::{ContainersEnabled, LogFormat};
use crate::failure::{Exit, Failure};

pub(super) fn tcp_stack(place: &str, name: &str) -> Result<TcpStack, Failure> {
    name.parse().map_err(|_| {
        Failure::new(format!("{place} is `{name}`"))
            .hint("`auto`, `namespace` and `smoltcp` are the choices".to_owned())
            .exit(Exit::Usage)
    })
}

pub(super) fn containers(text: &str) -> Result<ContainersEnabled, Failure> {
    match text {
        "auto" => Ok(ContainersEnabled::Auto),
        "off" => Ok(ContainersEnabled::Off),
        _ => Err(Failure::new(format!("ORFE_CONTAINERS is `{text}`"))
            .hint("`auto` and `off` are the choices".to_owned())
            .exit(Exit::Usage)),
    }
}

/// A name that Docker takes, and none of its own networks, whose settings are not ours to rely on.
pub(super) fn check_network(name: &str, file: &Path) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let begins = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let own = matches!(name, "bridge" | "host" | "none" | "default" | "container");
    if begins && name.len() <= 64 && name.bytes().all(plain) && !own {
        return Ok(());
    }
    Err(Failure::new(format!(
        "containers.network in {} cannot be `{name}`",
        file.display()
    ))
    .hint("a name of its own out of A-Z a-z 0-9 - . _, at most 64 characters, as in `orfe`".to_owned())
    .exit(Exit::Usage))
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
