//! Connections for who has no port of the proxy: `orfe nc` comes through the daemon's own socket, containers come by a
//! [`Door`](super::Door) or a forwarder in this process.
//!
//! Who may use it is the caller's business; routing and waiting are the proxy's.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, Join};
use tokio::sync::watch;

use super::body::Body;
use super::connections::{CloseReason, Counters};
use super::lookup;
use super::reach::{self, Destination};
use super::routes::{Decision, Transport, Way};
use super::splice::{Side, Until, splice};
use super::{Host, Limits, Refusal, Routes, Target};
use crate::dial::Dialer;

/// Opens connections the way that the proxy would.
#[derive(Clone)]
pub struct Outlet {
    pub(super) limits: Limits,
    routes: watch::Receiver<Arc<Routes>>,
    dialer: watch::Receiver<Option<Arc<dyn Dialer>>>,
}

/// A connection to a destination.
pub struct OpenStream(Destination);

impl Outlet {
    /// An outlet; of the limits, `hold` and `dial` count, and for a door `head` and `connections`, and `lobby` where it is a port.
    pub fn new(
        limits: Limits,
        routes: watch::Receiver<Arc<Routes>>,
        dialer: watch::Receiver<Option<Arc<dyn Dialer>>>,
    ) -> Self {
        Self {
            limits,
            routes,
            dialer,
        }
    }

    /// Reaches a target, and waits for the tunnel as the proxy does. Dropping the future gives up.
    ///
    /// # Errors
    /// Why not.
    pub async fn open(&self, target: &Target) -> Result<OpenStream, Refusal> {
        let decision = self.routes.borrow().decide(target, Transport::Tcp);
        self.follow(target, decision).await
    }

    /// The same for names and ports of the policy, and for nothing else: what the proxy would dial directly is refused.
    ///
    /// # Errors
    /// Why not.
    pub async fn open_named(&self, target: &Target) -> Result<OpenStream, Refusal> {
        let decision = {
            let routes = self.routes.borrow();
            match &target.host {
                Host::Name(name) if routes.names(name, target.port) => routes.decide(target, Transport::Tcp),
                _ => return Err(Refusal::AddressRefused("no name and port of the policy")),
            }
        };
        self.follow(target, decision).await
    }

    async fn follow(&self, target: &Target, decision: Decision) -> Result<OpenStream, Refusal> {
        let destination = match decision {
            Decision::Refuse(refusal) => return Err(refusal),
            Decision::Go(Way::Tunnel(address)) => {
                reach::through_tunnel(self.dialer.clone(), address, &self.limits).await?
            }
            Decision::Go(Way::Lookup(found)) => {
                lookup::dial(self.dialer.clone(), &found, &self.limits).await?
            }
            Decision::Go(Way::Direct(rule)) => reach::directly(target, &rule, &self.limits).await?,
            Decision::Go(Way::Upstream(proxy)) => {
                // An outlet listens nowhere, so that the owner's proxy cannot be it.
                let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                reach::through_upstream(&proxy, Some(target), nowhere, &self.limits).await?
            }
        };
        Ok(OpenStream(destination))
    }
}

impl OpenStream {
    /// Copies both ways until both directions have ended, each on its own.
    pub async fn carry(self, client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> CloseReason {
        let (reader, writer) = tokio::io::split(client);
        self.join(&mut BufReader::new(tokio::io::join(reader, writer)))
            .await
    }

    /// Sends what the client has said already.
    pub(crate) async fn send(&mut self, first: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Destination::Socket(stream) => stream.write_all(first).await,
            Destination::Tunnel(stream) => stream.write_all(first).await,
        }
    }

    /// [`Self::carry`] for a client whose bytes need not pass through this process, where it is a socket.
    pub(crate) async fn join(mut self, client: &mut BufReader<impl Side>) -> CloseReason {
        let counters = Counters::default();
        let (body, until) = (Body::Unbounded, Until::BothEnd);
        let reason = match &mut self.0 {
            Destination::Socket(stream) => splice(client, stream, &counters, body, until).await,
            Destination::Tunnel(stream) => splice(client, stream, &counters, body, until).await,
        };
        if reason != CloseReason::Finished {
            self.0.abort();
        }
        reason
    }
}

/// Whatever an outlet's client is made of, it is carried through buffers.
impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Side for Join<R, W> {}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStream").finish_non_exhaustive()
    }
}
