//! Facts become tags.
//!
//! Detected tags are the vocabulary's `gpu`, `os`, `arch` and `type`. What the join code or an admin granted is laid over
//! them: a device is not believed over those who own the fleet.

use orfe_protocol::observed::Facts;
use orfe_protocol::tag::{TAG_PART_MAX, Tag, Tags};

/// The tags in force for a device with these facts and grants.
#[must_use]
pub fn effective(facts: &Facts, granted: &Tags) -> Tags {
    detected(facts).overlaid(granted)
}

/// The tags that facts alone give.
#[must_use]
pub fn detected(facts: &Facts) -> Tags {
    let gpu = facts.gpus.first().map_or("none", |gpu| gpu.tag.as_str());
    let rows = [
        ("gpu", gpu),
        ("os", &facts.os),
        ("arch", &facts.arch),
        ("type", &facts.chassis),
    ];
    rows.iter()
        .filter_map(|(key, value)| Tag::new(key, &tag_value(value)).ok())
        .collect()
}

/// The nearest text that may stand in a tag: lower case, everything else turned into dashes.
fn tag_value(text: &str) -> String {
    let fitting = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let value: String = text
        .chars()
        .map(|c| if fitting(c) { c.to_ascii_lowercase() } else { '-' })
        .take(TAG_PART_MAX)
        .collect();
    value.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use orfe_protocol::observed::{Docker, Gpu};

    use super::*;

    fn facts() -> Facts {
        Facts {
            hostname: "box".into(),
            os: "linux".into(),
            os_version: String::new(),
            arch: "amd64".into(),
            cpu_model: String::new(),
            cpu_cores: 8,
            memory_mib: 1,
            chassis: "desktop".into(),
            docker: Docker::Absent {
                reason: String::new(),
            },
            gpus: vec![],
        }
    }

    #[test]
    fn a_machine_without_gpu_says_none() {
        assert_eq!(
            detected(&facts()).to_string(),
            "arch=amd64,gpu=none,os=linux,type=desktop"
        );
    }

    #[test]
    fn the_first_gpu_counts_and_grants_win() {
        let mut facts = facts();
        facts.chassis = String::new();
        for tag in ["nvidia-rtx4090", "amd-680m"] {
            let [vendor, model, evidence] = [""; 3].map(str::to_owned);
            facts.gpus.push(Gpu {
                vendor,
                model,
                tag: tag.into(),
                evidence,
            });
        }
        assert_eq!(
            detected(&facts).to_string(),
            "arch=amd64,gpu=nvidia-rtx4090,os=linux"
        );
        let granted: Tags = ["owner=alice", "gpu=shared"]
            .iter()
            .map(|tag| tag.parse::<Tag>().unwrap())
            .collect();
        assert_eq!(
            effective(&facts, &granted).to_string(),
            "arch=amd64,gpu=shared,os=linux,owner=alice"
        );
    }

    #[test]
    fn odd_text_is_made_to_fit() {
        assert_eq!(tag_value("NVIDIA GeForce (R) 4090"), "nvidia-geforce--r--4090");
        assert_eq!(tag_value("ü"), "");
    }
}
