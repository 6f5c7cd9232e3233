//! A static forward: a port of this machine that leads to one destination.
//!
//! It is for programs that know no proxy. Bytes pass from the first on, so there is no place for a credential: whoever
//! reaches the port reaches the destination. That is every user and program of this machine on a loopback address, and
//! web pages too as far as the destination answers what a browser can be made to send. Elsewhere than on loopback it
//! listens only where that was said in so many words ([`ForwardConfig::exposed`]).
//!
//! A destination is routed as everywhere: policy's through the tunnel or not at all. What cannot be reached is a reset.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::listen::{Entry, Listening};
use super::{ConnectionInfo, Filter, Limits, ProxyError, Routes, Target};
use crate::dial::Dialer;

/// What a forward needs to start.
#[derive(Debug, Clone)]
pub struct ForwardConfig {
    /// Where to listen; port 0 takes any free port.
    pub listen: SocketAddr,
    /// Where it leads.
    pub to: Target,
    /// Lets it listen on an address that others can reach.
    pub exposed: bool,
    /// The bounds.
    pub limits: Limits,
}

/// A running forward. Dropping it stops it without waiting; [`Forward::shutdown`] waits.
pub struct Forward(Listening);

impl Forward {
    /// Starts listening.
    ///
    /// # Errors
    /// [`ProxyError::Bind`], and [`ProxyError::NotLoopback`] unless it is meant to be exposed.
    pub async fn start(
        config: ForwardConfig,
        routes: watch::Receiver<Arc<Routes>>,
        dialer: watch::Receiver<Option<Arc<dyn Dialer>>>,
    ) -> Result<Self, ProxyError> {
        let ForwardConfig {
            listen,
            to,
            exposed,
            limits,
        } = config;
        if !exposed && !listen.ip().is_loopback() {
            return Err(ProxyError::NotLoopback(listen));
        }
        let listening = Listening::start(listen, Entry::Forward(to), limits, routes, dialer).await?;
        Ok(Self(listening))
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.shared.local_addr
    }

    /// Every live connection, the oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.0.shared.connections.list()
    }

    /// Cuts the matching connections; see [`super::Proxy::cut`].
    pub fn cut(&self, filter: &Filter) -> usize {
        self.0.shared.connections.cut(filter)
    }

    /// Stops listening, closes every connection and waits until the last task has ended.
    pub async fn shutdown(self) {
        self.0.shutdown().await;
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("local_addr", &self.local_addr())
            .finish_non_exhaustive()
    }
}
