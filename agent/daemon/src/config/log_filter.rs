//! Where a filter of the log comes from that cannot be meant.

use std::path::Path;

use orfe_platform::log_filter;

use super::{Origin, Setting};
use crate::failure::{Exit, Failure};

/// Refuses a filter that cannot be meant.
pub(super) fn check(filter: &Setting<String>, file: &Path) -> Result<(), Failure> {
    let Err(what_may_be) = log_filter::check(&filter.value) else {
        return Ok(());
    };
    let wrong = match filter.origin {
        Origin::Environment => format!("the variable ORFE_LOG is `{}`", filter.value),
        _ => format!("log.filter in {} cannot be `{}`", file.display(), filter.value),
    };
    Err(Failure::new(wrong)
        .hint(what_may_be.to_string())
        .exit(Exit::Usage))
}

#[cfg(test)]
mod tests {
    use super::*;

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
