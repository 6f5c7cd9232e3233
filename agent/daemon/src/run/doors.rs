//! The ways in for the person at this machine: the proxy and the static forwards of the config file.
//!
//! They share table and dialer with the provisioners' proxies and nothing else, and are never cut by the daemon: a person's
//! `ssh` outlives a sleep when the tunnel does. A port that is taken is no reason to keep provisioners from working, so it is
//! tried again, and `orfe proxy` and the log say why.

use std::time::Duration;

use orfe_protocol::secret::Secret;
use orfe_tunnel::proxy::{Forward, ForwardConfig, Limits, Proxy, ProxyConfig, ProxyError};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::slot::{Ways, new_credential};
use crate::config::{self, Config};
use crate::control::{PersonsProxy, ProxyUrls};
use crate::failure::Failure;
use crate::state::StateFolder;

/// Wait before a port that was taken is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What is to be opened.
pub(super) struct Doors {
    proxy: Option<ProxyConfig>,
    forwards: Vec<config::Forward>,
    ways: Ways,
    told: watch::Sender<PersonsProxy>,
}

impl Doors {
    /// Reads the credential, or makes it when there is a proxy to be opened for the first time.
    pub(super) fn new(
        config: &Config,
        state: &StateFolder,
        ways: Ways,
        told: watch::Sender<PersonsProxy>,
    ) -> Result<Self, Failure> {
        let proxy = match config.proxy_listen.value {
            None => None,
            Some(listen) => {
                let credential = credential(state)?;
                Some(ProxyConfig::new(listen, credential.expose().to_owned().into()))
            }
        };
        Ok(Self {
            proxy,
            forwards: config.forwards.value.clone(),
            ways,
            told,
        })
    }

    /// Opens everything and keeps it open until `stop`; then waits until the last connection's task has ended.
    pub(super) async fn run(self, stop: CancellationToken) {
        let Self {
            proxy,
            forwards,
            ways,
            told,
        } = self;
        let mut doors = JoinSet::new();
        if let Some(config) = proxy {
            doors.spawn(keep_proxy(config, ways.clone(), told, stop.clone()));
        }
        for config in forwards {
            doors.spawn(keep_forward(config, ways.clone(), stop.clone()));
        }
        doors.join_all().await;
    }
}

fn credential(state: &StateFolder) -> Result<Secret, Failure> {
    if let Some(credential) = state.proxy_credential()? {
        return Ok(credential);
    }
    let credential = new_credential()?;
    state.store_proxy_credential(&credential)?;
    Ok(credential)
}

async fn keep_proxy(
    config: ProxyConfig,
    ways: Ways,
    told: watch::Sender<PersonsProxy>,
    stop: CancellationToken,
) {
    let start = || Proxy::start(config.clone(), ways.routes.clone(), ways.dialer.clone());
    let failed = |error: &ProxyError| {
        told.send_replace(PersonsProxy::NotListening(with_cause(error)));
    };
    let Some(Some(proxy)) = stop.run_until_cancelled(until_open(start, failed)).await else {
        return;
    };
    tracing::info!(address = %proxy.local_addr(), "the proxy for this machine's owner listens");
    told.send_replace(PersonsProxy::Listening(ProxyUrls {
        http: Secret::new(proxy.url().expose_secret().to_owned()),
        socks: Secret::new(proxy.socks_url().expose_secret().to_owned()),
    }));
    stop.cancelled().await;
    proxy.shutdown().await;
}

async fn keep_forward(config: config::Forward, ways: Ways, stop: CancellationToken) {
    let config = ForwardConfig {
        listen: config.listen,
        to: config.to,
        exposed: config.exposed,
        limits: Limits::default(),
    };
    let start = || Forward::start(config.clone(), ways.routes.clone(), ways.dialer.clone());
    let Some(Some(forward)) = stop.run_until_cancelled(until_open(start, |_| {})).await else {
        return;
    };
    tracing::info!(address = %forward.local_addr(), to = %config.to, "a forward listens");
    stop.cancelled().await;
    forward.shutdown().await;
}

/// Tries until it listens; `None` for what another try would not mend.
async fn until_open<T, F>(start: impl Fn() -> F, failed: impl Fn(&ProxyError)) -> Option<T>
where
    F: Future<Output = Result<T, ProxyError>>,
{
    let mut said = false;
    loop {
        let error = match start().await {
            Ok(open) => return Some(open),
            Err(error) => error,
        };
        failed(&error);
        if !matches!(error, ProxyError::Bind { .. }) {
            tracing::error!(
                error = with_cause(&error),
                "a port for this machine's owner stays closed"
            );
            return None;
        }
        if !std::mem::replace(&mut said, true) {
            tracing::error!(
                error = with_cause(&error),
                "a port for this machine's owner is not open yet; trying on"
            );
        }
        sleep(RETRY).await;
    }
}

fn with_cause(error: &ProxyError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
