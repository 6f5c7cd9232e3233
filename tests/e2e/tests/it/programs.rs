//! The programs under test, built once for all tests.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The path of the program `name` of this workspace, built from the present sources.
pub(crate) fn path(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(&["orfe", "orfe-registry", "orfe-test-support", "xtask"]));
    orfe_test_support::programs::path(name).unwrap()
}

/// The path of the program `name` of the test support alone, for tests that need none of the others.
#[cfg(target_os = "linux")]
pub(crate) fn support_path(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(&["orfe-test-support"]));
    orfe_test_support::programs::path(name).unwrap()
}

/// `target`, whatever it is called: this test is `target/<profile>/deps/it-…`.
pub(crate) fn target_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().to_path_buf()
}

fn build(packages: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--bins", "--target-dir"])
        .arg(target_folder());
    for package in packages {
        command.args(["--package", package]);
    }
    if std::env::current_exe()
        .unwrap()
        .components()
        .any(|part| part.as_os_str() == "release")
    {
        command.arg("--release");
    }
    forget_this_package(&mut command);
    assert!(
        command.status().unwrap().success(),
        "the programs under test do not build"
    );
}

/// Keeps cargo's description of this package from `command`. Build scripts of dependencies watch it: a cargo inside that has it
/// builds them anew, and so does the next one that a person starts.
pub(crate) fn forget_this_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// The folder of the workspace's `Cargo.toml`.
#[cfg(target_os = "linux")]
pub(crate) fn workspace_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
