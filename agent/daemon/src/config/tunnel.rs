//! How the tunnel meets this machine: the owner's choice.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Setting, pick, words};
use crate::failure::{Exit, Failure};

/// What becomes of a tunnel that the registry wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TunnelMode {
    /// Nothing on the machine changes; connections go through Orfe's proxies
    #[default]
    Userspace,
    /// A network device with routes, for all programs of this machine
    Tun,
    /// None: names are dialled as this machine would
    Off,
}

impl TunnelMode {
    const ALL: [Self; 3] = [Self::Userspace, Self::Tun, Self::Off];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Tun => "tun",
            Self::Off => "off",
        }
    }
}

impl<'de> Deserialize<'de> for TunnelMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        words::one_of(deserializer, &Self::ALL, Self::as_str)
    }
}

/// Bridges whose containers may use the tunnel in TUN mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bridges {
    Off,
    /// Docker's, as they are when the tunnel starts.
    Auto,
    Named(Vec<String>),
}

/// The same in the file: a word, or names.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "this is \"auto\", \"off\", or a list of names of bridges such as [\"docker0\"]"
)]
pub(super) enum RawBridges {
    Word(String),
    Names(Vec<String>),
}

impl fmt::Display for Bridges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::Auto => f.pad("auto"),
            Self::Named(names) => f.pad(&names.join(" ")),
        }
    }
}

/// The mode by the variable's text, or the file's.
pub(super) fn mode(
    variable: Option<String>,
    raw: Option<TunnelMode>,
) -> Result<Setting<TunnelMode>, Failure> {
    let variable = variable.map(|text| parse_mode(&text)).transpose()?;
    Ok(pick(None, variable, raw, TunnelMode::default))
}

/// The mode that the variable names.
fn parse_mode(text: &str) -> Result<TunnelMode, Failure> {
    TunnelMode::ALL
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| {
            Failure::new(format!("the variable ORFE_TUNNEL is `{text}`"))
                .hint("`userspace`, `tun` and `off` are the choices".to_owned())
                .exit(Exit::Usage)
        })
}

/// Checks the bridges.
pub(super) fn bridges(file: &Path, raw: Option<RawBridges>) -> Result<Option<Bridges>, Failure> {
    let wrong = |found: &str| {
        Err(Failure::new(format!(
            "tunnel.bridges in {} cannot be `{found}`",
            file.display()
        ))
        .hint("\"auto\", \"off\", or names of bridges as in [\"docker0\"]".to_owned())
        .exit(Exit::Usage))
    };
    match raw {
        None => Ok(None),
        Some(RawBridges::Word(word)) => match word.as_str() {
            "auto" => Ok(Some(Bridges::Auto)),
            "off" => Ok(Some(Bridges::Off)),
            other => wrong(other),
        },
        Some(RawBridges::Names(names)) => match names.iter().find(|name| !is_interface(name)) {
            Some(name) => wrong(name),
            None => Ok(Some(Bridges::Named(names))),
        },
    }
}

/// Whether Linux could have an interface of this name, and a rule can name it as it stands.
fn is_interface(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=15).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with(['.', '-'])
}
