//! The recorded cases, read from `../shared/data/coder-recordings` beside the workspace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Case {
    #[serde(rename = "case")]
    pub(crate) name: String,
    pub(crate) server: String,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) actions: Vec<(f64, String)>,
    pub(crate) exit_code: i32,
    pub(crate) seconds: f64,
    pub(crate) lines: Vec<RecordedLine>,
    pub(crate) files_left: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RecordedLine {
    pub(crate) t: f64,
    pub(crate) stream: String,
    pub(crate) text: String,
}

impl Case {
    pub(crate) fn stream(&self, name: &str) -> Vec<String> {
        self.lines
            .iter()
            .filter(|line| line.stream == name)
            .map(|line| line.text.clone())
            .collect()
    }

    /// How many lines the real program had printed before `seconds`.
    pub(crate) fn lines_before(&self, seconds: f64) -> usize {
        // Lines at the very time of an action are mostly its effect.
        self.lines.iter().filter(|line| line.t < seconds - 0.02).count()
    }
}

/// The folder, or nothing after saying so loudly.
pub(crate) fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/coder-recordings");
    if root.is_dir() {
        return Some(root);
    }
    let missing = root.display();
    crate::announce(&format!(
        "SKIPPED: the recordings are not here ({missing}); nothing was compared"
    ));
    None
}

/// Every case whose name begins with one of `groups`, sorted by name.
pub(crate) fn cases(folder: &Path, groups: &[char]) -> Vec<Case> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let mut letters = name.chars();
            groups.contains(&letters.next().unwrap()) && letters.next().unwrap().is_ascii_digit()
        })
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        .collect()
}
