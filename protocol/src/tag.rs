//! Tags: what a template asks of a provisioner (`gpu=nvidia-rtx4090`).
//!
//! Coder matches them exactly and case-sensitively, carries them in a URL query and, from the
//! environment, in one CSV record. So keys and values are kept to a set of characters that needs quoting
//! nowhere. `scope` is Coder's own and refused. `owner` is part of Orfe's vocabulary (who owns the machine),
//! but Coder overwrites a tag of that name, so it stays in the fleet and is never sent to Coder.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest key or value, in characters.
pub const TAG_PART_MAX: usize = 64;

/// Why a tag was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidTag {
    #[error("tag `{0}` is not of the form key=value")]
    Form(String),
    #[error("tag key `{0}` is Coder's own and cannot be set")]
    Reserved(String),
    #[error("`{0}` in a tag: 1 to {TAG_PART_MAX} of the characters A-Z a-z 0-9 . _ - are allowed")]
    Characters(String),
}

/// One `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

impl Tag {
    /// A valid tag, or why it is none.
    pub fn new(key: &str, value: &str) -> Result<Self, InvalidTag> {
        if key.eq_ignore_ascii_case("scope") {
            return Err(InvalidTag::Reserved(key.to_owned()));
        }
        for part in [key, value] {
            let fits = part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            if !fits || !(1..=TAG_PART_MAX).contains(&part.len()) {
                return Err(InvalidTag::Characters(part.to_owned()));
            }
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| InvalidTag::Form(text.to_owned()))?;
        Self::new(key, value)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.key, self.value)
    }
}

/// A set of tags, one value for each key, in the order of the keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// Sets a tag; a later value of the same key wins.
    pub fn set(&mut self, tag: Tag) {
        self.0.insert(tag.key, tag.value);
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These tags with `over` laid on top of them.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        let mut tags = self.clone();
        tags.0.extend(over.0.clone());
        tags
    }

    /// The tags that Coder is told of: all but `owner`.
    #[must_use]
    pub fn for_coder(&self) -> Self {
        let mut tags = self.clone();
        tags.0.remove("owner");
        tags
    }
}

impl fmt::Display for Tags {
    /// As one CSV record, the form of `CODER_PROVISIONERD_TAGS`; nothing in a valid tag needs quoting.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

impl FromIterator<Tag> for Tags {
    fn from_iter<I: IntoIterator<Item = Tag>>(tags: I) -> Self {
        Self(tags.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = InvalidTag;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, InvalidTag> {
        map.iter().map(|(key, value)| Tag::new(key, value)).collect()
    }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        tags.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_parsed_or_refused() {
        assert_eq!("gpu=nvidia-rtx4090".parse(), Tag::new("gpu", "nvidia-rtx4090"));
        assert_eq!("gpu".parse::<Tag>(), Err(InvalidTag::Form("gpu".into())));
        assert_eq!(
            "scope=user".parse::<Tag>(),
            Err(InvalidTag::Reserved("scope".into()))
        );
        for bad in [
            "=x",
            "x=",
            "a b=c",
            "a=b,c",
            "a=\"b\"",
            "a=b=c",
            &format!("a={}", "x".repeat(65)),
        ] {
            assert!(
                matches!(bad.parse::<Tag>(), Err(InvalidTag::Characters(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn coder_is_not_told_the_owner() {
        let tags: Tags = ["owner=alice", "gpu=none"]
            .iter()
            .map(|t| t.parse::<Tag>().unwrap())
            .collect();
        assert_eq!(tags.to_string(), "gpu=none,owner=alice");
        assert_eq!(tags.for_coder().to_string(), "gpu=none");
    }

    #[test]
    fn json_with_a_bad_tag_is_refused() {
        assert!(serde_json::from_str::<Tags>(r#"{"gpu":"none"}"#).is_ok());
        assert!(serde_json::from_str::<Tags>(r#"{"scope":"user"}"#).is_err());
    }

    #[test]
    fn a_later_layer_wins() {
        let below: Tags = ["gpu=none", "os=linux"]
            .iter()
            .map(|t| t.parse::<Tag>().unwrap())
            .collect();
        let above: Tags = ["gpu=a100"].iter().map(|t| t.parse::<Tag>().unwrap()).collect();
        assert_eq!(below.overlaid(&above).to_string(), "gpu=a100,os=linux");
    }
}
