//! Reaching a destination: through the tunnel, directly, or through the owner's proxy.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Limits;
use super::connect::connect_any;
use super::receive::buffered;
use super::refusal::Refusal;
use super::routes::AddressRule;
use super::target::{Host, Target};
use super::upstream::UpstreamProxy;
use crate::dial::{BoxedStream, DialError, Dialer};

/// How often a dialer that says "tunnel down" is asked again while a request is held. A dialer that is replaced is asked
/// at once; this is for one that comes up by itself.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The watched dialer of the tunnel; `None` while there is no tunnel.
pub(super) type WatchedDialer = watch::Receiver<Option<Arc<dyn Dialer>>>;

/// A connection to the destination, or to the owner's proxy in front of it.
///
/// The buffer may hold the first bytes of an answer that were read together with a head.
pub(super) enum Destination {
    Socket(BufReader<TcpStream>),
    Tunnel(BufReader<BoxedStream>),
}

impl Destination {
    /// Closes at once: a socket with a reset, a tunnel's stream by letting go of it.
    pub(super) fn abort(self) {
        if let Self::Socket(stream) = self {
            reset_on_close(stream.get_ref());
        }
    }
}

/// Makes closing the socket a reset. On failure it is an ordinary close, which the peer notices as well.
pub(super) fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "could not make the close a reset");
    }
}

/// Dials an inner address, and waits for the tunnel as long as `limits.hold` allows.
///
/// How long one dial takes is the dialer's own business, which knows the tunnel; all of it ends after `limits.hold` and
/// `limits.dial` together.
pub(super) async fn through_tunnel(
    dialer: WatchedDialer,
    address: SocketAddr,
    limits: &Limits,
) -> Result<Destination, Refusal> {
    let stream = held(dialer, address, limits).await?;
    Ok(Destination::Tunnel(buffered(stream)))
}

/// The same, as the tunnel's own stream.
pub(super) async fn held(
    mut dialer: WatchedDialer,
    address: SocketAddr,
    limits: &Limits,
) -> Result<BoxedStream, Refusal> {
    let held_until = Instant::now() + limits.hold;
    loop {
        let current = dialer.borrow_and_update().clone();
        if let Some(current) = current {
            let dialled = timeout_at(held_until + limits.dial, current.dial(address)).await;
            let dialled = dialled.map_err(|_| Refusal::DialTimedOut)?;
            match dialled {
                Ok(stream) => return Ok(stream),
                Err(DialError::TunnelDown { .. }) => {}
                Err(error) => return Err(refusal_of(&error)),
            }
        }
        let changed = async {
            if dialer.changed().await.is_err() {
                // Whoever gave the dialers is gone; what is there may still come up.
                std::future::pending::<()>().await;
            }
        };
        let wait = async {
            tokio::select! {
                () = changed => {}
                () = sleep(ASK_AGAIN_AFTER) => {}
            }
        };
        if timeout_at(held_until, wait).await.is_err() {
            return Err(Refusal::TunnelDown(limits.hold));
        }
    }
}

pub(super) fn refusal_of(error: &DialError) -> Refusal {
    match error {
        DialError::Refused { .. } => Refusal::DialFailed,
        DialError::TimedOut { .. } => Refusal::DialTimedOut,
        DialError::TunnelDown { .. } => Refusal::TunnelDown(Duration::ZERO),
        DialError::TooMany { .. } => Refusal::TunnelFull,
        DialError::Io { source, .. } => {
            tracing::warn!(%error, %source, "a dial through the tunnel failed");
            Refusal::DialFailed
        }
    }
}

/// Resolves and dials from this machine's own network.
pub(super) async fn directly(
    target: &Target,
    rule: &AddressRule,
    limits: &Limits,
) -> Result<Destination, Refusal> {
    let dial = async { connected(resolve(target, |address| rule.check(address)).await?).await };
    let stream = timeout(limits.dial, dial)
        .await
        .map_err(|_| Refusal::DialTimedOut)??;
    Ok(Destination::Socket(buffered(stream)))
}

/// Dials the owner's proxy, and with `connect` asks it for a connection to the target. The proxy may be on this machine:
/// its owner said so. It may not be the proxy that asks (`own`), which would go round for ever.
pub(super) async fn through_upstream(
    proxy: &UpstreamProxy,
    connect: Option<&Target>,
    own: SocketAddr,
    limits: &Limits,
) -> Result<Destination, Refusal> {
    let dial = async {
        let not_own = |address| {
            if SocketAddr::new(address, proxy.address().port) == own {
                Err(Refusal::AddressRefused("this proxy itself"))
            } else {
                Ok(())
            }
        };
        let stream = connected(resolve(proxy.address(), not_own).await?).await?;
        match connect {
            Some(target) => proxy.connect(stream, target).await,
            None => Ok(buffered(stream)),
        }
    };
    Ok(Destination::Socket(
        timeout(limits.dial, dial)
            .await
            .map_err(|_| Refusal::DialTimedOut)??,
    ))
}

/// The addresses of a target that `check` allows, in the system's order of preference.
pub(super) async fn resolve(
    target: &Target,
    check: impl Fn(IpAddr) -> Result<(), Refusal>,
) -> Result<Vec<SocketAddr>, Refusal> {
    let found: Vec<SocketAddr> = match &target.host {
        Host::Ip(address) => vec![SocketAddr::new(*address, target.port)],
        Host::Name(name) => match tokio::net::lookup_host((name.as_str(), target.port)).await {
            Ok(found) => found.collect(),
            Err(error) => {
                tracing::debug!(%error, "a name does not resolve");
                return Err(Refusal::NameNotResolved);
            }
        },
    };
    let mut refusal = Refusal::NameNotResolved;
    let mut allowed = Vec::with_capacity(found.len());
    for address in found {
        match check(address.ip()) {
            Ok(()) => allowed.push(address),
            Err(reason) => refusal = reason,
        }
    }
    if allowed.is_empty() {
        Err(refusal)
    } else {
        Ok(allowed)
    }
}

async fn connected(addresses: Vec<SocketAddr>) -> Result<TcpStream, Refusal> {
    connect_any(addresses).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => Refusal::DialTimedOut,
        _ => Refusal::DialFailed,
    })
}
