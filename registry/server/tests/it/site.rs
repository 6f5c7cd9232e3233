//! A registry in a folder of its own, started in this process, and the CLI that speaks to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser as _;
use orfe_protocol::join_code::JoinCode;
use orfe_registry::api::DeviceList;
use orfe_registry::cli::{Cli, Failure};
use orfe_registry::config::Config;
use orfe_registry::fleet::DeviceRow;
use orfe_registry::{Registry, StartError};
use tempfile::TempDir;

/// How long a test waits for anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Site {
    pub(crate) registry: Registry,
    pub(crate) config: Config,
    folder: TempDir,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// A registry with changes to the ordinary configuration of a test.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::local(folder.path().join("data"));
        config.session.claims_at_once = 1000.0;
        change(&mut config);
        let registry = Registry::start(&config).await.unwrap();
        Self {
            registry,
            config,
            folder,
        }
    }

    /// Stops it and starts it anew on the same folder.
    pub(crate) async fn restarted(self) -> Self {
        let Self {
            registry,
            config,
            folder,
        } = self;
        registry.shutdown().await;
        let registry = Registry::start(&config).await.unwrap();
        Self {
            registry,
            config,
            folder,
        }
    }

    /// Stops it, takes `file` out of its data folder, and tells why it then does not start.
    pub(crate) async fn without(self, file: &str) -> StartError {
        let path = self.data().join(file);
        let Self {
            registry,
            config,
            folder,
        } = self;
        registry.shutdown().await;
        std::fs::remove_file(&path).unwrap();
        let error = Registry::start(&config).await.unwrap_err();
        assert!(!path.exists(), "{file} was made anew");
        drop(folder);
        error
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) async fn cli(&self, args: &[&str]) -> Result<String, Failure> {
        cli(&self.data(), args).await
    }

    pub(crate) async fn join_code(&self, args: &[&str]) -> JoinCode {
        let printed = self
            .cli(&[&["join-code", "create"], args].concat())
            .await
            .unwrap();
        printed.trim().parse().unwrap()
    }

    pub(crate) async fn devices(&self) -> DeviceList {
        serde_json::from_str(&self.cli(&["device", "list", "--json"]).await.unwrap()).unwrap()
    }

    /// Waits until the one device of the fleet is in this state.
    pub(crate) async fn until_state(&self, state: &str) {
        let fleet = self.registry.fleet();
        let mut changes = fleet.changes();
        let reached = async {
            loop {
                changes.mark_unchanged();
                if fleet.rows().first().is_some_and(|row| row.state() == state) {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        let last = || fleet.rows().first().map(DeviceRow::state);
        assert!(
            tokio::time::timeout(PATIENCE, reached).await.is_ok(),
            "not {state} but {:?}",
            last()
        );
    }
}

/// The command line, in this process.
pub(crate) async fn cli(data: &Path, args: &[&str]) -> Result<String, Failure> {
    let data = data.to_str().unwrap();
    let args = [&["orfe-registry", "--data", data], args].concat();
    let mut out = Vec::new();
    Cli::try_parse_from(args).unwrap().run(&mut out).await?;
    Ok(String::from_utf8(out).unwrap())
}
