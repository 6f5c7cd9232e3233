//! What the daemon logs: levels, for all of it or for parts.
//!
//! The parser of `tracing-subscriber` takes any word for the name of a part, so that a mistyped level would log nothing but what
//! belongs to a part of that name. Here a part comes with its level.

use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{Origin, Setting};
use crate::failure::{Exit, Failure};

/// Refuses a filter that cannot be meant.
pub(super) fn check(filter: &Setting<String>, file: &Path) -> Result<(), Failure> {
    if is_filter(&filter.value) {
        return Ok(());
    }
    let wrong = match filter.origin {
        Origin::Environment => format!("the variable ORFE_LOG is `{}`", filter.value),
        _ => format!("log.filter in {} cannot be `{}`", file.display(), filter.value),
    };
    Err(Failure::new(wrong)
        .hint(
            "levels are off, error, warn, info, debug, trace; for one part: `info,orfe_tunnel=debug`"
                .to_owned(),
        )
        .exit(Exit::Usage))
}

fn is_filter(text: &str) -> bool {
    EnvFilter::try_new(text).is_ok() && text.split(',').all(is_directive)
}

/// `LEVEL` or `PART=LEVEL`. An empty level would be one, too.
fn is_directive(text: &str) -> bool {
    // Spans, as in `[slot]=debug`, are written by nobody who mistypes a level.
    if text.contains('[') {
        return true;
    }
    let (part, level) = text
        .split_once('=')
        .map_or((None, text), |(part, level)| (Some(part), level));
    let is_in_names = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ':');
    let is_part = part.is_none_or(|part| !part.is_empty() && part.chars().all(is_in_names));
    is_part && !level.is_empty() && level.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_come_alone_or_with_a_part() {
        for good in [
            "info",
            "DEBUG",
            "off",
            "info,orfe_tunnel=debug",
            "warn,orfe::link=trace",
            "info,[slot{id=1}]=debug",
            "orfe_core[slot]=debug",
        ] {
            assert!(is_filter(good), "{good}");
        }
        for bad in [
            "",
            " ",
            "==",
            ",",
            "info,,debug",
            "info, debug",
            "infoo",
            "orfe_tunnel",
            "orfe=loud",
            "orfe=",
            "=debug",
            "info debug",
            "a b=info",
            "info,[slot",
            "orfe=info=debug",
        ] {
            assert!(!is_filter(bad), "{bad}");
        }
    }

    #[test]
    fn whoever_wrote_it_is_told_where() {
        let complaint = |origin| {
            let filter = Setting {
                value: "==".to_owned(),
                origin,
            };
            crate::failure::render(
                &check(&filter, Path::new("/etc/orfe/agent.toml"))
                    .unwrap_err()
                    .into(),
            )
        };
        let file = complaint(Origin::File);
        assert!(
            file.starts_with("error: log.filter in /etc/orfe/agent.toml cannot be `==`\nhint: levels are "),
            "{file}"
        );
        let variable = complaint(Origin::Environment);
        assert!(
            variable.starts_with("error: the variable ORFE_LOG is `==`\n"),
            "{variable}"
        );
    }
}
