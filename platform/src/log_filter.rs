//! What a program logs: levels, for all of it or for parts, as both programs read it.
//!
//! The parser of `tracing-subscriber` takes any word for the name of a part, so that a mistyped level would log nothing but what
//! belongs to a part of that name. Here a part comes with its level.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// A text that cannot be meant as a filter. What it says is what may stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("levels are off, error, warn, info, debug, trace; for one part: `info,orfe_tunnel=debug`")]
pub struct NotALogFilter;

/// Whether this can be meant as a filter; then `tracing-subscriber` takes all of it.
///
/// # Errors
/// The text does not parse, or a part has no level.
pub fn check(text: &str) -> Result<(), NotALogFilter> {
    let is_filter = EnvFilter::try_new(text).is_ok() && text.split(',').all(is_directive);
    is_filter.then_some(()).ok_or(NotALogFilter)
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
            assert_eq!(check(good), Ok(()), "{good}");
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
            assert_eq!(check(bad), Err(NotALogFilter), "{bad}");
        }
    }
}
