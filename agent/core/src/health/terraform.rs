//! What is known of terraform, without which a child connects and ends 15 s later.

use std::fmt;

/// Oldest terraform that `coder provisionerd` takes.
pub const TERRAFORM_MIN: (u64, u64, u64) = (1, 1, 0);

/// What was found when terraform was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Terraform {
    /// Not looked for yet.
    #[default]
    Unknown,
    Found {
        version: String,
    },
    Missing,
    TooOld {
        version: String,
    },
    /// It is there and does not answer; the text says how.
    Broken {
        reason: String,
    },
}

/// As people are told.
impl fmt::Display for Terraform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(formatter, "looking for terraform"),
            Self::Found { version } => write!(formatter, "terraform {version}"),
            Self::Missing => write!(formatter, "terraform is not on the PATH"),
            Self::TooOld { version } => write!(formatter, "terraform {version} is too old for Coder"),
            Self::Broken { reason } => write!(formatter, "terraform does not work: {reason}"),
        }
    }
}

/// Reads what `terraform version -json` printed.
#[must_use]
pub fn read_terraform_version(stdout: &str) -> Terraform {
    #[derive(serde::Deserialize)]
    struct Answer {
        terraform_version: String,
    }
    let Ok(Answer {
        terraform_version: version,
    }) = serde_json::from_str(stdout)
    else {
        return Terraform::Broken {
            reason: "`terraform version -json` prints no version".to_owned(),
        };
    };
    match parse_version(&version) {
        Some(parsed) if parsed >= TERRAFORM_MIN => Terraform::Found { version },
        Some(_) => Terraform::TooOld { version },
        None => Terraform::Broken {
            reason: format!("version `{version}` is not of the form 1.2.3"),
        },
    }
}

fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(str::parse);
    let version = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terraform_versions() {
        let json = |version: &str| format!(r#"{{"terraform_version":"{version}","platform":"linux_amd64"}}"#);
        assert_eq!(
            read_terraform_version(&json("1.11.4")),
            Terraform::Found {
                version: "1.11.4".into()
            }
        );
        assert_eq!(
            read_terraform_version(&json("1.13.0-rc1")),
            Terraform::Found {
                version: "1.13.0-rc1".into()
            }
        );
        assert_eq!(
            read_terraform_version(&json("1.0.11")),
            Terraform::TooOld {
                version: "1.0.11".into()
            }
        );
        assert!(matches!(
            read_terraform_version(&json("1.x")),
            Terraform::Broken { .. }
        ));
        assert!(matches!(
            read_terraform_version("Terraform v1.2.3"),
            Terraform::Broken { .. }
        ));
    }
}
