//! Dialling, whichever TCP stack answers.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::hosted::HostDialer;
use super::namespaced::NamespaceDialer;
use super::smoltcp::SmoltcpDialer;
use super::{MAX_CONNECTIONS, Phase, TunnelStatus};
use crate::connections::OpenError;
use crate::dial::{BoxFuture, BoxedDatagrams, BoxedStream, DialError, Dialer};

/// How long a dial waits for an answer unless [`TunnelDialer::with_timeout`] says otherwise.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Attempts of one dial that may be under way at a time. More would only cost the gateway connections.
const MAX_ATTEMPTS: usize = 3;

/// Opens connections through a [`Tunnel`](super::Tunnel).
#[derive(Debug, Clone)]
pub struct TunnelDialer {
    way: Way,
    status: watch::Receiver<TunnelStatus>,
    timeout: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Way {
    Smoltcp(SmoltcpDialer),
    Namespace(NamespaceDialer),
    Host(HostDialer),
}

/// Why a TCP stack opened no connection.
#[derive(Debug)]
pub(super) enum DialFailure {
    Refused,
    TooMany,
    /// By the stack's own patience.
    TimedOut,
    /// The stack has ended.
    Gone,
    Io(io::Error),
}

impl DialFailure {
    pub(super) fn unaddressable() -> Self {
        Self::Io(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the tunnel has no address of its family, or it cannot be dialled",
        ))
    }
}

impl From<OpenError> for DialFailure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::TooMany => Self::TooMany,
            OpenError::Refused => Self::Refused,
            OpenError::TimedOut => Self::TimedOut,
            OpenError::Gone => Self::Gone,
            OpenError::Unaddressable => Self::unaddressable(),
            OpenError::Io(error) => Self::Io(error),
        }
    }
}

impl TunnelDialer {
    pub(super) fn new(way: Way, status: watch::Receiver<TunnelStatus>) -> Self {
        Self {
            way,
            status,
            timeout: DIAL_TIMEOUT,
        }
    }

    /// The same dialer with another bound on the time that a dial may take (15 s by default).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects to `destination`. Dropping the future abandons the attempt.
    pub async fn connect(&self, destination: SocketAddr) -> Result<BoxedStream, DialError> {
        let down = DialError::TunnelDown { destination };
        if self.phase() == Phase::Down {
            match &self.way {
                Way::Smoltcp(dialer) => dialer.nudge().await,
                Way::Namespace(dialer) => dialer.nudge(),
                Way::Host(dialer) => dialer.nudge(),
            }
            return Err(down);
        }
        match tokio::time::timeout(self.timeout, self.first_of_attempts(destination)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(DialFailure::Refused)) => Err(DialError::Refused { destination }),
            Ok(Err(DialFailure::TooMany)) => Err(DialError::TooMany {
                destination,
                limit: MAX_CONNECTIONS,
            }),
            Ok(Err(DialFailure::Io(source))) => Err(DialError::Io { destination, source }),
            Ok(Err(DialFailure::Gone)) => Err(down),
            Ok(Err(DialFailure::TimedOut)) | Err(_) if self.phase() != Phase::Up => Err(down),
            Ok(Err(DialFailure::TimedOut)) | Err(_) => Err(DialError::TimedOut {
                destination,
                after: self.timeout,
            }),
        }
    }

    /// Connects, and again beside that whenever a handshake is completed meanwhile: the path may be another one, or the
    /// gateway; then the first SYN is lost, and TCP repeats it only after 1, 3 and 7 s. The first answer counts.
    async fn first_of_attempts(&self, destination: SocketAddr) -> Result<BoxedStream, DialFailure> {
        let mut status = self.status.clone();
        let mut known = status.borrow_and_update().last_handshake;
        let mut attempts = FuturesUnordered::from_iter([self.attempt(destination)]);
        loop {
            tokio::select! {
                Some(outcome) = attempts.next() => match outcome {
                    Err(DialFailure::TimedOut | DialFailure::Io(_)) if !attempts.is_empty() => {}
                    outcome => return outcome,
                },
                () = new_handshake(&mut status, &mut known), if attempts.len() < MAX_ATTEMPTS => {
                    attempts.push(self.attempt(destination));
                }
            }
        }
    }

    async fn attempt(&self, destination: SocketAddr) -> Result<BoxedStream, DialFailure> {
        match &self.way {
            Way::Smoltcp(dialer) => dialer.connect(destination).await,
            Way::Namespace(dialer) => dialer.connect(destination).await,
            Way::Host(dialer) => dialer.connect(destination).await,
        }
    }

    fn phase(&self) -> Phase {
        self.status.borrow().phase
    }
}

/// Waits for a later handshake than the one that is `known`, for ever when the tunnel has ended.
async fn new_handshake(status: &mut watch::Receiver<TunnelStatus>, known: &mut Option<Instant>) {
    let is_new = |status: &TunnelStatus| status.last_handshake != *known;
    let latest = status.wait_for(is_new).await.map(|status| status.last_handshake);
    match latest {
        Ok(latest) => *known = latest,
        Err(_) => std::future::pending().await,
    }
}

impl Dialer for TunnelDialer {
    fn dial(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedStream, DialError>> {
        Box::pin(self.connect(destination))
    }

    fn bind_datagrams(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedDatagrams, DialError>> {
        Box::pin(async move {
            let bound = match &self.way {
                Way::Smoltcp(dialer) => dialer.bind_datagrams(destination).await,
                Way::Namespace(dialer) => dialer.bind_datagrams(destination).await,
                Way::Host(dialer) => dialer.bind_datagrams(destination).await,
            };
            bound.map_err(|source| DialError::Io { destination, source })
        })
    }
}
