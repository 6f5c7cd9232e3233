//! Dialling, whichever TCP stack answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::hosted::HostDialer;
use super::namespaced::NamespaceDialer;
use super::smoltcp::SmoltcpDialer;
use super::{MAX_CONNECTIONS, Phase, TunnelStatus};
use crate::connections::OpenError;
use crate::dial::{BoxFuture, BoxedDatagrams, BoxedStream, DialError, Dialer};

/// How long a dial waits for an answer unless [`TunnelDialer::with_timeout`] says otherwise.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);

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
        let attempt = async {
            match &self.way {
                Way::Smoltcp(dialer) => dialer.connect(destination).await,
                Way::Namespace(dialer) => dialer.connect(destination).await,
                Way::Host(dialer) => dialer.connect(destination).await,
            }
        };
        match tokio::time::timeout(self.timeout, attempt).await {
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

    fn phase(&self) -> Phase {
        self.status.borrow().phase
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
