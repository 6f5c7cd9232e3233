//! A change to the host that outlives the process which made it.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// Prefix of the names of our tables. Nothing else is ever deleted.
const TABLE_PREFIX: &str = "orfe_";

/// What was changed, with what is needed to take it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// IPv4 forwarding of packets that come in through an interface was switched on; it had this value.
    Forwarding { interface: String, was: bool },
    /// A table of packet filter rules in the family `inet`.
    Table { name: String },
    /// Name servers of a link in systemd-resolved.
    Dns { interface: String },
}

/// A line of the journal that says nothing we ever wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{line}` is no change this program makes")]
pub(super) struct UnknownChange {
    line: String,
}

impl Change {
    /// The table that belongs to a device.
    pub(super) fn table(device: &str) -> Self {
        let name: String = device
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() {
                    letter
                } else {
                    '_'
                }
            })
            .collect();
        Self::Table {
            name: format!("{TABLE_PREFIX}{name}"),
        }
    }

    /// Takes the change back. That it is gone already is no error.
    pub(super) fn undo(&self) -> io::Result<()> {
        match self {
            Self::Forwarding { interface, was } => match write_forwarding(interface, *was) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            // Declared first, so that deleting it cannot fail for want of it.
            Self::Table { name } => run(
                "nft",
                &["-f", "-"],
                &format!("table inet {name}\ndelete table inet {name}\n"),
            ),
            Self::Dns { interface } => {
                if fs::exists(format!("/sys/class/net/{interface}"))? {
                    run("resolvectl", &["revert", interface], "")
                } else {
                    Ok(())
                }
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarding { interface, was } => write!(f, "forwarding {interface} {}", u8::from(*was)),
            Self::Table { name } => write!(f, "table {name}"),
            Self::Dns { interface } => write!(f, "dns {interface}"),
        }
    }
}

impl FromStr for Change {
    type Err = UnknownChange;

    fn from_str(line: &str) -> Result<Self, UnknownChange> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["forwarding", interface, was @ ("0" | "1")] if is_interface(interface) => Ok(Self::Forwarding {
                interface: interface.to_owned(),
                was: was == "1",
            }),
            ["table", name] if name.starts_with(TABLE_PREFIX) && is_word(name) => Ok(Self::Table {
                name: name.to_owned(),
            }),
            ["dns", interface] if is_interface(interface) => Ok(Self::Dns {
                interface: interface.to_owned(),
            }),
            _ => Err(UnknownChange {
                line: line.to_owned(),
            }),
        }
    }
}

/// Whether this can be the name of an interface, and be written into a path and a rule as it stands.
pub(super) fn is_interface(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=15).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with(['.', '-'])
}

fn is_word(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether packets that come in through `interface` are forwarded (IPv4).
pub(super) fn read_forwarding(interface: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(forwarding_path(interface))?.trim() == "1")
}

/// Sets it.
pub(super) fn write_forwarding(interface: &str, forwards: bool) -> io::Result<()> {
    fs::write(forwarding_path(interface), if forwards { "1" } else { "0" })
}

fn forwarding_path(interface: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/forwarding")
}

/// Runs a program with this input; what it says is the error when it fails.
pub(super) fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("`{program}`: {error}"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(named)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why on its own.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(named)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("nothing");
    Err(io::Error::other(format!(
        "`{program}` failed ({}): {said}",
        output.status
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_survives_the_journal() {
        let changes = [
            Change::Forwarding {
                interface: "br-4f_2.9".to_owned(),
                was: true,
            },
            Change::table("orfe-0"),
            Change::Dns {
                interface: "orfe0".to_owned(),
            },
        ];
        for change in changes {
            assert_eq!(change.to_string().parse(), Ok(change));
        }
    }

    #[test]
    fn what_we_never_wrote_is_not_carried_out() {
        for line in [
            "",
            "table filter",
            "table orfe_x; flush ruleset",
            "forwarding ../../../kernel 1",
            "forwarding docker0 2",
            "forwarding docker0",
            "dns -x",
            "dns a/b",
            "device orfe0",
        ] {
            assert!(line.parse::<Change>().is_err(), "{line}");
        }
    }
}
