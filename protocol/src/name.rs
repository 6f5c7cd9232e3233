//! Names of devices and of hosts that policy speaks of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest device name. A provisioner is called `<device>-<slot>`, and Coder takes at most 63
/// characters for it; four are left for the dash and the slot.
pub const DEVICE_NAME_MAX: usize = 59;

/// Why a name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidName {
    #[error("a device name is 2 to {DEVICE_NAME_MAX} characters long, `{0}` has {len}", len = .0.chars().count())]
    DeviceLength(String),
    #[error("device name `{0}` may hold a-z, 0-9 and `-` only, and neither start nor end with `-`")]
    DeviceCharacters(String),
    #[error(
        "`{0}` is not a host name: labels of letters, digits and `-`, separated by dots, 253 characters at most"
    )]
    Host(String),
}

/// A device's name in the fleet: unique, lower case, fit for Coder's rule for daemon names
/// (`^[a-zA-Z0-9][a-zA-Z0-9-]{0,61}[a-zA-Z0-9]$`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

impl DeviceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest valid name to what a machine calls itself: cut at the first dot, lower-cased,
    /// everything else turned into dashes; `device` when nothing is left.
    #[must_use]
    pub fn from_hostname(hostname: &str) -> Self {
        let label = hostname.split('.').next().unwrap_or_default().to_lowercase();
        let mut name: String = label
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(DEVICE_NAME_MAX)
            .collect();
        while name.contains("--") {
            name = name.replace("--", "-");
        }
        let name = name.trim_matches('-');
        match name.len() {
            0 => Self("device".to_owned()),
            1 => Self(format!("device-{name}")),
            _ => Self(name.to_owned()),
        }
    }

    /// What the provisioner in a slot is called towards Coder. Two daemons with one name share one
    /// row there and fight over it, so the slot is part of the name.
    #[must_use]
    pub fn provisioner(&self, slot: u8) -> String {
        format!("{}-{slot}", self.0)
    }
}

impl FromStr for DeviceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let length = text.chars().count();
        if !(2..=DEVICE_NAME_MAX).contains(&length) {
            return Err(InvalidName::DeviceLength(text.to_owned()));
        }
        let fits = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits || text.starts_with('-') || text.ends_with('-') {
            return Err(InvalidName::DeviceCharacters(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A DNS name as policy writes it: lower case, without the trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `suffix` or ends with all its labels.
    pub fn is_below(&self, suffix: &Self) -> bool {
        self.0
            .strip_suffix(suffix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl FromStr for HostName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label_fits = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        if name.is_empty() || name.len() > 253 || is_address || !name.split('.').all(label_fits) {
            return Err(InvalidName::Host(text.to_owned()));
        }
        Ok(Self(name))
    }
}

macro_rules! string_conversions {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }
    };
}

string_conversions!(DeviceName);
string_conversions!(HostName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn device_names_keep_coders_rule() {
        for good in ["ab", "alices-laptop", "gpu-box-01", &"a".repeat(59)] {
            assert!(good.parse::<DeviceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "Alice",
            "a_b",
            "a.b",
            "-ab",
            "ab-",
            "ä1",
            &"a".repeat(60),
        ] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hostnames_become_names() {
        for (hostname, name) in [
            ("ALICE-MBP.local", "alice-mbp"),
            ("gpu_box", "gpu-box"),
            ("x", "device-x"),
            ("", "device"),
            ("--", "device"),
            ("Jürgens PC", "j-rgens-pc"),
        ] {
            assert_eq!(DeviceName::from_hostname(hostname).as_str(), name);
        }
    }

    #[test]
    fn host_names_lose_case_and_the_last_dot() {
        assert_eq!(
            "Coder.Example.COM.".parse::<HostName>().unwrap().as_str(),
            "coder.example.com"
        );
        for bad in ["", ".", "a..b", "-a.b", "10.0.0.1", "::1", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn below_means_whole_labels() {
        let name = |text: &str| text.parse::<HostName>().unwrap();
        for (text, suffix, below) in [
            ("a.svc.cluster.local", "svc.cluster.local", true),
            ("svc.cluster.local", "svc.cluster.local", true),
            ("asvc.cluster.local", "svc.cluster.local", false),
            ("cluster.local", "svc.cluster.local", false),
        ] {
            assert_eq!(name(text).is_below(&name(suffix)), below, "{text} below {suffix}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_machine_is_called_it_gets_a_valid_name(hostname in ".{0,80}") {
            let name = DeviceName::from_hostname(&hostname);
            prop_assert_eq!(name.as_str().parse::<DeviceName>(), Ok(name.clone()));
            prop_assert!(name.provisioner(99).len() <= 63);
        }
    }
}
