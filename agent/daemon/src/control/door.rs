//! What the control socket offers besides the status: this machine's proxy, and connections.

use std::sync::Arc;

use orfe_tunnel::proxy::{Host, Outlet, Target};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};

use super::status::Status;
use super::{Answer, ProxyUrls};

/// Connections at a time that come through the control socket. A person with this many `ssh` sessions is told; the status is
/// answered all the same.
const CONNECTIONS_MAX: usize = 128;

/// The proxy for the person at this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PersonsProxy {
    /// Not configured.
    Off,
    /// Configured, and not listening yet: why.
    NotListening(String),
    Listening(ProxyUrls),
}

/// All that a client of the control socket can get at.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    pub(super) status: watch::Receiver<Option<Status>>,
    proxy: watch::Receiver<PersonsProxy>,
    outlet: Outlet,
    connections: Arc<Semaphore>,
}

impl Services {
    pub(crate) fn new(
        status: watch::Receiver<Option<Status>>,
        proxy: watch::Receiver<PersonsProxy>,
        outlet: Outlet,
    ) -> Self {
        Self {
            status,
            proxy,
            outlet,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    pub(super) fn proxy(&self) -> Answer {
        match &*self.proxy.borrow() {
            PersonsProxy::Off => Answer::Error(
                "this machine's proxy is off; `[proxy] listen = \"127.0.0.1:1080\"` in agent.toml starts it"
                    .to_owned(),
            ),
            PersonsProxy::NotListening(reason) => {
                Answer::Error(format!("this machine's proxy is not listening: {reason}"))
            }
            PersonsProxy::Listening(urls) => Answer::Proxy(urls.clone()),
        }
    }

    /// Carries one connection for `client`, from the answer to the end.
    pub(super) async fn connect(
        &self,
        mut client: BufReader<UnixStream>,
        host: &str,
        port: u16,
    ) -> std::io::Result<()> {
        let refuse = async |client: &mut BufReader<UnixStream>, text: String| {
            super::server::write(client, Answer::Error(text)).await
        };
        let Ok(_place) = self.connections.try_acquire() else {
            let text = format!("all {CONNECTIONS_MAX} connections through the control socket are in use");
            return refuse(&mut client, text).await;
        };
        let target = match Host::parse(host) {
            Ok(host) if port != 0 => Target { host, port },
            Ok(_) => return refuse(&mut client, "port 0 is none".to_owned()).await,
            Err(error) => return refuse(&mut client, error.to_string()).await,
        };
        let opened = tokio::select! {
            opened = self.outlet.open(&target) => opened,
            () = left(&mut client) => return Ok(()),
        };
        match opened {
            Err(refusal) => {
                tracing::debug!(
                    code = refusal.code(),
                    "refused a connection through the control socket"
                );
                refuse(&mut client, format!("cannot reach {target}: {refusal}")).await
            }
            Ok(stream) => {
                super::server::write(&mut client, Answer::Connected {}).await?;
                let reason = stream.carry(&mut client).await;
                tracing::debug!(?reason, "a connection through the control socket ended");
                Ok(())
            }
        }
    }
}

/// Resolves when the client has gone before it got its answer.
async fn left(client: &mut BufReader<UnixStream>) {
    match client.fill_buf().await {
        Ok([]) | Err(_) => {}
        // It speaks before it knows whether anybody listens; what it said is kept.
        Ok(_) => std::future::pending().await,
    }
}
