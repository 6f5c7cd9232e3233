//! A change to the host that outlives the process which made it. How each is taken back stands with its system.

use std::fmt;
use std::str::FromStr;

use super::dns::is_domain;

/// Prefix of the names of our tables. Nothing else is ever deleted.
pub(super) const TABLE_PREFIX: &str = "orfe_";

/// What was changed, with what is needed to take it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// IPv4 forwarding of packets that come in through an interface was switched on; it had this value.
    Forwarding { interface: String, was: bool },
    /// A table of packet filter rules in the family `inet`.
    Table { name: String },
    /// Name servers of a link in systemd-resolved.
    Dns { interface: String },
    /// The file of a domain in `/etc/resolver` (macOS).
    Resolver { domain: String },
    /// The folder `/etc/resolver` itself.
    ResolverFolder,
    /// A rule of the name resolution policy table (Windows), by our own count.
    NameRule { number: u16 },
}

/// A line of the journal that says nothing we ever wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{line}` is no change this program makes")]
pub(super) struct UnknownChange {
    line: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarding { interface, was } => write!(f, "forwarding {interface} {}", u8::from(*was)),
            Self::Table { name } => write!(f, "table {name}"),
            Self::Dns { interface } => write!(f, "dns {interface}"),
            Self::Resolver { domain } => write!(f, "resolver {domain}"),
            Self::ResolverFolder => f.write_str("resolver-folder"),
            Self::NameRule { number } => write!(f, "name-rule {number}"),
        }
    }
}

impl FromStr for Change {
    type Err = UnknownChange;

    fn from_str(line: &str) -> Result<Self, UnknownChange> {
        let unknown = || UnknownChange {
            line: line.to_owned(),
        };
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
            ["resolver", domain] if is_domain(domain) => Ok(Self::Resolver {
                domain: domain.to_owned(),
            }),
            ["resolver-folder"] => Ok(Self::ResolverFolder),
            ["name-rule", number] => Ok(Self::NameRule {
                number: number.parse().map_err(|_| unknown())?,
            }),
            _ => Err(unknown()),
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
            Change::Table {
                name: "orfe_orfe_0".to_owned(),
            },
            Change::Dns {
                interface: "orfe0".to_owned(),
            },
            Change::Resolver {
                domain: "coder.example".to_owned(),
            },
            Change::ResolverFolder,
            Change::NameRule { number: 7 },
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
            "resolver ../passwd",
            "resolver .",
            "resolver a b",
            "resolver-folder /etc",
            "name-rule -1",
            "name-rule 65536",
        ] {
            assert!(line.parse::<Change>().is_err(), "{line}");
        }
    }
}
