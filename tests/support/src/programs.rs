//! Where the programs of this workspace are, once built.
//!
//! Cargo tells a test the paths of its own package's programs only. All programs of one build lie in one folder, so
//! from a test binary (`target/debug/deps/…`) or a program (`target/debug/…`) the others are next to it or one up.

use std::path::PathBuf;

/// The program is not built.
#[derive(Debug, thiserror::Error)]
#[error("program {name} is neither in {} nor above it; hint: build it with `cargo build -p <its package>`", searched.display())]
pub struct NotBuilt {
    /// The name that was asked for.
    pub name: String,
    /// The folder of the running program.
    pub searched: PathBuf,
}

/// The path of the built program `name`, found beside the running one.
pub fn path(name: &str) -> Result<PathBuf, NotBuilt> {
    let running = std::env::current_exe().unwrap_or_default();
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(&file))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| NotBuilt {
            name: name.to_owned(),
            searched: running.parent().map(PathBuf::from).unwrap_or_default(),
        })
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_what_is_missing() {
        let text = super::path("no-such-program").unwrap_err().to_string();
        assert!(
            text.contains("no-such-program") && text.contains("hint:"),
            "{text}"
        );
    }
}
