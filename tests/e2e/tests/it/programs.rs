//! The programs under test, built once for all tests.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The path of the program `name` of this workspace, built from the present sources.
pub(crate) fn path(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
    orfe_test_support::programs::path(name).unwrap()
}

/// `target`, whatever it is called: this test is `target/<profile>/deps/it-…`.
pub(crate) fn target_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().to_path_buf()
}

fn build() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--bins", "--target-dir"])
        .arg(target_folder());
    for package in ["orfe", "orfe-registry", "orfe-test-support", "xtask"] {
        command.args(["--package", package]);
    }
    if std::env::current_exe()
        .unwrap()
        .components()
        .any(|part| part.as_os_str() == "release")
    {
        command.arg("--release");
    }
    assert!(
        command.status().unwrap().success(),
        "the programs under test do not build"
    );
}

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn workspace_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
