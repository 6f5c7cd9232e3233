//! Finding terraform as the real program does, once, beside the dialling: on the PATH, else the pinned version in the
//! cache, else a download. The stand-in never downloads: it fails as the real one does when the name of the download
//! server does not resolve, after five tries in 15 s.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::daemon::World;
use super::lines;
use super::log::Logger;

type Version = [u64; 3];

const OLDEST: Version = [1, 1, 0];
const NEWEST: Version = [1, 13, 9];
const PINNED: Version = [1, 13, 0];
const INDEX: &str = "https://releases.hashicorp.com/terraform/1.13.0/index.json";
const NO_HOST: &str = "dial tcp: lookup releases.hashicorp.com: no such host";
/// Seconds between the tries.
const WAITS: [u64; 4] = [1, 2, 4, 8];

#[derive(Deserialize)]
struct Answer {
    terraform_version: String,
}

/// Looks for terraform; ends only when there is none, with the text of the failure.
pub(super) async fn watch(world: &World, logger: &Logger, cache_dir: &Path) -> String {
    let found = match on_path(world) {
        Some(program) => version_of(&program, world).await,
        None => None,
    };
    let usable = found.is_some_and(|version| version >= OLDEST);
    if let Some(version) = found {
        report(logger, version);
    }
    if usable || version_of(&cache_dir.join("terraform"), world).await == Some(PINNED) {
        return std::future::pending().await;
    }
    fail_to_install(world, logger, cache_dir).await
}

fn report(logger: &Logger, version: Version) {
    let installed = ("installed_version", json!(text(version)));
    let oldest = ("min_version", json!(text(OLDEST)));
    let newest = ("max_version", json!(text(NEWEST)));
    if version < OLDEST {
        logger.line(&lines::TERRAFORM_TOO_OLD, &[installed, oldest]);
        return;
    }
    logger.line(
        &lines::TERRAFORM_FOUND,
        &[installed.clone(), oldest, newest.clone()],
    );
    if version > NEWEST {
        logger.line(&lines::TERRAFORM_NEWER, &[installed, newest]);
    }
}

fn on_path(world: &World) -> Option<PathBuf> {
    let path = world.environment.get("PATH")?;
    std::env::split_paths(path)
        .map(|folder| folder.join("terraform"))
        .find(|program| program.is_file())
}

/// The daemon's environment reaches terraform without what is Coder's.
async fn version_of(program: &Path, world: &World) -> Option<Version> {
    let environment = world
        .environment
        .iter()
        .filter(|(name, _)| !name.starts_with("CODER_"));
    let output = tokio::process::Command::new(program)
        .args(["version", "-json"])
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .ok()?;
    let answer: Answer = serde_json::from_slice(&output.stdout).ok()?;
    parse(&answer.terraform_version)
}

fn parse(version: &str) -> Option<Version> {
    let mut parts = version.split('-').next()?.splitn(3, '.').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some([next()?, next()?, next()?])
}

fn text([major, minor, patch]: Version) -> String {
    format!("{major}.{minor}.{patch}")
}

async fn fail_to_install(world: &World, logger: &Logger, cache_dir: &Path) -> String {
    let dir = cache_dir.display();
    let fields = [
        ("prev_version", json!("nil")),
        ("dir", json!(dir.to_string())),
        ("version", json!(text(PINNED))),
    ];
    // The lock is made for the download and stays; a cache that cannot be written shows itself elsewhere.
    let _ = std::fs::File::create(cache_dir.join("lock"));
    logger.line(&lines::TERRAFORM_INSTALLING, &fields);
    logger.text(
        &lines::INSTALL_DIR,
        &format!("will install into dir at {dir}"),
        &[],
    );
    logger.text(
        &lines::INSTALL_REQUEST,
        &format!("requesting version from {INDEX}"),
        &[],
    );
    logger.text(&lines::RETRY_GET, &format!("[DEBUG] GET {INDEX}"), &[]);
    let failed = format!("[ERR] GET {INDEX} request failed: Get \"{INDEX}\": {NO_HOST}");
    for (wait, left) in WAITS.into_iter().zip((1..=WAITS.len()).rev()) {
        logger.text(&lines::RETRY_FAILED, &failed, &[]);
        let again = format!("[DEBUG] GET {INDEX}: retrying in {wait}s ({left} left)");
        logger.text(&lines::RETRY_AGAIN, &again, &[]);
        tokio::time::sleep(world.scale.scaled(Duration::from_secs(wait))).await;
    }
    logger.line(&lines::TERRAFORM_SLOW, &fields);
    logger.text(&lines::RETRY_FAILED, &failed, &[]);
    format!(
        "install terraform: install: Get \"{INDEX}\": GET {INDEX} giving up after 5 attempt(s): Get \"{INDEX}\": {NO_HOST}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_versions_by_number() {
        assert_eq!(parse("1.11.4"), Some([1, 11, 4]));
        assert_eq!(parse("1.13.0-rc1"), Some([1, 13, 0]));
        assert!(parse("1.0.11").unwrap() < OLDEST && parse("1.99.0").unwrap() > NEWEST);
        assert_eq!(parse("1.2"), None);
        assert_eq!(parse("v1.2.3"), None);
    }
}
