//! The workspace as `cargo metadata` tells it, cut down to what the checks need.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use crate::document::Document;

/// All that the checks look at.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) members: Vec<Member>,
    pub(crate) graph: Graph,
}

/// Direct normal dependencies by package name, over all packages in the tree.
pub(crate) type Graph = BTreeMap<String, Vec<String>>;

/// One crate of the workspace.
pub(crate) struct Member {
    pub(crate) name: String,
    /// Relative to the workspace, with `/`: `agent/core`.
    pub(crate) folder: String,
    pub(crate) manifest: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A line in a manifest.
#[derive(Clone)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) is_dev: bool,
}

impl Member {
    /// The line of the manifest that names a dependency; 1 where it cannot be told.
    pub(crate) fn line_of(&self, dependency: &str) -> usize {
        let names_it = |line: &str| {
            let rest = line.trim_start().trim_start_matches('"').strip_prefix(dependency);
            let inherits = rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=', '"', ']']));
            inherits
                || line.contains(&format!("package = \"{dependency}\""))
                || line.contains(&format!("dependencies.{dependency}]"))
        };
        self.manifest
            .lines()
            .position(names_it)
            .map_or(1, |index| index + 1)
    }
}

impl Workspace {
    pub(crate) fn document(&self) -> Document {
        Document::parse(&fs::read_to_string(self.root.join("ARCHITECTURE.md")).unwrap())
    }
}

/// The workspace that this crate is in; Cargo is asked once.
pub(crate) fn load() -> &'static Workspace {
    static WORKSPACE: OnceLock<Workspace> = OnceLock::new();
    WORKSPACE.get_or_init(ask_cargo)
}

/// Asks for the platform that the tests run on: other platforms' packages need not be there.
fn ask_cargo() -> Workspace {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(["--filter-platform".to_owned(), host()])
        .exec()
        .unwrap();
    Workspace {
        root: metadata.workspace_root.clone().into_std_path_buf(),
        members: metadata
            .workspace_packages()
            .into_iter()
            .map(|package| member(&metadata, package))
            .collect(),
        graph: graph(&metadata),
    }
}

fn host() -> String {
    let output = Command::new("rustc")
        .args(["--print", "host-tuple"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "rustc does not tell its host: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn member(metadata: &Metadata, package: &Package) -> Member {
    let folder = package
        .manifest_path
        .parent()
        .unwrap()
        .strip_prefix(&metadata.workspace_root)
        .unwrap();
    Member {
        name: package.name.to_string(),
        folder: folder.as_str().replace('\\', "/"),
        manifest: fs::read_to_string(&package.manifest_path).unwrap(),
        dependencies: package
            .dependencies
            .iter()
            .map(|dependency| Dependency {
                name: dependency.name.clone(),
                is_dev: dependency.kind == DependencyKind::Development,
            })
            .collect(),
    }
}

fn graph(metadata: &Metadata) -> Graph {
    let mut graph = Graph::new();
    for node in &metadata.resolve.as_ref().unwrap().nodes {
        let normal = node
            .deps
            .iter()
            .filter(|dep| {
                dep.dep_kinds
                    .iter()
                    .any(|kind| kind.kind == DependencyKind::Normal)
            })
            .map(|dep| metadata[&dep.pkg].name.to_string());
        // Two versions of one package are one entry: either is as good a way to a runtime.
        graph
            .entry(metadata[&node.id].name.to_string())
            .or_default()
            .extend(normal);
    }
    graph
}
